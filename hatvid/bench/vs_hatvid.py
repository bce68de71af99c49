"""hatvid's VapourSynth filter as a contestant, in a script as its users write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hatvid.bench.runner import Runner, Task

__all__ = ["plugin"]

AHEAD = 8
"""Frames asked for in advance: some batches."""


def plugin(task: Task, settings: Mapping[str, Any]) -> Runner:
    """Settings: ``precision``, ``tile`` and what else :func:`hatvid_vs.upscale` takes.

    Without ``tile`` a clip's frames go through whole, and a tile is one tile. Nothing is reused.
    """
    # First, as a script does it: before VapourSynth's plugins are loaded.
    from hatvid_vs import upscale

    from hatvid.bench.vs_clip import ClipRunner

    options = {"tile": task.tile, **settings}

    def larger(clip: Any) -> Any:
        return upscale(
            clip,
            scale=task.scale,
            model=task.weights,
            device="cpu",
            threads=task.threads,
            reuse="off",
            **options,
        )

    return ClipRunner(
        task,
        larger,
        step=2,
        ahead=AHEAD,
        threads=task.threads,
        precision=settings["precision"],
        settings=options,
    )
