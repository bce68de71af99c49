"""``hatvid preview``: sample frames on one sheet, and how long the whole would take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hatvid.cli.lines import one_line
from hatvid.cli.options import (
    Specifier,
    Time,
    engine_options,
    given_engine,
    given_tiles,
    model_options,
)

__all__ = ["preview"]


@click.command(short_help="Show sample frames, bicubic beside HAT, and an ETA.")
@click.argument("input", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="SHEET.png",
    help="Default: NAME_preview.png beside the input.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    metavar="N",
    help="How many, spread over the video; empty ones are passed over.",
)
@click.option(
    "--at",
    type=Time(),
    multiple=True,
    help="This frame in place of spread ones: 12.5, 00:00:12.5 or 300f; may be repeated.",
)
@click.option(
    "--scale",
    type=click.IntRange(2, 4),
    default=4,
    show_default=True,
    metavar="2|3|4",
    help="Output pixels an input pixel, along each axis.",
)
@click.option("--map", "mapped", type=Specifier(), multiple=True, help="The video stream: v:1.")
@click.option("--overwrite", is_flag=True, help="Replace a sheet that exists.")
@model_options
@engine_options
def preview(**given: Any) -> None:
    """Draw sample frames as one PNG: the whole frame, and of a detail of it bicubic
    enlargement beside HAT.

    Printed are the seconds that a frame takes on this machine, and an estimate for the
    whole video.
    """
    engine, tile = given_engine(given), given_tiles(given)
    from hatvid.model.zoo import resolve_model

    resolve_model(given["model"], given["scale"])  # a wrong name is answered before torch
    from hatvid.jobs.preview import preview as draw

    drawn = draw(
        given["input"],
        given["output"],
        frames=given["frames"],
        at=given["at"],
        scale=given["scale"],
        model=given["model"],
        engine=engine,
        tile=tile,
        streams=given["mapped"],
        overwrite=given["overwrite"],
    )
    facts = drawn.description
    count = len(drawn.times)
    click.echo(one_line(f"{drawn.sheet}: {count} frame{'s' * (count != 1)} by {facts.model}"))
    click.echo(
        f"{drawn.seconds_per_frame:.3g} s a frame on {facts.device} ({facts.engine} "
        f"{facts.precision})"
    )
    if drawn.eta is None:
        click.echo("the file does not tell how many frames it has: no estimate for the whole")
    else:
        click.echo(
            f"about {_duration(drawn.eta)} for the whole video, an estimate: "
            f"{drawn.frames} frames x {drawn.seconds_per_frame:.3g} s"
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
