"""Files and folders that are there whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Self

from hatvid.errors import OptionError, OutputError

__all__ = ["PartialFolder", "write_whole"]


class PartialFolder:
    """Write files into a hidden folder beside ``path``; :meth:`publish` gives it its name.

    Entering the ``with`` block makes the folder; leaving it without having published removes
    what was written, whatever happens and whenever.

    Args:
        path: the final name; nothing is there, or an empty folder.

    Raises:
        OptionError: the folder holds something, or is one that cannot be exchanged.
        OutputError: nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Where a link leads, not the link, is what gets the name.
            self._final = final = Path(os.path.realpath(path))
            if os.path.lexists(final):
                if any(final.iterdir()):
                    raise OptionError(f"{path} is not empty; name another folder")
                # Whoever stands in a folder would not see the one that takes its place.
                if final.is_mount() or final == Path.cwd():
                    raise OptionError(f"{path} cannot be exchanged; name a new folder in it")
        except OSError as error:
            raise self._not_made(error) from error
        self._temporary = final.with_name(f".{final.name[:50]}.{secrets.token_hex(4)}.part")

    def __enter__(self) -> Self:
        try:
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir()
        except OSError as error:
            raise self._not_made(error) from error
        except BaseException:  # a signal, between making the folder and noting that it is there
            self._remove()
            raise
        return self

    def __exit__(self, *reason: object) -> None:
        self._remove()

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the folder, and bring it to the disk.

        Raises:
            OutputError: the disk refuses.
        """
        try:
            with (self._temporary / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._refused(error) from error

    def publish(self) -> None:
        """Give the folder its name.

        Raises:
            OutputError: the disk refuses, or something of that name has appeared meanwhile.
        """
        try:
            with contextlib.suppress(FileNotFoundError):
                self._final.rmdir()  # Windows renames onto no folder, empty or not
            self._temporary.rename(self._final)
        except OSError as error:
            raise self._refused(error) from error

    def _remove(self) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _not_made(self, error: OSError) -> OutputError:
        return OutputError(f"{self._path} cannot be made ({error.strerror}); name another")

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self._path} cannot be written ({error.strerror}); free some space, or name another "
            "folder"
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside ``path``, bring it to the disk, and give it its name.

    Raises:
        OutputError: the disk refuses; what was at ``path`` is still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); what was there before is kept: free "
            "some space, or mend the permissions, and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
