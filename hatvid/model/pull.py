"""Fetch a checkpoint: resumed where it broke off, and believed only by its SHA-256.

What arrives lies under a hidden name until it is whole, checked and on the disk. A server
may break off, lie about sizes, send something else, never end, or point elsewhere: then
the next mirror is asked, and if there is none the error says what each of them did.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import filelock

from hatvid.errors import CheckpointError
from hatvid.model.catalog import KnownModel, file_sha256

__all__ = ["pull"]

MOST = 2 * 1024**3
"""Bytes after which a file of unknown size is given up: six times the largest known one."""

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte."""

REDIRECTS = 5
ATTEMPTS = 5
"""At one mirror, each going on where the one before broke off."""


class _RefusedError(Exception):
    """A mirror is of no use; its text says why."""


class _BrokenOffError(Exception):
    """A mirror stopped midway; what came is kept."""


def pull(
    model: KnownModel,
    folder: Path,
    *,
    mirrors: Sequence[str] | None = None,
    insecure: bool = False,
    advanced: Callable[[int, int | None], None] = lambda done, total: None,
    said: Callable[[str], None] = lambda text: None,
) -> Path:
    """Fetch one checkpoint, unless it is there.

    Args:
        model: which one.
        folder: made if it is not there.
        mirrors: addresses to ask in this order, in place of the known ones.
        insecure: http is allowed beside https. The SHA-256 is checked all the same.
        advanced: told how many bytes are here, and of how many, if that is known.
        said: told in one line why a mirror was given up.

    Returns:
        The file, whole and checked.

    Raises:
        CheckpointError: no mirror gave it, or it cannot be stored. What came of it is
            kept, and the next call goes on from there.
    """
    target = folder / model.filename
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f".{model.filename}.lock", timeout=0)
        with lock:
            if target.is_file() and file_sha256(target) == model.sha256:
                return target
            _fetch(_Fetch(model, folder, insecure, advanced), mirrors or model.mirrors, said)
    except filelock.Timeout:
        raise CheckpointError(
            f"{model.name} is being pulled by another run; wait until that has ended"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{model.name} cannot be stored in {folder} ({error.strerror or error}); free some "
            "space, or name another folder in HATVID_MODELS"
        ) from error
    return target


def _fetch(fetch: _Fetch, mirrors: Sequence[str], said: Callable[[str], None]) -> None:
    model = fetch.model
    reasons = []
    for url in mirrors:
        try:
            fetch.from_mirror(url)
            fetch.publish()
            return
        except _RefusedError as refusal:
            reasons.append(f"{url}: {refusal}")
            said(reasons[-1])
    kept = fetch.part.stat().st_size if fetch.part.exists() else 0
    again = f"; {kept} bytes are kept, the next try goes on from there" if kept else ""
    raise CheckpointError(
        f"{model.name} could not be pulled ({'; '.join(reasons) or 'no address is known'}){again}; "
        f"or put {model.filename} into {fetch.folder} by hand"
    )


