"""Files that appear under their names only when they are whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from hatvid.errors import OutputError, OutputExistsError

__all__ = ["PartialFile", "settle", "store"]


class PartialFile:
    """Write beside ``path`` under a hidden name; :meth:`publish` gives it its name.

    Entering the ``with`` block makes the file; leaving it without having published
    removes what was written, whatever happens and whenever. Until it has its name, nobody
    else can read it.

    Args:
        path: the final name.
        overwrite: replace a file of that name.
        folder: where it lies until then, on the same disk; None is beside ``path``.

    Raises:
        OutputError: nothing can be written there.
    """

    def __init__(self, path: Path, *, overwrite: bool, folder: Path | None = None) -> None:
        self._path = path
        self._overwrite = overwrite
        name = path.name[:50]  # up to 200 bytes; names end at 255
        self._temporary = (folder or path.parent) / f".{name}.{secrets.token_hex(4)}.part"

    def __enter__(self) -> Self:
        try:
            # O_EXCL: a name planted there by somebody else is not followed.
            descriptor = os.open(
                self._temporary,
                os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0),
                0o600,
            )
            self.file: BinaryIO = os.fdopen(descriptor, "w+b", buffering=1 << 20)
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written ({error.strerror}); choose another place with -o"
            ) from error
        except BaseException:  # a signal, between making the file and noting that it is there
            self._temporary.unlink(missing_ok=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk: the file goes anyway
            self.file.close()
        self._temporary.unlink(missing_ok=True)

    @property
    def written(self) -> Path:
        """Where the data lies until it gets its name."""
        return self._temporary

    def seal(self) -> None:
        """Bring the data to the disk.

        Raises:
            OutputError: the disk refuses.
        """
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
        except OSError as error:
            raise self.refused(error) from error

    def publish(self) -> None:
        """Give the sealed file its name.

        Raises:
            OutputError: the disk refuses.
            OutputExistsError: meanwhile a file of that name has appeared.
        """
        try:
            if self._overwrite:
                self._open_to_others()
                self._temporary.replace(self._path)
            else:
                self._claim(self._path)
        except FileExistsError as error:
            raise OutputExistsError(
                f"{self._path} has appeared meanwhile; use --overwrite to replace it"
            ) from error
        except OSError as error:
            raise self.refused(error) from error

    def set_aside(self) -> Path:
        """Give the sealed file a name of its own, ``NAME.unverified.EXT``.

        Returns:
            The name; a number is added to one that is taken.

        Raises:
            OutputError: the disk refuses.
        """
        for number in count(1):
            word = "unverified" if number == 1 else f"unverified{number}"
            path = self._path.with_name(f"{self._path.stem[:50]}.{word}{self._path.suffix}")
            try:
                self._claim(path)
            except FileExistsError:
                continue
            except OSError as error:
                raise self.refused(error) from error
            return path
        raise AssertionError("numbers do not end")

    def refused(self, error: OSError) -> OutputError:
        """What a disk that refuses means to the user."""
        return OutputError(
            f"{self._path} cannot be written ({error.strerror}); free some space, or choose "
            "another place with -o"
        )

    def _open_to_others(self) -> None:
        """Give the file the rights that a new one has."""
        mask = os.umask(0o077)  # it cannot be read without being set
        os.umask(mask)
        with contextlib.suppress(OSError):  # not every file system knows rights
            self._temporary.chmod(0o666 & ~mask)

    def _claim(self, path: Path) -> None:
        self._open_to_others()
        try:
            os.link(self._temporary, path)  # fails if the name is taken, unlike a rename
        except FileExistsError:
            raise
        except OSError:  # no hard links on this file system
            if os.path.lexists(path):
                raise FileExistsError(path) from None
            self._temporary.rename(path)


def store(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file that is there whole, or not at all, whatever happens.

    Raises:
        OutputExistsError: it is there, and may not be overwritten.
        OutputError: the disk refuses.
    """
    with PartialFile(path, overwrite=overwrite) as partial:
        try:
            partial.file.write(data)
        except OSError as error:
            raise partial.refused(error) from error
        partial.seal()
        partial.publish()
    settle(path.parent)


def settle(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
