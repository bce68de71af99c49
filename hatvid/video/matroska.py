"""The sample aspect ratio in the header of a Matroska or WebM file.

Every offset in the file stays valid: the muxer is given a placeholder for the track's
title, and what is added takes the placeholder's bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

from hatvid.video.outfile import HeaderRewriter

__all__ = ["MatroskaHeader"]

_SPARE = 256
"""Bytes of the placeholder beside the real title: more than is ever added."""

# Matroska (RFC 9559) on EBML (RFC 8794).

_SEGMENT, _CLUSTER, _TRACKS = 0x18538067, 0x1F43B675, 0x1654AE6B
_TRACK_ENTRY, _NAME, _VIDEO = 0xAE, 0x536E, 0xE0
_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT = 0x54B0, 0x54BA, 0x54B2
_CRC, _VOID = 0xBF, 0xEC
_PIXELS, _ASPECT = 0, 3  # DisplayUnit


class MatroskaHeader(HeaderRewriter):
    """DisplayWidth and DisplayHeight in the Video element of the track."""

    afterwards = True

    def __init__(self, width: int, height: int, aspect: Fraction, title: str) -> None:
        super().__init__()
        self._display = _display(width, height, aspect)
        self._title = title.encode()
        self._name = b"-" * (len(self._title) + _SPARE)
        self.placeholder = self._name.decode()

    def _ready(self) -> bytes:
        place = _tracks_in(self._held)
        if place is None:
            return b""
        start, end = place
        if len(self._held) < end:
            return b""
        held = self._held
        self._held = held[:start] + self._rewritten(held[start:end]) + held[end:]
        return self._release()

    def patch(self, file: BinaryIO) -> None:
        file.seek(0)
        head = b""
        while (place := _tracks_in(head)) is None or len(head) < place[1]:
            more = file.read(1 << 16)
            if not more:
                raise ValueError("no Tracks in the Matroska header")
            head += more
        start, end = place
        tracks = self._rewritten(head[start:end])
        file.seek(start)
        file.write(tracks)
        file.seek(0, 2)

    def _rewritten(self, tracks: bytes) -> bytes:
        """The Tracks element's content, of the same length."""
        out = b""
        found = False
        for number, content, whole in _elements(tracks):
            if number == _CRC:
                continue
            entry = list(_elements(content)) if number == _TRACK_ENTRY else []
            if not any(part[:2] == (_NAME, self._name) for part in entry):
                out += whole
                continue
            found = True
            out += self._entry(entry, len(whole))
        if not found:
            raise ValueError("the video's track is not in the Matroska header")
        if len(out) < len(tracks):
            # RFC 8794, 11.3.1: over all that follows the CRC-32 element, little-endian.
            out = _element(_CRC, zlib.crc32(out).to_bytes(4, "little")) + out
        if len(out) != len(tracks):
            raise ValueError("the Matroska header has an unknown shape")
        return out

    def _entry(self, parts: list[tuple[int, bytes, bytes]], length: int) -> bytes:
        """A TrackEntry, as long as it was."""
        content = b""
        for number, inner, whole in parts:
            if number == _NAME:
                content += _element(_NAME, self._title) if self._title else b""
            elif number == _VIDEO:
                shown = b"".join(
                    part
                    for inside, _, part in _elements(inner)
                    if inside not in (_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT, _CRC, _VOID)
                )
                content += _element(_VIDEO, shown + self._display)
            else:
                content += whole
        head = 1 + 8  # an ID of one byte, a size of eight
        void = _void(length - head - len(content))
        return _element(_TRACK_ENTRY, content + void, width=8)


def _display(width: int, height: int, aspect: Fraction) -> bytes:
    """DisplayWidth, DisplayHeight and DisplayUnit of exactly this aspect."""
    across, down = width * aspect, height / aspect
    unit = _PIXELS
    if across.denominator == 1:
        size = (int(across), height)
    elif down.denominator == 1:
        size = (width, int(down))
    else:
        shown = Fraction(width, height) * aspect
        size, unit = (shown.numerator, shown.denominator), _ASPECT
    numbers = ((_DISPLAY_WIDTH, size[0]), (_DISPLAY_HEIGHT, size[1]), (_DISPLAY_UNIT, unit))
    return b"".join(_element(number, _unsigned(value)) for number, value in numbers)


def _tracks_in(data: bytes) -> tuple[int, int] | None:
    """Where the content of Tracks begins and ends, None if ``data`` ends before."""
    place = 0
    while True:
        try:
            number, size, head = _head(data, place)
        except IndexError:
            return None
        if number == _TRACKS and size is not None:
            return head, head + size
        if number == _SEGMENT:
            place = head
        elif size is None or number == _CLUSTER:
            raise ValueError("no Tracks before the first Cluster of the Matroska header")
        else:
            place = head + size


def _head(data: bytes, place: int) -> tuple[int, int | None, int]:
    """ID, size (None is unknown) and place of the content of an element.

    Raises:
        IndexError: the data ends first.
    """
    length = 9 - data[place].bit_length()
    number = int.from_bytes(data[place : place + length])
    place += length
    width = 9 - data[place].bit_length()
    if not 0 < width < 9 or not 0 < length < 5:
        raise ValueError("no element where the Matroska header should have one")
    if len(data) < place + width:
        raise IndexError
    coded = int.from_bytes(data[place : place + width]) & ((1 << 7 * width) - 1)
    return number, None if coded == (1 << 7 * width) - 1 else coded, place + width


def _elements(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """ID, content and all bytes of each element."""
    place = 0
    while place < len(data):
        number, size, head = _head(data, place)
        if size is None or head + size > len(data):
            raise ValueError("an element of the Matroska header ends outside it")
        yield number, data[head : head + size], data[place : head + size]
        place = head + size


def _element(number: int, content: bytes, *, width: int | None = None) -> bytes:
    """An element, its size coded in ``width`` bytes, in as few as hold it if None."""
    if width is None:
        width = next(w for w in range(1, 9) if len(content) < (1 << 7 * w) - 1)
    size = len(content) | 1 << 7 * width
    return _unsigned(number) + size.to_bytes(width) + content


def _void(length: int) -> bytes:
    """A Void element of ``length`` bytes in all."""
    if length < 9:
        raise ValueError("no room left in the Matroska header")
    return _element(_VOID, bytes(length - 9), width=8)


def _unsigned(value: int) -> bytes:
    return value.to_bytes(max(1, -(-value.bit_length() // 8)))
