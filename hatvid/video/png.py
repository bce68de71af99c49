"""PNG: samples of 8 and 16 bits by FFmpeg's codec, and the chunks around them.

Section numbers are those of the PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COLOR_CHUNKS",
    "SIGNATURE",
    "TEXT_CHUNKS",
    "XMP_KEYWORD",
    "decode_png",
    "encode_png",
    "png_chunks",
    "without_chunks",
]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_CHUNKS = (b"cICP", b"mDCV", b"cLLI", b"cHRM", b"gAMA", b"sRGB")
"""What the samples mean, beside an ICC profile (section 11.3.2)."""
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
XMP_KEYWORD = b"XML:com.adobe.xmp\0"
"""How an iTXt chunk with an XMP packet begins."""

# FFmpeg's names by number of channels: gray, gray and alpha, RGB, RGB and alpha.
_FORMATS = {
    8: {1: "gray", 2: "ya8", 3: "rgb24", 4: "rgba"},
    16: {1: "gray16be", 2: "ya16be", 3: "rgb48be", 4: "rgba64be"},
}
_CHANNELS = {name: (n, depth) for depth, row in _FORMATS.items() for n, name in row.items()}


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, payload) of each chunk, in the order of the file (section 5.3).

    Args:
        data: a whole file; where it breaks off, so do the chunks.
    """
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def without_chunks(data: bytes, kinds: Collection[bytes]) -> bytes:
    """A file without its chunks of some types."""
    kept = (chunk for chunk in png_chunks(data) if chunk[0] not in kinds)
    return b"".join([SIGNATURE, *(_chunk(*chunk) for chunk in kept)])


def decode_png(data: bytes) -> NDArray[Any]:
    """The samples of a file, a transparent colour (tRNS) turned into an alpha channel.

    Returns:
        (height, width, channels) of uint8 or uint16, channels as 1 gray, 2 gray and
        alpha, 3 RGB, 4 RGB and alpha; palettes and depths below 8 are not read here.

    Raises:
        ValueError: FFmpeg's decoder gives no such picture.
    """
    context = av.CodecContext.create("png", "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except av.error.FFmpegError as error:
        raise ValueError(error.strerror) from error
    if not frames or frames[0].format.name not in _CHANNELS:
        raise ValueError("its samples are of an unknown kind")
    frame = frames[0]
    channels, depth = _CHANNELS[frame.format.name]
    line = frame.width * channels * depth // 8
    rows = np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)
    item = np.dtype(np.uint8 if depth == 8 else ">u2")
    samples = np.ascontiguousarray(rows[: frame.height, :line]).view(item)
    return samples.reshape(frame.height, frame.width, channels).astype(item.newbyteorder("="))


def encode_png(samples: NDArray[Any], chunks: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG file; the same input gives the same bytes.

    Args:
        samples: as :func:`decode_png` gives them.
        chunks: (type, payload) of what goes before the picture's data, in this order.
    """
    height, width, channels = samples.shape
    depth = 8 * samples.itemsize
    name = _FORMATS[depth][channels]
    context = av.CodecContext.create("png", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, name
    context.time_base = Fraction(1)
    context.thread_count = 1
    context.options = {"pred": "mixed"}
    frame = av.VideoFrame(width, height, name)
    rows = np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)
    big = np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder(">")))
    rows[:height, : width * samples.itemsize * channels] = big.view(np.uint8).reshape(height, -1)
    encoded = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    parts = [SIGNATURE]
    for kind, payload in png_chunks(encoded):
        # The encoder's own pHYs would say that pixels are square, which nobody told it.
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            parts.append(_chunk(kind, payload))
        if kind == b"IHDR":
            parts += [_chunk(*chunk) for chunk in chunks]
    return b"".join(parts)


def _chunk(kind: bytes, payload: bytes) -> bytes:
    """One chunk as it lies in a file: length, type, payload, CRC (section 5.3)."""
    crc = zlib.crc32(payload, zlib.crc32(kind))
    return len(payload).to_bytes(4) + kind + payload + crc.to_bytes(4)
