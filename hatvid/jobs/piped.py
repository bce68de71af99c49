"""Standard output as the place of a video: nothing but the video reaches it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from types import TracebackType
from typing import BinaryIO, Self, cast

from hatvid.errors import OptionError

__all__ = ["StandardOutput"]


class _Stream(io.FileIO):
    """Written from beginning to end, even if it is a file: its beginning may be somebody
    else's, and a file that a shell opened cannot be read back."""

    def seekable(self) -> bool:
        return False


class StandardOutput:
    """Takes standard output for itself, with the face of
    :class:`~hatvid.jobs.partial.PartialFile`.

    While it is open, whatever anybody else prints there, libraries in C included, goes to
    standard error.

    Raises:
        OptionError: standard output is a terminal.
    """

    def __enter__(self) -> Self:
        number = sys.__stdout__.fileno() if sys.__stdout__ is not None else 1
        if os.isatty(number):
            raise OptionError(
                "standard output is a terminal; send it to a file or a program, or name the "
                "output with -o"
            )
        self._number = number
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        self._kept = os.dup(number)
        os.dup2(2, number)
        self.file: BinaryIO = cast(BinaryIO, _Stream(os.dup(self._kept), "wb"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # the reader has gone
            self.file.close()
        os.dup2(self._kept, self._number)
        os.close(self._kept)

    def seal(self) -> None:
        """Nothing is held back here."""

    def publish(self) -> None:
        """The video is there already."""
