"""The bytes of a file that reading a part of it takes, to be read somewhere else.

What a demuxer reads hangs on nothing but what it has read before. So its reads are noted
where the file is, and answered alike where only those bytes are: whatever the container, the
decoder gets there what it would get here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hatvid.errors import InputError

__all__ = ["Excerpt", "Opener", "SparseFile", "excerpt", "whole_file"]

_BLOCK = 1 << 16


type Opener = Callable[[], SparseFile]


@dataclass(frozen=True)
class Excerpt:
    """Some blocks of a file.

    Args:
        name: of the file, by which demuxers are chosen, too.
        size: of the whole file, in bytes.
        blocks: by their numbers; all but a file's last one have the same size.
    """

    name: str
    size: int
    blocks: Mapping[int, bytes]

    @property
    def complete(self) -> bool:
        """Whether it is the whole file."""
        return self.bytes == self.size

    @property
    def bytes(self) -> int:
        """That are held."""
        return sum(map(len, self.blocks.values()))

    def open(self) -> SparseFile:
        """The file, as far as it is there."""
        return SparseFile(self.name, self.size, self.blocks.get)


def excerpt(path: Path, read: Callable[[Opener], None]) -> Excerpt:
    """Take what something reads of a file.

    Args:
        read: opens the file by what it is given, as often as it likes, and reads.

    Raises:
        InputError: the file cannot be read.
    """
    with _opened(path) as file:
        size = file.seek(0, io.SEEK_END)
        blocks: dict[int, bytes] = {}

        def block(number: int) -> bytes:
            if number not in blocks:
                file.seek(number * _BLOCK)
                blocks[number] = file.read(_BLOCK)
            return blocks[number]

        read(lambda: SparseFile(path.name, size, block))
    return Excerpt(path.name, size, blocks)


def whole_file(path: Path) -> Excerpt:
    """All of a file.

    Raises:
        InputError: it cannot be read.
    """
    with _opened(path) as file:
        blocks = dict(enumerate(iter(lambda: file.read(_BLOCK), b"")))
    return Excerpt(path.name, sum(map(len, blocks.values())), blocks)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(
            f"{path} can no longer be read ({error.strerror}); is the disk or the network still "
            "there?"
        ) from error


class SparseFile:
    """A file of blocks, as PyAV reads it.

    Once a block was missed it ends there, and :attr:`missed` is set: demuxers go on behind
    errors, and would make up a video of what is left.

    Args:
        name: by which demuxers are chosen, too.
        size: of the whole file, in bytes.
        block: gives one by its number, None where it is missing.
    """

    def __init__(self, name: str, size: int, block: Callable[[int], bytes | None]) -> None:
        self.name = name
        self._size = size
        self._block = block
        self._at = 0
        self.missed = False

    def read(self, size: int) -> bytes:
        number, start = divmod(self._at, _BLOCK)
        if self._at >= self._size or size <= 0:
            return b""
        data = None if self.missed else self._block(number)
        if data is None:
            self.missed = True
            return b""
        part = data[start : start + size]
        self._at += len(part)
        return part

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def tell(self) -> int:
        return self._at
