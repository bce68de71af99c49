"""``hatvid bench --pipeline``: what a job takes beside the network."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from hatvid.cli.bench_json import write_figures
from hatvid.cli.waiting import rest_while_waiting
from hatvid.options import Precision

if TYPE_CHECKING:
    from hatvid.bench.pipeline import PipelineCost

__all__ = ["MADE_UP", "pipeline_option", "run_pipeline"]

MADE_UP = "-"

pipeline_option = click.option(
    "--pipeline",
    is_flag=False,
    flag_value=MADE_UP,
    metavar="[FILE]",
    help="Measure what decoding, colours, tiles and encoding take beside the network, in a job "
    "over the first frames of FILE; without it, of a made-up video of 320x180.",
)


def run_pipeline(
    clip: str,
    *,
    model: str | None,
    precision: Precision = "auto",
    rounds: int | None = None,
    threads: int | None = None,
    markdown: bool = False,
    json_file: IO[str] | None = None,
) -> None:
    """Measure, and print a table.

    Args:
        clip: a file, or :data:`MADE_UP`.
        model: None is the smallest.
        precision: of the network that is run.
        rounds: None is a few.
        threads: of the CPU for the network; None is one a core.
        markdown: the table in Markdown.
        json_file: gets the figures, too; standard output instead of the table.
    """
    rest_while_waiting()  # as a job does
    from hatvid.bench.pipeline import MODEL, ROUNDS, pipeline_cost

    cost = pipeline_cost(
        None if clip == MADE_UP else Path(clip),
        model=model or MODEL,
        precision=precision,
        rounds=rounds or ROUNDS,
        threads=threads,
    )
    if write_figures(json_file, cost.as_dict()):
        _print(cost, markdown)


def _print(cost: PipelineCost, markdown: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    size, larger = (f"{cost.width * scale}x{cost.height * scale}" for scale in (1, cost.scale))
    click.echo(
        f"{cost.model} on {cost.engine} {cost.precision}, {cost.threads} threads, {size} to "
        f"{larger}: {cost.frames} frames, medians of {cost.rounds} rounds"
    )
    table = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    table.add_column("ms a frame", no_wrap=True)
    for name in ("network that returns at once", "real network"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [("job", cost.instant.wall, cost.real.wall)]
    for stage, seconds in cost.instant.stages.items():
        rows.append((f"  {stage}", seconds, cost.real.stages[stage]))
    rows.append(("CPU, all threads", cost.instant.cpu, cost.real.cpu))
    for name, instant, real in rows:
        table.add_row(name, f"{instant * 1e3:.1f}", f"{real * 1e3:.1f}")
    Console(width=120, highlight=False).print(table)
    click.echo(f"job without the network: {cost.ratio:.1%} of the job with it")
    click.echo("decode and encode run beside the others; the proof follows the job")
