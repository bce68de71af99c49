"""``hatvid bench``: what the network costs."""

from __future__ import annotations

import json
import re
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hatvid.bench.traffic import Traffic

__all__ = ["bench"]

SMALLEST, LARGEST = 16, 16_384
"""Pixels along a side."""


class Size(click.ParamType[tuple[int, int]]):
    """Width and height as in 1280x720."""

    name = "WxH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", str(value))
        if found is None:
            self.fail(f"{value!r} is no size; write it as 1280x720", param, ctx)
        width, height = int(found[1]), int(found[2])
        if not SMALLEST <= min(width, height) <= max(width, height) <= LARGEST:
            self.fail(f"{value!r} has a side outside {SMALLEST} to {LARGEST}", param, ctx)
        return width, height


@click.command(short_help="Work out what a frame costs a GPU.")
@click.option("--traffic", is_flag=True, help="FLOPs, bytes and kernel launches of a frame.")
@click.option("--kernels", is_flag=True, help="Registers and memory of hatvid's own GPU kernels.")
@click.option(
    "--model",
    default="hat",
    show_default=True,
    metavar="NAME|FILE",
    help="hat-s, hat, hat-l, hat-nano, or a checkpoint; only its shape counts.",
)
@click.option(
    "--size",
    type=Size(),
    default="1280x720",
    show_default=True,
    metavar="WxH",
    help="Of the frame, or of a tile, before it is upscaled.",
)
@click.option("--scale", type=click.IntRange(1, 8), help="Of a network without a checkpoint.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp16",
    show_default=True,
    help="What is computed in; bf16 costs what fp16 costs.",
)
@click.option("--markdown", is_flag=True, help="The table in Markdown.")
@click.option(
    "--json",
    "json_file",
    type=click.File("w", encoding="utf-8", lazy=True),
    metavar="FILE",
    help="Write the figures as one JSON object, too; - is standard output, without a table.",
)
@click.pass_context
def bench(context: click.Context, /, **given: Any) -> None:
    """Work out what a frame costs a GPU: arithmetic, nothing is measured.

    With --traffic the published network and each of hatvid's forms of it run once on
    tensors without memory, and what their operators would do on an NVIDIA GPU is added up;
    it takes seconds and needs no GPU. The times are the least that three GPUs could take by
    their datasheets. How it is counted stands in docs/performance.md.

    With --kernels hatvid's own kernels are compiled for three GPUs, none of which needs to
    be here.
    """
    if given["traffic"]:
        _traffic(**given)
    if given["kernels"]:
        from hatvid.bench.kernels import compiled_kernels, kernel_table

        click.echo(kernel_table(compiled_kernels()))
    if not (given["traffic"] or given["kernels"]):
        click.echo(context.get_help())


def _traffic(
    *,
    model: str,
    size: tuple[int, int],
    scale: int | None,
    precision: str,
    markdown: bool,
    json_file: IO[str] | None,
    **_: Any,
) -> None:
    from hatvid.bench.networks import network_config
    from hatvid.bench.traffic import frame_traffic

    config = network_config(model, scale)
    width, height = size
    rows = frame_traffic(config, width, height, precision)
    if json_file is not None:
        found = {
            "model": model,
            "width": width,
            "height": height,
            "scale": config.upscale,
            "precision": precision,
            "measured": False,
            "forms": [row.as_dict() for row in rows],
        }
        json_file.write(json.dumps(found) + "\n")
    if json_file is None or json_file.name != "-":
        click.echo(f"{model} x{config.upscale}, {width}x{height}, {precision}")
        _print(rows, markdown)


def _print(rows: list[Traffic], markdown: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    for name in ("form", "attention"):
        table.add_column(name, no_wrap=True)
    names = [
        "GFLOP",
        "G elements",
        "GB read",
        "GB written",
        "MB from CPU",
        "launches",
        "ms to launch",
    ]
    for name in [*names, *(f"ms {gpu}" for gpu in rows[0].roofline_seconds)]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.form,
            row.attention,
            _digits(row.flops / 1e9),
            _digits(row.elements / 1e9),
            _digits(row.read / 1e9),
            _digits(row.written / 1e9),
            _digits(row.uploaded / 1e6),
            f"{row.launches:,}",
            _digits(row.launch_seconds * 1e3),
            *(_digits(seconds * 1e3) for seconds in row.roofline_seconds.values()),
        )
    Console(width=200, highlight=False).print(table)
    click.echo("arithmetic, nothing measured: the least time of each GPU by its datasheet;")
    click.echo("launches at 4 us each, by assumption; one launch with a CUDA graph")


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
