"""Opening the input of a job: a video, or a script that makes one."""

from __future__ import annotations

import importlib
from contextlib import suppress

import torch

from hatvid.jobs.job import Job
from hatvid.jobs.verify_script import Given
from hatvid.options import JobOptions
from hatvid.selectors import is_script
from hatvid.video.source import VideoSource

__all__ = ["given_by", "open_source"]


def open_source(job: Job, device: torch.device | None = None) -> VideoSource:
    """Open what a job reads.

    Args:
        device: see :class:`~hatvid.video.source.VideoSource`.

    Raises:
        InputError: it cannot be read, or the script fails.
        OptionError: there are several video streams and none is chosen.
    """
    options = job.options
    if not is_script(options.input):
        return VideoSource(
            options.input,
            reading=options.reading,
            streams=options.streams,
            start=options.start,
            end=options.end,
            device=device,
        )
    # Before VapourSynth loads its plugins: that of vs-mlrt brings an OpenVINO of its own, and
    # of two the first one that is loaded serves all.
    with suppress(ImportError, OSError):
        importlib.import_module("hatvid.engine.openvino")
    from hatvid.video.vpy import ScriptSource  # loads VapourSynth

    return ScriptSource(
        options.input, script=options.script, reading=options.reading, streams=options.streams
    )


def given_by(source: VideoSource, options: JobOptions) -> Given | None:
    """What a script gave, once all its frames are taken; None for a video."""
    if not is_script(options.input):
        return None
    from hatvid.video.vpy import ScriptSource

    assert isinstance(source, ScriptSource)
    return Given(info=source.info, shown=source.shown, streams_from=options.script.streams_from)
