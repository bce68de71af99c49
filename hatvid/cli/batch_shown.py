"""What a batch shows: its jobs as they begin and end, and a table in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from textwrap import shorten

import click

from hatvid.cli.lines import one_line
from hatvid.jobs.batch_plan import Row

__all__ = ["Shown", "counted", "planned_line"]

_COLORS = {"done": "green", "failed": "red", "stopped": "red", "skipped": "yellow"}


class Shown:
    """For one kind of ``--progress``: bar, json or none."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def notes(self, notes: Sequence[str]) -> None:
        """What the user should know of the whole."""
        for note in notes:
            if self._kind == "json":
                self._event({"event": "note", "text": note})
            elif self._kind == "bar":
                self.line(note)

    def begin(self, row: Row, of: int) -> None:
        """A job begins; ``of`` is how many there are."""
        if self._kind == "json":
            names = {"input": str(row.input), "output": str(row.output)}
            self._event({"event": "job", "job": row.number, "of": of, **names})
        elif self._kind == "bar":
            self.line(f"[{row.number}/{of}] {row.input}")

    def end(self, row: Row) -> None:
        """What became of it."""
        if self._kind == "json":
            self._event({"event": "ended", **row.as_dict()})
        if row.state == "failed":
            self.failed(row)

    def failed(self, row: Row) -> None:
        """Why a job cannot be, or could not."""
        named = str(row.input) in row.reason
        self.line(row.reason if named else f"{row.input}: {row.reason}")

    def line(self, text: str) -> None:
        """On standard error."""
        click.echo(f"hatvid: {one_line(text)}", err=True)

    def summary(self, rows: Sequence[Row]) -> None:
        """The table on standard error; nothing for programs."""
        if self._kind != "bar":
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        def cell(value: object) -> Text:
            return Text(one_line(str(value)))

        console = Console(stderr=True, highlight=False)
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("input", "output", "state"):
            table.add_column(name, overflow="fold")
        table.add_column("frames", justify="right")
        table.add_column("seconds", justify="right")
        table.add_column("why", overflow="fold")
        for row in rows:
            frames = row.receipt.get("frames")
            table.add_row(
                cell(row.input),
                cell(row.output or "-"),
                Text(row.state, style=_COLORS.get(row.state, "")),
                "" if frames is None else str(frames),
                f"{row.seconds:.1f}" if row.seconds else "",
                cell(shorten(row.reason, 80)),  # the line before told all of it
            )
        console.print(table)
        self.line(counted(rows))

    def _event(self, record: dict[str, object]) -> None:
        click.echo(json.dumps(record))


def counted(rows: Sequence[Row]) -> str:
    """How many came to what: ``3 done, 1 skipped``."""
    counts = Counter[str](row.state for row in rows)
    order = ("done", "skipped", "failed", "stopped", "not started")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])


def planned_line(row: Row) -> str:
    """What would be done with one input."""
    if row.state == "not started":
        return one_line(f"{row.input} -> {row.output}")
    return one_line(f"{row.input}: {row.state}: {row.reason}")
