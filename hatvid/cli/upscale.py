"""``hatvid upscale``: one video from file to file, or through a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hatvid.cli.options import (
    Time,
    encode_options,
    engine_options,
    given_encoding,
    given_engine,
    given_reading,
    given_size,
    given_streams,
    given_tiles,
    model_options,
    reading_options,
    size_options,
    stream_options,
    together,
)
from hatvid.cli.reuse import given_reuse, reuse_options
from hatvid.cli.script import given_script, script_options
from hatvid.cli.segments import given_segments, segment_options, sharing_options
from hatvid.cli.waiting import rest_while_waiting
from hatvid.options import JobOptions
from hatvid.segment_options import SegmentOptions

__all__ = [
    "asked_options",
    "ending_options",
    "job_options",
    "join",
    "output_options",
    "settings_options",
    "upscale",
]


_output = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="OUTPUT",
    help="Default: NAME_xS.EXT beside the input; - is standard output.",
)
_format = click.option(
    "--format", metavar="NAME", help="What standard output gets.  [default: y4m]"
)
_enlarging = together(
    click.option(
        "--scale",
        type=int,
        metavar="2|3|4",
        help="Output pixels an input pixel, along each axis.  [default: 4, or what the size needs]",
    ),
    size_options,
    model_options,
    engine_options,
    reuse_options,
    encode_options,
)
_reading = together(
    stream_options,
    click.option("--start", type=Time(), help="First frame: 12.5, 00:00:12.5 or 300f."),
    click.option("--end", type=Time(), help="First frame left out, likewise."),
    reading_options,
    script_options,
)

output_options = together(_output, _enlarging, _format, _reading)

settings_options = together(_enlarging, _reading)
"""The same without what names one output."""

ending_options = together(
    click.option("--overwrite", is_flag=True, help="Replace an output that exists."),
    click.option(
        "--verify",
        type=click.Choice(["full", "quick", "none"]),
        default="full",
        show_default=True,
        help="How the output is compared with the input in the end; quick: without the pictures.",
    ),
    click.option(
        "--progress",
        type=click.Choice(["bar", "json", "none"]),
        default="bar",
        show_default=True,
        help="json: one object a line, on standard output (on standard error if the video is "
        "there).",
    ),
)


@click.command(short_help="Make a video 2, 3 or 4 times larger.")
@click.argument("input", type=click.Path(path_type=Path, allow_dash=True))
@output_options
@segment_options
@sharing_options
@ending_options
def upscale(**given: Any) -> None:
    """Make a video 2, 3 or 4 times larger.

    Every frame keeps its time; sound, subtitles and tags are copied. The output appears
    under its name only when it is whole. INPUT may be - for standard input, a picture, or
    numbered pictures (frames_%05d.png). A VapourSynth script (.vpy) is run, and its frames
    are encoded as they are unless --scale or a size is given. A long video is kept in parts
    as they are done: after a stop the same command goes on from there.
    """
    _run(given, given_segments(given))


@click.command(short_help="Put together what shards made.")
@click.argument("input", type=click.Path(path_type=Path))
@output_options
@segment_options
@ending_options
def join(**given: Any) -> None:
    """Put together what upscale --shard K/N made, without computing anything.

    Give it the shards' command with join in place of upscale, and no --shard.
    """
    _run(given, given_segments(given, join=True))


def _run(given: Mapping[str, Any], segments: SegmentOptions) -> None:
    options = asked_options(given, segments)
    rest_while_waiting()
    # Imported here and in this order: a wrong name is answered before torch is loaded.
    from hatvid.jobs.job import plan_job

    job = plan_job(options)
    from hatvid.cli.progress import reporter
    from hatvid.jobs.run import run_job

    with reporter(given["progress"], to_stdout=not job.to_stdout) as report:
        report.finished(run_job(job, progress=report))


def asked_options(given: Mapping[str, Any], segments: SegmentOptions) -> JobOptions:
    """What :func:`job_options` and :data:`ending_options` collected."""
    return replace(
        job_options(given),
        overwrite=given["overwrite"],
        verify=given["verify"],
        segments=segments,
    )


def job_options(given: Mapping[str, Any]) -> JobOptions:
    """What :data:`output_options` and the argument collected."""
    return JobOptions(
        input=given["input"],
        output=given["output"],
        scale=given["scale"],
        model=given["model"],
        engine=given_engine(given),
        tile=given_tiles(given),
        reuse=given_reuse(given),
        encode=given_encoding(given),
        reading=given_reading(given),
        size=given_size(given),
        streams=given_streams(given),
        script=given_script(given),
        format=given["format"],
        start=given["start"],
        end=given["end"],
    )
