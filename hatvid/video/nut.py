"""The sample aspect ratio in the header of a NUT file.

Every offset in the file stays valid: the muxer is given a placeholder for the track's
title, and what is added takes the placeholder's bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from fractions import Fraction

from hatvid.video.outfile import HeaderRewriter

__all__ = ["NutHeader"]

_SPARE = 256
"""Bytes of the placeholder beside the real title: more than is ever added."""

# NUT (nut.txt of MPlayer's and FFmpeg's developers): packets of headers, each with a
# start code, its length and a checksum; repeated now and then for who tunes in late.

_NUT_ID = b"nut/multimedia container\0"
_NUT_MAIN = b"NM\x7a\x56\x1f\x5f\x04\xad"
_NUT_STREAM = b"NS\x11\x40\x5b\xf2\xf9\xdb"
_NUT_INFO = b"NI\xab\x68\xb5\x96\xba\x78"
_NUT_START = 8
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


class NutHeader(HeaderRewriter):
    """sample_width and sample_height of the video's stream header, in each of its copies."""

    def __init__(self, aspect: Fraction, title: str) -> None:
        super().__init__()
        self._aspect = aspect
        self._title = title.encode()
        self._name = b"-" * (len(self._title) + _SPARE)
        self.placeholder = self._name.decode()
        self._old = self._new = b""

    def _ready(self) -> bytes:
        if not self._old:
            headers = _nut_headers(self._held)
            if headers is None:
                return b""
            self._plan(headers)
        self._held = self._held.replace(self._old, self._new)
        # A copy may begin in what is held and end in what comes.
        ready = max(0, len(self._held) - len(self._old) + 1)
        out, self._held = self._held[:ready], self._held[ready:]
        return out

    def _plan(self, headers: bytes) -> None:
        """Find the bytes to change, from the stream header to the stream's tags."""
        packets = list(_nut_packets(headers))
        title = _coded(len(self._name)) + self._name
        for start, end, kind, body in packets:
            if kind != _NUT_INFO or title not in body:
                continue
            stream = _varint(body, 0)[0] - 1
            for first, last, other, old in packets:
                if other == _NUT_STREAM and _varint(old, 0)[0] == stream:
                    self._old = headers[first:end]
                    header = _nut_packet(_NUT_STREAM, self._stream(old))
                    room = len(self._old) - len(header) - (start - last)
                    tags = _nut_packet(_NUT_INFO, self._tags(body), length=room)
                    self._new = header + headers[last:start] + tags
                    return
        raise ValueError("the video's stream is not in the NUT header")

    def _stream(self, body: bytes) -> bytes:
        """A stream header with the ratio in it."""
        place = 0
        for _ in range(2):  # stream_id, stream_class
            place = _varint(body, place)[1]
        for part in range(7):  # fourcc, time base, shift, distance, delay, flags, private
            length, place = (1, place) if part == 5 else _varint(body, place)
            place += length if part in (0, 5, 6) else 0
        for _ in range(2):  # width, height
            place = _varint(body, place)[1]
        after = _varint(body, _varint(body, place)[1])[1]
        ratio = _coded(self._aspect.numerator) + _coded(self._aspect.denominator)
        return body[:place] + ratio + body[after:]

    def _tags(self, body: bytes) -> bytes:
        """A stream's info packet with the real title, or none."""
        place = 0
        for _ in range(4):  # stream_id, chapter_id, start, length
            place = _varint(body, place)[1]
        head = body[:place]
        count, place = _varint(body, place)
        items = b""
        for _ in range(count):
            begin = place
            size, place = _varint(body, place)
            place = _varint(body, place + size)[1]  # the type, -1: text
            size, text = _varint(body, place)
            place = text + size
            if body[text:place] != self._name:
                items += body[begin:place]
            elif self._title:
                items += body[begin : text - len(_coded(size))]
                items += _coded(len(self._title)) + self._title
            else:
                count -= 1
        return head + _coded(count) + items


def _nut_headers(data: bytes) -> bytes | None:
    """The packets before the first that is no header, None if ``data`` ends before."""
    if not data.startswith(_NUT_ID[: len(data)]):
        raise ValueError("no NUT header")
    place = len(_NUT_ID)
    while len(data) >= place + _NUT_START:
        if data[place : place + _NUT_START] not in (_NUT_MAIN, _NUT_STREAM, _NUT_INFO):
            return data[len(_NUT_ID) : place]
        try:
            length, begin = _varint(data, place + _NUT_START)
        except IndexError:
            return None
        place = begin + (4 if length > 4096 else 0) + length
    return None


def _nut_packets(data: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Where each packet begins and ends, its start code, and its body."""
    place = 0
    while place < len(data):
        kind = data[place : place + _NUT_START]
        length, begin = _varint(data, place + _NUT_START)
        begin += 4 if length > 4096 else 0
        yield place, begin + length, kind, data[begin : begin + length - 4]
        place = begin + length


def _nut_packet(kind: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """A packet; ``length`` bytes in all, filled up with bytes that readers skip."""
    size = len(body) + 4
    if length is not None:
        # A longer length field leaves fewer bytes to fill, so both are tried.
        for width in (1, 2, 3):
            size = length - _NUT_START - width
            size -= 4 if size > 4096 + 4 else 0
            if len(_coded(size)) == width and size >= len(body) + 4:
                break
        else:
            raise ValueError("no room left in the NUT header")
    head = kind + _coded(size)
    head += _nut_checksum(head) if size > 4096 else b""
    body += bytes(size - 4 - len(body))
    return head + body + _nut_checksum(body)


def _nut_checksum(data: bytes) -> bytes:
    """CRC-32 with the generator 0x104C11DB7, most significant bit first, from 0."""
    mirrored = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return mirrored.to_bytes(4, "little").translate(_REVERSED)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    while True:
        value = value << 7 | data[place] & 0x7F
        place += 1
        if data[place - 1] < 0x80:
            return value, place


def _coded(value: int) -> bytes:
    """The inverse of :func:`_varint`."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    return bytes(reversed(out))
