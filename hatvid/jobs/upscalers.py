"""The upscaler that a job asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from hatvid.jobs.job import Job
from hatvid.options import SizeOptions
from hatvid.upscaler import Upscaler

__all__ = ["Load", "own_upscaler"]

Load = Callable[[Job, int | None], AbstractContextManager[Upscaler]]
"""Like :func:`own_upscaler`."""


def own_upscaler(job: Job, scale: int | None) -> Upscaler:
    """Load the network that a job names, and run it as the job's options say.

    Args:
        scale: what comes out; None is the network's.

    Raises:
        HatvidError: see :meth:`hatvid.upscaler.Upscaler.from_checkpoint`.
    """
    options = job.options
    engine, tile = options.engine, options.tile
    streams = engine.streams
    if streams == "auto" and job.pictures is not None:
        streams = 1  # a picture alone has all threads to itself
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
        streams=streams,
        compiled=engine.compiled,
        tile=tile.tile,
        overlap=tile.overlap,
        batch=tile.batch,
        reuse=options.reuse.mode,
        reuse_tolerance=options.reuse.tolerance,
        reuse_memory=options.reuse.memory,
    )
