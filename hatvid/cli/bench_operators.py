"""``hatvid bench --operators``: what each kind of operator takes."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Literal

import click

from hatvid.cli.bench_json import write_figures

if TYPE_CHECKING:
    from hatvid.bench.operators import OperatorTimes

__all__ = ["operators_option", "run_operators"]

operators_option = click.option(
    "--operators", is_flag=True, help="What each kind of operator of OpenVINO's engine takes."
)


def run_operators(
    model: str,
    size: tuple[int, int],
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    scale: int | None = None,
    runs: int | None = None,
    threads: int | None = None,
    markdown: bool = False,
    json_file: IO[str] | None = None,
) -> None:
    """Measure, and print a table.

    Args:
        model: as for a race.
        size: (width, height) of the tile.
        precision: ``fp32`` or ``bf16``.
        scale: of a network without a checkpoint.
        runs: None is a few.
        threads: of the CPU; None is one a core.
        markdown: the table in Markdown.
        json_file: gets the figures, too; standard output instead of the table.
    """
    from hatvid.bench.operators import operator_times

    width, height = size
    chosen = {} if runs is None else {"runs": runs}
    times = operator_times(
        model, width, height, precision=precision, scale=scale, threads=threads, **chosen
    )
    if write_figures(json_file, times.as_dict()):
        _print(times, markdown)


def _print(times: OperatorTimes, markdown: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    click.echo(
        f"{times.model}, {times.width}x{times.height}, OpenVINO {times.precision}, "
        f"{times.threads} threads: {times.seconds * 1e3:.1f} ms in operators, "
        f"medians of {times.runs} runs"
    )
    table = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    table.add_column("operators", no_wrap=True)
    for name in ("number", "ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind in times.kinds:
        share = kind.seconds / times.seconds
        table.add_row(kind.name, str(kind.count), f"{kind.seconds * 1e3:.1f}", f"{share:.0%}")
    Console(width=120, highlight=False).print(table)
