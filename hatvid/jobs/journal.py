"""What is done of a job: a folder beside its output, from which the same command goes on.

::

    .NAME.hatvid/        readable by its owner alone
        lock             held as long as a run works here; dies with it
        job.json         Header: what the packets hang on, and where segments lie
        00000.nut        a segment, whole
        00000.json       Record of it, written after it
        .*.part          something unfinished, worth nothing

Everything gets its name only when it is whole and on the disk. What is read back is
checked: a journal is data, and names nothing that lies elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout
from pydantic import ValidationError

from hatvid.errors import OutputError, OutputExistsError, UsageError
from hatvid.jobs.partial import PartialFile, store
from hatvid.jobs.records import Header, Record, differences

__all__ = ["Journal", "folder_for"]

_SUFFIX = ".hatvid"
_NAME_BYTES = 200


def folder_for(output: Path) -> Path:
    """Where the journal of an output lies."""
    name = output.name
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:50] + "-" + hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return output.with_name(f".{name}{_SUFFIX}")


class Journal:
    """The folder of one job, locked for this run; use it in a ``with`` block.

    Args:
        output: of the job.
        shard: (k, n) where others work on other parts at the same time.
        restart: forget what lies there.

    Raises:
        OutputError: somebody else works there, or it cannot be made.
    """

    def __init__(
        self, output: Path, *, shard: tuple[int, int] | None = None, restart: bool = False
    ) -> None:
        self.output = output
        self._anew = restart
        self.folder = folder_for(output)
        self._shard = shard
        self._locks: list[FileLock] = []
        self._gone = False
        self.header: Header | None = None
        """As it lies there, if it does."""

    def __enter__(self) -> Self:
        try:
            self._make()
            self._lock()
            if self._anew:
                self.restart()
            else:
                self.header = self._read_header()
            if self._shard is None:
                self._sweep()
        except BaseException as error:
            # A signal may come between making the folder and knowing it.
            if not isinstance(error, OutputError):
                self._leave()
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
        self._release()

    def begin(self, header: Header) -> None:
        """Write the header; or, if there is one, see that this is the same job.

        Raises:
            UsageError: it is another one.
            OutputError: the disk refuses.
        """
        if self.header is None:
            try:
                store(self.folder / "job.json", header.model_dump_json(indent=1).encode())
            except OutputExistsError:  # another shard was first
                self.header = self._read_header()
            else:
                self.header = header
        assert self.header is not None
        if changes := differences(self.header, header):
            raise UsageError(
                f"{self.folder.name} holds an unfinished run of other settings ({changes}); give "
                "those again to go on with it, or --restart to begin anew"
            )

    def restart(self) -> None:
        """Forget everything that is done."""
        self.header = None
        for pattern in ("job.json", "*.json", "*.nut", ".*.part"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def peek(self) -> Header | None:
        """The header, without a lock; None where there is none.

        Raises:
            OutputError: it cannot be believed.
        """
        return self._read_header()

    def in_use(self) -> bool:
        """Whether somebody works here now."""
        locks = [FileLock(path, timeout=0) for path in self.folder.glob("lock*")]
        for lock in locks:
            try:
                lock.acquire()
            except (Timeout, OSError):
                return True
            lock.release()
        return False

    def record(self, number: int) -> Record | None:
        """What is known of a finished segment, None where it is to be done (again)."""
        assert self.header is not None
        try:
            data = self._entry(number, ".json").read_bytes()
            record = Record.model_validate_json(data)
            size = self._entry(number, ".nut").stat().st_size
        except (OSError, ValidationError):
            return None
        whole = (record.job, record.number, record.size) == (self.header.key, number, size)
        return record if whole else None

    def segment(self, number: int) -> Path:
        """Where a finished segment lies."""
        return self._entry(number, ".nut")

    def discard(self, number: int) -> None:
        """Let a segment be done again."""
        self._entry(number, ".json").unlink(missing_ok=True)
        self._entry(number, ".nut").unlink(missing_ok=True)

    def partial(self, *, overwrite: bool) -> PartialFile:
        """The output before it gets its name, in this folder."""
        return PartialFile(self.output, overwrite=overwrite, folder=self.folder)

    def remove(self) -> None:
        """Take the whole journal away: the output is there, or nothing was done."""
        self._gone = True
        away = self.folder.with_name(f"{self.folder.name}.{secrets.token_hex(4)}.gone")
        with contextlib.suppress(OSError):
            self.folder.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def _make(self) -> None:
        if self.output.is_symlink():
            raise OutputError(
                f"{self.output} is a link to elsewhere; name the file itself, or remove the link"
            )
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be made ({error.strerror}); choose another place with -o"
            ) from error
        if self.folder.is_symlink():
            raise OutputError(
                f"{self.folder} is a link to elsewhere, and is not followed; remove it"
            )

    def _leave(self) -> None:
        """Nothing is lost with a journal that has nothing."""
        if self._shard is None and not self._gone and not any(self.folder.glob("*.nut")):
            self.remove()

    def _lock(self) -> None:
        own = "lock" if self._shard is None else f"lock.{self._shard[0]}-of-{self._shard[1]}"
        self._acquire(own, keep=True)
        # A whole run and shards see each other, whoever comes first.
        others = ["lock"] if self._shard else [p.name for p in self.folder.glob("lock.*")]
        for name in others:
            self._acquire(name, keep=False)

    def _acquire(self, name: str, *, keep: bool) -> None:
        lock = FileLock(self.folder / name, timeout=0)
        try:
            lock.acquire()
        except (Timeout, OSError) as error:
            raise OutputError(
                f"another hatvid is working on {self.output}; wait until it is done, or stop it"
            ) from error
        if keep:
            self._locks.append(lock)
        else:
            lock.release()

    def _release(self) -> None:
        for lock in self._locks:
            lock.release()
        self._locks.clear()

    def _read_header(self) -> Header | None:
        path = self.folder / "job.json"
        try:
            return Header.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            what = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
            raise OutputError(
                f"{path} cannot be believed ({what}); begin anew with --restart"
            ) from error

    def _sweep(self) -> None:
        for path in self.folder.glob(".*.part"):
            path.unlink(missing_ok=True)

    def _entry(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:05d}{suffix}"
