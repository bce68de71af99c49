"""The file object that FFmpeg's muxers write through."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import BinaryIO

__all__ = ["HeaderRewriter", "OutputFile"]


class HeaderRewriter(ABC):
    """Changes the header that a muxer writes."""

    placeholder: str | None = None
    """The title to give the video stream; None leaves it its own."""

    afterwards: bool = False
    """Whether a file that can seek is rewritten when it is whole (the muxer comes back to
    its header), and not on the way."""

    def __init__(self) -> None:
        self._held = b""
        self._done = False

    def feed(self, data: bytes) -> bytes:
        """Take what the muxer writes; give what is to be written now.

        Raises:
            ValueError: the header is not as expected.
        """
        if self._done:
            return data
        self._held += data
        return self._ready()

    def rest(self) -> bytes:
        """What is held back at the end."""
        rest, self._held = self._held, b""
        return rest

    @abstractmethod
    def _ready(self) -> bytes:
        """Take from the held bytes what can be written."""

    def patch(self, file: BinaryIO) -> None:
        """Rewrite a whole file, where :attr:`afterwards`.

        Raises:
            ValueError: the header is not as expected.
        """
        raise NotImplementedError

    def _release(self) -> bytes:
        self._done = True
        return self.rest()


class OutputFile(io.RawIOBase):
    """A file or a pipe that remembers the first error of writing it.

    FFmpeg does not report what fails while it closes a file of its own, so that a full
    disk would leave a short file unnoticed.

    Args:
        file: opened for writing; stays open. One that can seek must also be readable
            where ``rewriter`` works on the finished file.
        rewriter: changes the header on its way; None writes what FFmpeg gives.
    """

    def __init__(self, file: BinaryIO, rewriter: HeaderRewriter | None = None) -> None:
        self._inner = file
        self._seeks = file.seekable()
        self._finished = rewriter if self._seeks and rewriter and rewriter.afterwards else None
        self._passing = None if self._finished else rewriter
        self.error: OSError | None = None
        """The first error that the file gave."""
        self.discarding = False
        """Take what is written and leave it, as nobody wants it any more."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        # PyAV keeps one error until its call returns, and prints those that come after it.
        if self.discarding or self.error is not None:
            return len(data)
        self._write(data if self._passing is None else self._passing.feed(data))
        return len(data)

    def flush(self) -> None:
        try:
            self._inner.flush()
        except OSError as error:
            self.error = self.error or error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        if self.error is not None:
            return 0
        try:
            return self._inner.seek(offset, whence)
        except OSError as error:
            self.error = self.error or error
            raise

    def tell(self) -> int:
        return self._inner.tell()

    def seekable(self) -> bool:
        # A header that changes its length on the way moves everything behind it.
        return self._seeks and self._passing is None

    def writable(self) -> bool:
        return True

    def finish(self) -> None:
        """Write what is held back and rewrite what can only be rewritten now.

        Raises:
            OSError: the file refuses.
            ValueError: the header is not as expected.
        """
        if self._passing is not None:
            self._write(self._passing.rest())
        try:
            if self._finished is not None:
                self._inner.flush()
                self._finished.patch(self._inner)
        except OSError as error:
            self.error = self.error or error
            raise
        self.flush()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:  # a raw file may take less than it is given
                view = view[self._inner.write(view) :]
        except OSError as error:
            self.error = self.error or error
            raise
