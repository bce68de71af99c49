"""vs-mlrt as a contestant: its OpenVINO plugin for VapourSynth, ``core.ov.Model``.

Nothing here imports ``openvino``: the plugin brings the library itself, and of two
versions in one process the first would serve both.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import vapoursynth as vs

from hatvid.bench.runner import Array, Frames, Runner, Task
from hatvid.errors import EngineError

__all__ = ["plugin"]

ENDLESS = 2**31 - 1
"""Frames of a clip, at most."""


def plugin(task: Task, settings: Mapping[str, Any]) -> Runner:
    """Settings: ``fp16`` and ``streams`` are the plugin's; ``tile`` and ``overlap`` are in
    input pixels, without ``tile`` it gets the whole frame at once."""
    return _Plugin(task, settings)


class _Plugin:
    work: float | None = None

    def __init__(self, task: Task, settings: Mapping[str, Any]) -> None:
        if not hasattr(vs.core, "ov"):
            raise EngineError("vs-mlrt's plugin is not installed; run: pip install 'hatvid[bench]'")
        self.precision = "bf16" if task.native_bf16 else "fp32"  # OpenVINO's own choice
        self.settings = settings
        self._streams: int = settings["streams"]
        self.step = self._streams
        self._frames = Frames.of(task)
        vs.core.num_threads = max(task.threads, self._streams)
        blank = vs.core.std.BlankClip(
            format=vs.RGBS, width=task.width, height=task.height, length=ENDLESS, keep=True
        )
        options: dict[str, Any] = {"num_streams": self._streams, "fp16": settings["fp16"]}
        if settings.get("tile"):
            options |= {"tilesize": [settings["tile"]] * 2, "overlap": [settings["overlap"]] * 2}
        self._clip: Any = vs.core.ov.Model(
            [blank.std.ModifyFrame(blank, self._fill)],
            network_path=task.onnx,
            config=lambda: {"INFERENCE_NUM_THREADS": str(task.threads)},
            **options,
        )
        self._next = len(self._frames.base)

    def run(self, count: int) -> float:
        """See :class:`~hatvid.bench.runner.Runner`."""
        first, self._next = self._next, self._next + count
        # Frames are waited for in order, with some on their way: as a script's player does.
        part = self._clip[first : first + count]
        start = time.perf_counter()
        for frame in part.frames(prefetch=2 * self._streams, close=True):
            frame.close()
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
