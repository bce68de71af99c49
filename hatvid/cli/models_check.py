"""``hatvid models check``: the numbers inside a HAT, and which precision is safe."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hatvid.cli.lines import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from hatvid.engine.fidelity import Fidelity
    from hatvid.research.check import ModelCheck

__all__ = ["check"]


@click.command(short_help="Measure a HAT's inner ranges, and how near fp16 comes to fp32.")
@click.argument("model", metavar="FILE|NAME")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="PICTURE",
    help="PNG, JPEG or WebP; default: a picture that comes with hatvid.",
)
@click.option(
    "--crop",
    type=click.IntRange(min=16),
    default=128,
    show_default=True,
    metavar="N",
    help="Pixels along a side, cut from its middle; fp16 is slow on a CPU.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check(model: str, image: Path | None, crop: int, as_json: bool) -> None:
    """Run a HAT over a picture in fp32, fp16 and bf16.

    Printed are, for each block, the largest magnitudes of the residual stream, of queries,
    keys and values, of the attention's logits, inside the MLP and of CAB's two
    convolutions; by which powers of two fp16 divides (s the stream, t CAB); and the
    SNR of the output against that of fp32. All of it is computed on the CPU.
    """
    from hatvid.model.zoo import resolve_model

    resolve_model(model)  # a wrong name is answered before torch is loaded
    from hatvid.research.check import check_model

    found = check_model(model, image, crop=crop)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        _print(found)


def _print(found: ModelCheck) -> None:
    from rich.console import Console

    picture = "the embedded picture" if found.picture is None else str(found.picture)
    click.echo(one_line(f"{found.model} on {found.width}x{found.height} of {picture}"))
    Console(file=sys.stdout, soft_wrap=True, highlight=False).print(_table(found))
    plan = found.plan
    click.echo(f"subnormal   {plan.subnormal:.2%} of the weights that s divides, because of s")
    click.echo(
        "residual    "
        + ("fp32, as s would cost too much" if plan.residual_fp32 else "fp16, divided by s")
    )
    for label, fidelity in (
        ("fp16", found.fp16),
        ("fp16 plain", found.fp16_plain),
        ("bf16", found.bf16),
    ):
        click.echo(f"{label:11} {_shown(fidelity)}")
    click.echo(found.verdict)


def _table(found: ModelCheck) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("block", no_wrap=True)
    for name in ("residual", "qkv", "logits", "MLP", "CAB 1", "CAB 2", "s", "t"):
        table.add_column(name, justify="right", no_wrap=True)
    ranges, plan = found.ranges, found.plan

    def row(name: str, *values: float | None) -> None:
        table.add_row(name, *("" if value is None else f"{value:.4g}" for value in values))

    row("shallow", ranges.shallow)
    for number, (group, s, ts) in enumerate(zip(ranges.groups, plan.s, plan.t, strict=True)):
        for at, block in enumerate(group.all_blocks):
            is_hab = at < len(group.blocks)
            row(
                f"RHAG {number} {f'HAB {at}' if is_hab else 'OCAB'}",
                block.residual,
                block.qkv,
                block.logits,
                block.mlp_hidden,
                block.cab_hidden,
                block.cab,
                s,
                ts[at] if is_hab else None,
            )
        row(f"RHAG {number} conv", group.residual, *(None,) * 5, s)
    row("body", ranges.body)
    row("tail", ranges.tail)
    return table


def _shown(fidelity: Fidelity) -> str:
    if fidelity.max_error == math.inf:
        return "inf: it runs out of range"
    if fidelity.snr == math.inf:
        return "equal to fp32"
    return f"{fidelity.snr:.1f} dB SNR, largest error {fidelity.max_error:.2g}"
