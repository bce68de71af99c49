"""A VapourSynth clip as what a contestant runs: its frames asked for as a player asks.

Nothing here imports ``openvino`` or ``torch``: of two OpenVINO libraries in one process,
hatvid's and vs-mlrt's, the first would serve both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import vapoursynth as vs

from hatvid.bench.runner import Array, Frames, Task
from hatvid.video.vs_requests import rendered

__all__ = ["ClipRunner"]

ENDLESS = 2**20
"""Frames of a clip, at most."""


class ClipRunner:
    """A :class:`~hatvid.bench.runner.Runner` over a filter.

    Args:
        task: its frames are the clip's, without end.
        larger: makes of a clip in RGBS the larger one.
        step: frames at once.
        ahead: frames that are asked for before the first is there.
        threads: of VapourSynth.
        precision: what is computed in.
        settings: for the record.
    """

    work: float | None = None

    def __init__(
        self,
        task: Task,
        larger: Callable[[Any], Any],
        *,
        step: int,
        ahead: int,
        threads: int,
        precision: str,
        settings: Mapping[str, Any],
    ) -> None:
        self.precision = precision
        self.settings = settings
        self.step = step
        self._ahead = ahead
        self._frames = Frames.of(task)
        vs.core.num_threads = threads
        blank = vs.core.std.BlankClip(
            format=vs.RGBS, width=task.width, height=task.height, length=ENDLESS, keep=True
        )
        self._clip: Any = larger(blank.std.ModifyFrame(blank, self._fill))
        # From a whole number of steps on: a batch that two turns share is computed in both.
        self._next = -(-len(self._frames.base) // step) * step

    def run(self, count: int) -> float:
        """See :class:`~hatvid.bench.runner.Runner`."""
        first, self._next = self._next, self._next + count
        # Frames are waited for in order, with some on their way: as a script's player does.
        part = self._clip[first : first + count]
        start = time.perf_counter()
        for _ in rendered(part, ahead=self._ahead):
            pass
        return time.perf_counter() - start

    def output(self) -> Array:
        """See :class:`~hatvid.bench.runner.Runner`."""
        pictures = []
        for number in range(len(self._frames.base)):
            with self._clip.get_frame(number) as frame:
                pictures.append(np.stack([np.array(frame[plane]) for plane in range(3)]))
        return np.stack(pictures)

    def _fill(self, n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        for plane, picture in enumerate(self._frames.number(n)[0]):
            np.copyto(np.asarray(frame[plane]), picture)
        return frame
