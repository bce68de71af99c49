"""``hatvid upscale``: one video from file to file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from hatvid.errors import OptionError
from hatvid.options import (
    DEFAULT_MODEL,
    DEFAULT_OVERLAP,
    EncodeOptions,
    EngineName,
    EngineOptions,
    JobOptions,
    Precision,
    TileOptions,
)
from hatvid.selectors import TimePoint

__all__ = ["upscale"]


class _NumberOrAuto(click.ParamType[int | str]):
    """A whole number, or the word auto."""

    name = "N|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if isinstance(value, int):
            return value
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor auto", param, ctx)


class _Time(click.ParamType[TimePoint]):
    """A place on the input's time line."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> TimePoint:
        if isinstance(value, TimePoint):
            return value
        try:
            return TimePoint.parse(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)


class _KeyValue(click.ParamType[tuple[str, str]]):
    """``K=V``."""

    name = "K=V"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value[0], value[1]
        key, equals, rest = value.partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not of the form K=V", param, ctx)
        return key, rest


@click.command(short_help="Make a video 2, 3 or 4 times larger.")
@click.argument("input", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUTPUT",
    help="Default: NAME_xS.EXT beside the input.",
)
@click.option(
    "--scale",
    type=int,
    default=4,
    show_default=True,
    metavar="2|3|4",
    help="Output pixels an input pixel, along each axis.",
)
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    metavar="NAME|PATH",
    help="A known name, or a checkpoint; auto: the embedded one of that scale.",
)
@click.option(
    "--engine",
    type=click.Choice(get_args(EngineName)),
    default="auto",
    show_default=True,
    help="What runs the network.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="auto",
    show_default=True,
    help="What the network computes in.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="auto, cpu, cuda or cuda:N.",
)
@click.option("--threads", type=int, metavar="N", help="CPU threads for the network.")
@click.option(
    "--tile",
    type=_NumberOrAuto(),
    default="auto",
    show_default=True,
    help="Side of a tile in input pixels, a multiple of 16; 0: the whole frame; "
    "auto: as large as fits in memory.",
)
@click.option(
    "--overlap",
    type=int,
    default=DEFAULT_OVERLAP,
    show_default=True,
    metavar="N",
    help="Input pixels that neighbouring tiles share.",
)
@click.option(
    "--batch",
    type=_NumberOrAuto(),
    default="auto",
    show_default=True,
    help="Tiles in one call of the engine.",
)
@click.option("--codec", metavar="NAME", help="FFmpeg's name of the encoder, e.g. libx265.")
@click.option("--crf", type=float, metavar="Q", help="Constant quality; lower is better.")
@click.option("--preset", metavar="NAME", help="The encoder's preset.")
@click.option(
    "--pix-fmt", metavar="NAME", help="Default: the input's depth and chroma subsampling."
)
@click.option(
    "--encoder-option",
    "encoder_options",
    type=_KeyValue(),
    multiple=True,
    help="Passed to the encoder as it is; may be repeated.",
)
@click.option("--start", type=_Time(), help="First frame: 12.5, 00:00:12.5 or 300f.")
@click.option("--end", type=_Time(), help="First frame left out, likewise.")
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@click.option(
    "--strict",
    is_flag=True,
    help="Stop at a frame that cannot be decoded; else the one before is repeated.",
)
@click.option(
    "--progress",
    type=click.Choice(["bar", "json", "none"]),
    default="bar",
    show_default=True,
    help="json: one object a line on standard output.",
)
def upscale(**given: Any) -> None:
    """Make a video 2, 3 or 4 times larger.

    Every frame keeps its time; sound, subtitles and tags are copied. The output appears
    under its name only when it is whole.
    """
    options = JobOptions(
        input=given["input"],
        output=given["output"],
        scale=given["scale"],
        model=given["model"],
        engine=EngineOptions(
            engine=given["engine"],
            precision=given["precision"],
            device=given["device"],
            threads=given["threads"],
        ),
        tile=TileOptions(tile=given["tile"], overlap=given["overlap"], batch=given["batch"]),
        encode=EncodeOptions(
            codec=given["codec"],
            crf=given["crf"],
            preset=given["preset"],
            pix_fmt=given["pix_fmt"],
            encoder_options=dict(given["encoder_options"]),
        ),
        start=given["start"],
        end=given["end"],
        overwrite=given["overwrite"],
        strict=given["strict"],
    )
    # Imported here and in this order: a wrong name is answered before torch is loaded.
    from hatvid.jobs.job import plan_job

    job = plan_job(options)
    from hatvid.cli.progress import reporter
    from hatvid.jobs.run import run_job

    with reporter(given["progress"]) as report:
        report.finished(run_job(job, progress=report))
