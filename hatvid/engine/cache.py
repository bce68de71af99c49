"""Compiled models on disk.

One file holds one compiled model: a magic number, the SHA-256 of what follows,
and the data. A file that does not agree with its digest is deleted and the model
built anew. Files appear whole (written beside, then renamed), so that readers and
writers of several runs do not disturb each other.

The folder belongs to the user alone (mode 0700). What lies in it is handed to a
compiled library as it is, so a folder that others may write to is not used.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import os
import stat
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import nn

__all__ = [
    "CACHE_LIMIT",
    "ModelCache",
    "code_hash",
    "default_cache_dir",
    "hatvid_version",
    "library_version",
    "package_hash",
]

CACHE_LIMIT = 4 * 1024**3
"""Bytes that the files of one folder may take together; beyond, those not used for
longest are deleted."""

_MAGIC = b"hatvid-cache-1\n\0"
_SUFFIX = ".model"
_STALE_SECONDS = 24 * 3600

_log = logging.getLogger(__name__)


def default_cache_dir(engine: str) -> Path:
    """Where an engine keeps compiled models: ``hatvid/ENGINE`` in the user's cache folder."""
    import platformdirs  # where nothing is kept, it need not be there

    return Path(platformdirs.user_cache_dir("hatvid", appauthor=False)) / engine


def code_hash(module: nn.Module) -> str:
    """SHA-256 over the source of the packages that the module's classes come from.

    The same weights mean another model once the code around them changed, and in a
    checkout it changes without the version.
    """
    files: set[Path] = set()
    for kind in {type(part) for part in module.modules()}:
        if kind.__module__.partition(".")[0] == "torch":
            continue
        try:
            file = Path(inspect.getfile(kind))
        except (OSError, TypeError):  # typed into a prompt
            continue
        inside = getattr(sys.modules.get(kind.__module__), "__package__", None)
        files.update(file.parent.glob("*.py") if inside else [file])
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@cache
def package_hash(name: str) -> str:
    """SHA-256 over the source files of one package, by its dotted name."""
    digest = hashlib.sha256()
    for file in sorted(Path(inspect.getfile(importlib.import_module(name))).parent.glob("*.py")):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@cache
def hatvid_version() -> str:
    """The installed version; empty in a checkout that is not installed."""
    try:
        return version("hatvid")
    except PackageNotFoundError:
        return ""


@cache
def library_version(engine: str) -> str:
    """Of the library beside PyTorch that an engine runs on; empty where there is none."""
    library = {"openvino": "openvino", "tensorrt": "torch-tensorrt"}.get(engine)
    try:
        return version(library) if library else ""
    except PackageNotFoundError:
        return ""


class ModelCache:
    """Compiled models in one folder, found again by key.

    A cache that cannot be used costs time, never a run: each failure is logged
    in one line, reads then find nothing and writes write nothing.

    Args:
        folder: made, with mode 0700, if it is not there.
        limit: bytes that all files may take together.
    """

    def __init__(self, folder: Path, *, limit: int = CACHE_LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._usable = _make_private(folder)

    def read(self, key: str) -> bytes | None:
        """The data stored under ``key``, or None."""
        if not self._usable:
            return None
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("compiled model %s cannot be read (%s); building it", path, error)
            return None
        head = len(_MAGIC) + hashlib.sha256().digest_size
        data = content[head:]
        if content[:head] != _MAGIC + hashlib.sha256(data).digest():
            _log.warning("compiled model %s is damaged; building it anew", path)
            self.drop(key)
            return None
        with suppress(OSError):
            os.utime(path)
        return data

    def write(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key``, in place of what was there."""
        size = len(_MAGIC) + hashlib.sha256().digest_size + len(data)
        if not self._usable or size > self._limit:
            return
        try:
            number, name = tempfile.mkstemp(dir=self._folder, prefix=".new-", suffix=_SUFFIX)
            new = Path(name)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(_MAGIC + hashlib.sha256(data).digest())
                    file.write(data)
                new.replace(self._path(key))
            except BaseException:
                with suppress(OSError):
                    new.unlink()
                raise
        except OSError as error:
            _log.warning("compiled model is not kept in %s (%s)", self._folder, error)
            return
        self._evict(keep=self._path(key))

    def drop(self, key: str) -> None:
        """Forget what is stored under ``key``."""
        if self._usable:
            with suppress(OSError):
                self._path(key).unlink()

    def _path(self, key: str) -> Path:
        return self._folder / (key + _SUFFIX)

    def _evict(self, keep: Path) -> None:
        """Delete the files not used for longest until the rest fits the limit."""
        found: list[tuple[float, int, Path]] = []
        now = time.time()
        for path in self._folder.glob("*" + _SUFFIX):
            # Another run may delete a file between listing and looking.
            with suppress(OSError):
                status = path.stat()
                if not path.name.startswith("."):
                    found.append((status.st_mtime, status.st_size, path))
                elif now - status.st_mtime > _STALE_SECONDS:
                    path.unlink()
        excess = sum(size for _, size, _ in found) - self._limit
        for _, size, path in sorted(found):
            if excess <= 0:
                break
            if path != keep:
                with suppress(OSError):
                    path.unlink()
                excess -= size


def _make_private(folder: Path) -> bool:
    """Make the folder, and say whether only this user can write to it."""
    try:
        for parent in reversed(folder.parents):
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        _log.warning("compiled models are not kept: %s cannot be made (%s)", folder, error)
        return False
    if not stat.S_ISDIR(status.st_mode):
        _log.warning("compiled models are not kept: %s is no folder", folder)
        return False
    if hasattr(os, "geteuid"):
        if status.st_uid != os.geteuid():
            _log.warning("compiled models are not kept: %s belongs to another user", folder)
            return False
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            _log.warning(
                "compiled models are not kept: others may write to %s; run chmod 700 on it", folder
            )
            return False
    return True
