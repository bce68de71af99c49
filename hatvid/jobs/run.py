"""Run a job: straight through, or in segments."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from hatvid.engine import resolve_engine
from hatvid.errors import OutOfMemoryError
from hatvid.jobs.account import Account
from hatvid.jobs.format import check_fields, plan_frames, plan_output, scale_for
from hatvid.jobs.in_segments import InSegments, course_for
from hatvid.jobs.job import Job
from hatvid.jobs.progress import Progress, Silent
from hatvid.jobs.receipt import Receipt, ShardReceipt
from hatvid.jobs.sources import open_source
from hatvid.jobs.stills import PictureReceipt, run_pictures
from hatvid.jobs.straight import Straight
from hatvid.jobs.upscalers import Load, own_upscaler
from hatvid.options import JobOptions
from hatvid.upscaler import Upscaler
from hatvid.video.streams import plan_streams

__all__ = ["run_job"]


def run_job(
    job: Job,
    *,
    progress: Progress | None = None,
    upscaler: Upscaler | None = None,
    load: Load = own_upscaler,
) -> Receipt | PictureReceipt | ShardReceipt:
    """Carry a job out.

    Args:
        job: as planned.
        progress: told what happens.
        upscaler: used in place of the one that the job describes; it stays open.
        load: where the one that the job describes comes from, once all that can be refused
            without it has been.

    Raises:
        HatvidError: see :mod:`hatvid.errors`; nothing lies under the output's name then.
        TypeError: ``progress`` lacks a method.
    """
    progress = progress or Silent()
    given: object = progress  # by callers that no type checker looked at
    if not isinstance(given, Progress):
        name = type(given).__name__
        raise TypeError(f"{name} lacks a method of hatvid.jobs.progress.Progress")
    account = Account(job=job, progress=progress)
    for note in job.notes:
        account.note(note)
    options, straight = job.options, Straight(account)
    if job.pictures is not None:
        if upscaler is not None:
            return run_pictures(job.pictures, upscaler, size=options.size, progress=progress)
        with load(job, job.scale) as own:
            return run_pictures(job.pictures, own, size=options.size, progress=progress)
    with ExitStack() as stack:
        while True:
            with open_source(job, _decoding_device(options, upscaler)) as source:
                account.note_new(source)
                for note in check_fields(source.info, options.reading):
                    account.note(note)
                # All that can be refused is refused before a checkpoint is read.
                scale = upscaler.scale if upscaler is not None else scale_for(job, source.info)
                streams = None
                if job.container is None:
                    plan = plan_frames(job, source.info, scale)
                else:
                    plan = plan_output(job, job.container, source.info, scale)
                    streams = plan_streams(
                        source.container,
                        source.stream,
                        options.streams,
                        job.container.muxer,
                        cut=job.cut,
                    )
                for note in plan.notes:
                    account.note(note)
                course = course_for(account, source, plan, upscaler)
                if course is not None and streams is not None:
                    return InSegments(account, source, plan, streams, course).carry_out(
                        upscaler, scale, load
                    )
                if upscaler is None and not job.as_is:
                    upscaler = stack.enter_context(load(job, scale))
                if upscaler is not None:
                    account.note_scale(upscaler.name, upscaler.network_scale, upscaler.scale)
                try:
                    return straight.carry_out(source, plan, streams, upscaler)
                except OutOfMemoryError as error:
                    account.start_over(source, upscaler, error)


def _decoding_device(options: JobOptions, upscaler: Upscaler | None) -> torch.device | None:
    """Where frames that a GPU decodes can stay, as the network runs there."""
    if options.reading.hwaccel != "cuda":
        return None
    device = resolve_engine(options.engine).device if upscaler is None else upscaler.device
    return device if device.type == "cuda" else None
