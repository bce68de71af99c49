"""Decoded frames as planes, whichever way they were come to."""

from __future__ import annotations

import av
from torch import Tensor

from hatvid.errors import DecodeError
from hatvid.video.device_frames import in_main_memory, read_frame
from hatvid.video.kind import TAIL
from hatvid.video.pictures import FrameTime
from hatvid.video.sidedata import KINDS
from hatvid.video.source_info import SourceInfo

__all__ = ["FrameReader", "Planes"]

type Planes = tuple[tuple[Tensor, ...], FrameTime, av.VideoFrame | None]
"""(h, w) planes of a frame, its time, and the frame itself where it bears side data."""


class FrameReader:
    """Reads frames of one video in order.

    Args:
        info: of the video.
        repeats: a frame that repeats the one before has its planes; not so behind a
            deinterlacer, which makes others of them.
    """

    def __init__(self, info: SourceInfo, *, repeats: bool) -> None:
        self._info = info
        self._repeats = repeats
        self._last: tuple[Tensor, ...] | None = None

    def read(self, frame: av.VideoFrame, time: FrameTime) -> Planes:
        """One frame, for a :class:`~hatvid.video.batch.FrameBatch`.

        Raises:
            DecodeError: its pixel format is not the video's.
        """
        if time.repeated and self._last is not None and self._repeats:
            return self._last, time, None
        layout, self._last = read_frame(frame)
        if layout != self._info.layout:
            raise DecodeError(
                f"{self._info.path}: the pixel format changes from {self._info.layout.pix_fmt} to "
                f"{layout.pix_fmt} at {float(self._info.seconds(time.pts)):.3f} s; {TAIL}"
            )
        bears = any(data.type.name in KINDS for data in frame.side_data[:])
        return self._last, time, in_main_memory(frame) if bears and not time.repeated else None
