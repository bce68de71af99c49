"""Traces of compression: pictures written by a real encoder and read again."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from PIL import Image

from hatvid.research.matlab_resize import Pixels

__all__ = ["through_jpeg", "through_x264"]


def through_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Write and read a picture as baseline JPEG, 4:2:0.

    Args:
        pixels: (H, W, 3) RGB.
        quality: of the IJG's tables, 1 to 100.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    file.seek(0)
    with Image.open(file) as image:
        return np.asarray(image)


def through_x264(
    pixels: Pixels, crf: int, *, preset: str, frames: int, shown: int, pan: tuple[int, int]
) -> Pixels:
    """Encode a picture as one frame of a pan over it, 4:2:0 of 8 bits, and decode it.

    So it may be predicted from others, as most frames of a video are. Beyond the
    picture its edge is repeated.

    Args:
        pixels: (H, W, 3) RGB.
        crf: quality, 0 to 51.
        preset: of x264.
        frames: of the clip, at least 1.
        shown: which of them is the picture itself, from 0.
        pan: pixels down and to the right from each frame to the next.
    """
    height, width = pixels.shape[:2]
    tall, wide = height + height % 2, width + width % 2
    reach = [abs(step) * frames for step in pan]
    around = np.pad(
        pixels,
        (
            (reach[0], reach[0] + tall - height),
            (reach[1], reach[1] + wide - width),
            (0, 0),
        ),
        mode="edge",
    )
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = wide, tall
    encoder.pix_fmt = "yuv420p"
    encoder.framerate = 25
    encoder.time_base = Fraction(1, 25)
    # One thread: patches are many, and small.
    encoder.options = {"crf": str(crf), "preset": preset, "threads": "1"}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded: dict[int, av.VideoFrame] = {}

    def decode(packets: Iterable[av.Packet[Any] | None]) -> None:
        for packet in packets:
            for frame in decoder.decode(packet):
                decoded[frame.pts or 0] = frame

    for number in range(frames):
        top = reach[0] + (number - shown) * pan[0]
        left = reach[1] + (number - shown) * pan[1]
        view = np.ascontiguousarray(around[top : top + tall, left : left + wide])
        frame = av.VideoFrame.from_ndarray(view, format="rgb24")
        frame.pts = number
        decode(encoder.encode(frame))
    decode(encoder.encode(None))
    decode([None])
    result = decoded[shown].to_ndarray(format="rgb24")[:height, :width]
    return cast(Pixels, result)
