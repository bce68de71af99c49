"""hatvid as a contestant: frames through :class:`~hatvid.upscaler.Upscaler`, as users run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file

from hatvid.bench.runner import Array, Frames, Runner, Sequential, Task
from hatvid.model.hat import HAT, HATConfig
from hatvid.options import EngineOptions, ReuseOptions, TileOptions
from hatvid.upscaler import Upscaler

__all__ = ["upscaler"]

LONG_JOB = 10_000
"""Frames ahead, for which ``auto`` measures which engine is the faster, as a job would."""


def upscaler(task: Task, settings: Mapping[str, Any]) -> Runner:
    """Settings: ``engine``, ``precision`` and ``streams``, and ``tile`` (see the options of
    those names).

    Without ``tile`` a clip's frames go through whole; a tile is one tile. Nothing is kept on
    disk or taken from there, and nothing is reused.
    """
    tile = settings.get("tile", task.tile)
    network = HAT(HATConfig(**task.network)).eval()
    network.load_state_dict(load_file(task.weights), strict=True)
    torch.set_num_threads(task.threads)
    ours = Upscaler(
        network,
        scale=task.scale,
        engine_options=EngineOptions(
            engine=settings["engine"],
            precision=settings["precision"],
            device="cpu",
            threads=task.threads,
            streams=settings["streams"],
        ),
        tile_options=TileOptions(tile=tile),
        reuse=ReuseOptions(mode="off"),
    )
    chosen = ours.warm_up(task.height, task.width, ahead=LONG_JOB)

    def upscale(frame: Array) -> Array:
        larger: Array = ours(torch.from_numpy(frame)).numpy()
        return larger

    told = {"engine": chosen.engine, "precision": chosen.precision, "tiles": chosen.tiles}
    # As a job does: as many frames at once as fill a batch.
    step = max(1, chosen.batch // chosen.tiles)
    if step > 1:
        told["frames at once"] = step
    if chosen.chunked:
        told["chunked"] = True
    return Sequential(
        Frames.of(task), upscale, precision=chosen.precision, settings=told, step=step
    )
