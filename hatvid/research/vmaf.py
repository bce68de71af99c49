"""VMAF of luma frames, by the libvmaf in PyAV's FFmpeg."""

from __future__ import annotations

import gc
import json
import os
import tempfile
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.filter
import numpy as np

from hatvid.errors import EngineError
from hatvid.research.metrics import Luma

__all__ = ["LEAST_SIDE", "Vmaf", "vmaf_is_here"]

LEAST_SIDE = 32
"""Pixels along a side; libvmaf ends the whole program at fewer than about 17."""

_DEPTH = 10
_TIME = Fraction(1, 25)


def vmaf_is_here() -> bool:
    """Whether this build of FFmpeg has the filter."""
    return "libvmaf" in av.filter.filters_available


class Vmaf:
    """Frames go in one by one; what they are worth comes out in the end.

    They are given to libvmaf in 10 bits, chroma left gray: its models look at luma alone.

    Args:
        height: of the frames, at least :data:`LEAST_SIDE`.
        width: likewise.
    """

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width
        self._count = 0
        descriptor, name = tempfile.mkstemp(prefix="hatvid-vmaf-", suffix=".json")
        os.close(descriptor)
        self._log = Path(name)
        self._graph: av.filter.Graph | None = av.filter.Graph()
        sources = [
            self._graph.add_buffer(
                width=width, height=height, format="yuv420p10le", time_base=_TIME
            )
            for _ in range(2)
        ]
        # The folder's name may hold what the filter's own syntax uses.
        place = "".join(f"\\{sign}" if sign in r"\':,;[]=" else sign for sign in name)
        threads = os.cpu_count() or 1
        meter = self._graph.add("libvmaf", f"log_fmt=json:log_path={place}:n_threads={threads}")
        sink = self._graph.add("buffersink")
        for number, source in enumerate(sources):
            source.link_to(meter, 0, number)
        meter.link_to(sink)
        self._graph.configure()
        self._sources = sources
        self._sink: av.filter.context.FilterContext | None = sink

    def add(self, luma: Luma, reference: Luma) -> None:
        """Both (H, W), of 16 for black to 235 for white."""
        for source, values in zip(self._sources, (luma, reference), strict=True):
            frame = _frame(values)
            frame.pts, frame.time_base = self._count, _TIME
            source.push(frame)
        self._count += 1
        self._drain()

    def scores(self) -> list[float]:
        """One for each pair of frames, 0 to 100. Nothing can be added any more.

        Raises:
            EngineError: libvmaf did not give as many.
        """
        self._end()
        self._free()
        try:
            frames = json.loads(self._log.read_text())["frames"]
            found = [float(frame["metrics"]["vmaf"]) for frame in frames]
        except (OSError, ValueError, KeyError) as error:
            raise EngineError(f"libvmaf gave no result ({error}); leave VMAF out") from error
        if len(found) != self._count:
            raise EngineError(
                f"libvmaf measured {len(found)} of {self._count} frames; leave VMAF out"
            )
        return found

    def close(self) -> None:
        """Free it, and remove what it wrote."""
        self._free()
        self._log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _end(self) -> None:
        for source in self._sources:
            source.push(None)
        self._drain()

    def _free(self) -> None:
        # The filter writes its file when it is freed; filters and graph hold each other.
        self._graph = None
        self._sources, self._sink = [], None
        gc.collect()

    def _drain(self) -> None:
        assert self._sink is not None
        with suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                self._sink.pull()


def _frame(luma: Luma) -> av.VideoFrame:
    height, width = luma.shape
    frame = av.VideoFrame(width, height, f"yuv420p{_DEPTH}le")
    codes = (luma * 2 ** (_DEPTH - 8)).round().clip(0, 2**_DEPTH - 1).astype(np.uint16)
    for number, plane in enumerate(frame.planes):
        samples = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
        if number:
            samples[:] = 2 ** (_DEPTH - 1)
        else:
            samples[:, :width] = codes
    return frame
