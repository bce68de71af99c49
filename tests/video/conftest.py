"""Tiny clips whose every frame shows its own number, made by PyAV's encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from hatvid.video.source import FrameBatch

WIDTH, HEIGHT = 64, 48
_BITS, _SIDE = 8, 16  # 4 x 2 blocks of 16x16 luma samples, one bit each


def numbered(number: int, depth: int = 8) -> NDArray[np.uint16]:
    """A luma plane that shows ``number`` (0 to 255) in blocks that survive any encoder."""
    plane = np.full((HEIGHT, WIDTH), 128, np.uint16)
    for bit in range(_BITS):
        top, left = bit // 4 * _SIDE, bit % 4 * _SIDE
        plane[top : top + _SIDE, left : left + _SIDE] = 200 if number >> bit & 1 else 56
    # Something that moves, so that motion compensation has work to do.
    plane[2 * _SIDE :] = np.roll(np.arange(WIDTH) * 3 + 32, number * 3)
    return (plane << (depth - 8)).astype(np.uint16)


def number_of(luma: NDArray[np.integer], depth: int = 8) -> int:
    number = 0
    for bit in range(_BITS):
        top, left = bit // 4 * _SIDE, bit % 4 * _SIDE
        block = luma[top + 4 : top + _SIDE - 4, left + 4 : left + _SIDE - 4]
        number |= int(block.mean() > 128 << (depth - 8)) << bit
    return number


def video_frame(number: int, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
    depth = frame.format.components[0].bits
    kind = np.uint8 if depth == 8 else np.uint16
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
        rows[:] = 128 << (depth - 8)
        if index == 0:
            rows[:, : plane.width] = numbered(number, depth)
    return frame


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """Write a clip. Frame k shows the number k and has the pts ``pts[k]``."""

    def make(
        path: Path,
        *,
        codec: str = "libx264",
        pts: Sequence[int] = tuple(range(24)),
        time_base: Fraction = Fraction(1, 24),
        options: dict[str, str] | None = None,
        container: dict[str, str] | None = None,
        pix_fmt: str = "yuv420p",
        format: str | None = None,  # noqa: A002 - av.open's name
    ) -> Path:
        options = {"preset": "ultrafast", "crf": "12"} | (options or {})
        if not codec.startswith("libx26"):
            options = {k: v for k, v in options.items() if k not in ("preset", "crf")}
        with av.open(f"file:{path}", "w", format=format, options=container or {}) as output:
            stream = output.add_stream(codec, rate=24, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
            stream.codec_context.time_base = time_base
            if codec == "mpeg2video":
                stream.codec_context.bit_rate = 2_000_000
            stream.time_base = time_base
            for number, stamp in enumerate(pts):
                frame = video_frame(number, pix_fmt)
                frame.pts, frame.time_base = stamp, time_base
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return path

    return make


@pytest.fixture(scope="session")
def numbers() -> Callable[[FrameBatch], list[int]]:
    """The numbers that the frames of a batch show."""

    def read(batch: FrameBatch) -> list[int]:
        depth = 8 if batch.planes[0].element_size() == 1 else 10
        return [number_of(plane.numpy(), depth) for plane in batch.planes[0]]

    return read
