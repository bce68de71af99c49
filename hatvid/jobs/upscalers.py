"""The upscaler that a job describes."""

from __future__ import annotations

from dataclasses import replace

from hatvid.jobs.job import Job
from hatvid.jobs.records import Resolved
from hatvid.options import EngineOptions, JobOptions, SizeOptions, TileOptions
from hatvid.upscaler import Upscaler

__all__ = ["own_upscaler", "settled"]


def own_upscaler(job: Job, scale: int | None) -> Upscaler:
    """Load the network that a job names, to be run as the job says.

    Args:
        scale: that is wanted; None takes the network's.

    Raises:
        HatvidError: it cannot be had, or not run so.
    """
    options = job.options
    engine, tile = options.engine, options.tile
    if job.model is not None and options.size != SizeOptions():
        # Resampled once, from all that the network gives, to the size asked for.
        scale = job.model.scale
    return Upscaler.from_checkpoint(
        options.model,
        scale=scale,
        engine=engine.engine,
        precision=engine.precision,
        device=engine.device,
        threads=engine.threads,
        streams=engine.streams,
        compiled=engine.compiled,
        tile=tile.tile,
        overlap=tile.overlap,
        batch=tile.batch,
    )


def settled(options: JobOptions, resolved: Resolved) -> JobOptions:
    """Options with ``auto`` as an earlier run of the job decided it.

    What is asked for by name stays; whether it is the same is looked at elsewhere.
    """
    engine, tile = options.engine, options.tile
    return replace(
        options,
        engine=EngineOptions(
            engine=resolved.engine if engine.engine == "auto" else engine.engine,
            precision=resolved.precision if engine.precision == "auto" else engine.precision,
            device=engine.device,
            threads=engine.threads or resolved.threads,
            streams=engine.streams,
            compiled=engine.compiled,
        ),
        tile=TileOptions(
            tile=resolved.tile if tile.tile == "auto" else tile.tile,
            overlap=resolved.overlap if tile.overlap == "auto" else tile.overlap,
            batch=resolved.batch if tile.batch == "auto" else tile.batch,
        ),
    )
