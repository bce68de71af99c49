"""vs-mlrt as a contestant: its OpenVINO plugin for VapourSynth, ``core.ov.Model``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import vapoursynth as vs

from hatvid.bench.contestants import tile_shape
from hatvid.bench.runner import Runner, Task
from hatvid.bench.vs_clip import ClipRunner
from hatvid.errors import EngineError

__all__ = ["plugin"]


def plugin(task: Task, settings: Mapping[str, Any]) -> Runner:
    """Settings: ``fp16`` and ``streams`` are the plugin's; ``tile`` and ``overlap`` are in
    input pixels, ``halves`` are two tiles of full height, and without either it gets the whole
    frame at once."""
    if not hasattr(vs.core, "ov"):
        raise EngineError("vs-mlrt's plugin is not installed; run: pip install 'hatvid[bench]'")
    streams: int = settings["streams"]
    options: dict[str, Any] = {"num_streams": streams, "fp16": settings["fp16"]}
    height, width = tile_shape(settings, task.height, task.width)
    if (height, width) != (task.height, task.width):
        overlap = settings["overlap"]
        options["tilesize"] = [width, height]
        options["overlap"] = [overlap, overlap if height < task.height else 0]

    def larger(clip: Any) -> Any:
        return vs.core.ov.Model(
            [clip],
            network_path=task.onnx,
            config=lambda: {"INFERENCE_NUM_THREADS": str(task.threads)},
            **options,
        )

    return ClipRunner(
        task,
        larger,
        step=streams,
        ahead=2 * streams,
        threads=max(task.threads, streams),
        precision="bf16" if task.native_bf16 else "fp32",  # OpenVINO's own choice
        settings=settings,
    )