@dataclass
class _Fetch:
    """One file on its way."""

    model: KnownModel
    folder: Path
    insecure: bool
    advanced: Callable[[int, int | None], None]

    @property
    def part(self) -> Path:
        return self.folder / f".{self.model.filename}.part"

    @property
    def note(self) -> Path:
        """Beside the part: from which address, and which version of it."""
        return self.folder / f".{self.model.filename}.version"

    def from_mirror(self, url: str) -> None:
        """Leave the whole, checked file in ``part``."""
        _check_address(url, self.insecure)
        resumed = self._size() > 0
        for attempt in range(ATTEMPTS):
            before = self._size()
            try:
                self._request(url)
            except _BrokenOffError as broken:
                # Once more only if it is worth it: a server that sends nothing is not.
                if self._size() <= before or attempt == ATTEMPTS - 1:
                    raise _RefusedError(str(broken)) from None
                continue
            found = file_sha256(self.part)
            if found == self.model.sha256:
                return
            self._forget()
            if not resumed:
                raise _RefusedError(
                    f"sent another file (SHA-256 {found[:12]}... instead of "
                    f"{self.model.sha256[:12]}...)"
                )
            resumed = False  # the first bytes may have been of another version
        raise _RefusedError("broke off again and again")

    def publish(self) -> None:
        with self.part.open("rb+") as file:
            os.fsync(file.fileno())
        self.part.replace(self.folder / self.model.filename)
        self.note.unlink(missing_ok=True)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _request(self, url: str) -> None:
        """Ask once for what is missing, and append it."""
        have = self._size()
        if self.model.size is not None and have >= self.model.size:
            if have == self.model.size:
                return  # whole, only not checked yet
            self._forget()
            have = 0
        headers = {"Accept-Encoding": "identity", "User-Agent": "hatvid"}
        if have:
            headers["Range"] = f"bytes={have}-"
            address, _, version = self._noted().partition("\n")
            if address == url and version:
                headers["If-Range"] = version
        try:
            with _opener(self.insecure).open(
                urllib.request.Request(url, headers=headers), timeout=TIMEOUT
            ) as response:
                self._receive(url, response, have)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and have:  # the part is longer than the file, or as long
                self._forget()
                raise _RefusedError(
                    "has less than what is here; it was dropped, try again"
                ) from None
            raise _RefusedError(f"HTTP {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise _RefusedError(f"cannot be reached ({error.reason})") from None
        except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
            raise _BrokenOffError(f"broke off ({str(error) or type(error).__name__})") from None

    def _receive(self, url: str, response: Any, have: int) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise _RefusedError(f"sends the file as {encoding}")
        if response.status == 206:
            found = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", response.headers["Content-Range"] or ""
            )
            if found is None or int(found[1]) != have:
                raise _RefusedError("sends another part than was asked for")
            total = None if found[2] == "*" else int(found[2])
        else:
            have = 0
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        known = self.model.size
        if known is not None and total not in (None, known):
            raise _RefusedError(f"offers {total} bytes instead of {known}")
        total = known if known is not None else total
        limit = MOST if total is None else total
        if limit > MOST:
            raise _RefusedError(f"offers {limit} bytes, more than any checkpoint has")
        free = shutil.disk_usage(self.folder).free
        if total is not None and free < total - have:
            raise OSError(None, f"{total - have} bytes are missing and {free} are free")
        version = response.headers.get("ETag", "")
        self.note.write_text(f"{url}\n{version if not version.startswith('W/') else ''}")
        with self.part.open("ab" if have else "wb") as file:
            while True:
                # One byte more than there should be shows a body that does not end.
                chunk = response.read(min(CHUNK, limit - have + 1))
                if not chunk:
                    break
                have += len(chunk)
                if have > limit:
                    file.close()
                    self._forget()
                    raise _RefusedError(f"sends more than {limit} bytes")
                file.write(chunk)
                self.advanced(have, total)
        if total is not None and have < total:
            raise _BrokenOffError(f"broke off after {have} of {total} bytes")

    def _noted(self) -> str:
        try:
            return self.note.read_text()
        except (OSError, UnicodeDecodeError):
            return ""


def _check_address(url: str, insecure: bool) -> None:
    scheme = urlsplit(url).scheme.lower()
    if scheme == "http" and not insecure:
        raise _RefusedError("http is not encrypted; allow it with --insecure-http")
    if scheme not in ("https", "http"):
        raise _RefusedError(f"{scheme or 'no'} scheme; https is asked for")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect to another scheme."""

    max_redirections = REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme.lower()
        from_https = urlsplit(req.full_url).scheme.lower() == "https"
        if scheme not in ("https", "http") or (scheme == "http" and from_https):
            raise _RefusedError(f"redirects to {scheme}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, *args: Any, **kwargs: Any) -> Any:
        # urllib looks at the scheme itself, and says so at length.
        target = args[4].get("location") or args[4].get("uri") or ""
        scheme = urlsplit(target).scheme.lower()
        if scheme not in ("", "https", "http"):
            raise _RefusedError(f"redirects to {scheme}, which is not followed")
        return super().http_error_302(*args, **kwargs)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener(insecure: bool) -> urllib.request.OpenerDirector:
    """Speaks https, and http if it may; no file:, no ftp:, no data:."""
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPSHandler(),
        _Redirects(),
    ]
    if insecure:
        handlers.append(urllib.request.HTTPHandler())
    for handler in handlers:
        opener.add_handler(handler)
    return opener
