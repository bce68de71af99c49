"""The upscaler that a job describes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from hatvid.jobs.job import Job
from hatvid.jobs.records import Resolved
from hatvid.model.fingerprint import state_dict_hash
from hatvid.model.zoo import load_model, resolve_model
from hatvid.options import JobOptions, SizeOptions
from hatvid.upscaler import Upscaler

__all__ = ["Load", "own_upscaler", "settled"]

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
    streams = options.engine.streams
    if streams == "auto" and job.pictures is not None:
        streams = 1  # a picture alone has all threads to itself
    if job.model is not None and options.size != SizeOptions():
        # Resampled once, from all that the network gives, to the size asked for.
        scale = job.model.scale
    model = load_model(options.model, scale)
    return Upscaler(
        model,
        scale=model.scale,
        output_scale=scale,
        engine_options=replace(options.engine, streams=streams),
        tile_options=options.tile,
        reuse=options.reuse,
        fingerprint=state_dict_hash(model),
        name=resolve_model(options.model, scale).name,
    )


def settled(options: JobOptions, resolved: Resolved) -> JobOptions:
    """Options with ``auto`` as an earlier run of the job decided it.

    What is asked for by name stays; whether it is the same is looked at elsewhere.
    """
    engine, tile = options.engine, options.tile
    return replace(
        options,
        engine=replace(
            engine,
            engine=resolved.engine if engine.engine == "auto" else engine.engine,
            precision=resolved.precision if engine.precision == "auto" else engine.precision,
            layout=resolved.layout if engine.layout == "auto" else engine.layout,
            kernel=resolved.kernel if engine.kernel == "auto" else engine.kernel,
            threads=engine.threads or resolved.threads,
            streams=resolved.streams if engine.streams == "auto" else engine.streams,
        ),
        tile=replace(
            tile,
            tile=resolved.tile if tile.tile == "auto" else tile.tile,
            overlap=resolved.overlap if tile.overlap == "auto" else tile.overlap,
            batch=resolved.batch if tile.batch == "auto" else tile.batch,
            chunked=resolved.chunked if tile.tile in ("auto", resolved.tile) else None,
        ),
    )
