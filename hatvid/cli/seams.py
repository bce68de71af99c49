"""``hatvid seams``: what tiles cost in a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hatvid.cli.options import Time, model_options
from hatvid.errors import OptionError

if TYPE_CHECKING:
    from hatvid.research.seams import SeamRow

__all__ = ["seams"]


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"{name} is {text!r}; give whole numbers, as in 64,128") from None


@click.command(short_help="Measure what tiles cost against the whole frame.")
@click.argument("input", type=click.Path(path_type=Path))
@model_options
@click.option(
    "--tile",
    default="64,96,128",
    show_default=True,
    metavar="N,N,...",
    help="Sides of tiles in input pixels, multiples of 16.",
)
@click.option(
    "--overlap",
    default="0,16,32,48",
    show_default=True,
    metavar="N,N,...",
    help="Input pixels that neighbouring tiles share.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    metavar="N",
    help="Of a video: how many, spread over it.",
)
@click.option("--at", type=Time(), multiple=True, help="This frame in place of spread ones.")
@click.option(
    "--engine",
    type=click.Choice(["eager", "openvino"]),
    default="eager",
    show_default=True,
    help="What runs the network.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def seams(**given: Any) -> None:
    """Compare tiled results with that of the whole frame, in fp32.

    INPUT is a video or a picture. For each tile and overlap, in input pixels: the PSNR
    and the largest difference; the mean difference on the lines between tiles, and on as many
    lines elsewhere; and how much faster the difference changes across the first than across
    the second. Where that ratio is 1, seams cannot be told from other lines.
    """
    tiles, overlaps = _numbers("tile", given["tile"]), _numbers("overlap", given["overlap"])
    tilings = [(tile, overlap) for tile in tiles for overlap in overlaps if 2 * overlap <= tile]
    if not tilings or min(tiles) < 1:
        raise OptionError("no tile is at least 16 and twice as large as an overlap")
    from hatvid.model.zoo import resolve_model

    resolve_model(given["model"])  # a wrong name is answered before torch is loaded
    from hatvid.research.seams import measure_seams, read_frames
    from hatvid.upscaler import Upscaler

    rows = measure_seams(
        read_frames(given["input"], frames=given["frames"], at=given["at"]),
        tilings,
        lambda options: Upscaler.from_checkpoint(
            given["model"],
            engine=given["engine"],
            precision="fp32",
            tile=options.tile,
            overlap=options.overlap,
        ),
    )
    if given["as_json"]:
        click.echo(json.dumps([row.as_dict() for row in rows]))
    else:
        _print(rows)


def _print(rows: list[SeamRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("tile", "overlap", "tiles", "work", "PSNR", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("at seams", "elsewhere", "step ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.tile),
            str(row.overlap),
            str(row.tiles),
            f"{row.work:.2f}",
            f"{row.psnr:.2f} dB",
            f"{row.max_error:.2f}",
            f"{row.at_seams:.3f}",
            f"{row.elsewhere:.3f}",
            f"{row.step_ratio:.2f}",
        )
    Console(width=120).print(table)
    click.echo("differences in steps of 8 bits; work as a multiple of the frame's pixels")
