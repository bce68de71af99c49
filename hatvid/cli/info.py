"""``hatvid info``: what a job would do with a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hatvid.cli.lines import one_line
from hatvid.cli.upscale import job_options, output_options

if TYPE_CHECKING:
    from hatvid.jobs.info import Outlook

__all__ = ["info"]


@click.command(short_help="Show what a job would do with a file.")
@click.argument("input", type=click.Path(path_type=Path))
@output_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(as_json: bool, **given: Any) -> None:
    """Show what `hatvid upscale` would do with INPUT, given the same options.

    Colours and what is assumed of them, fields, frame rate, streams and their fate, the
    encoder chosen. Nothing is written.
    """
    from hatvid.jobs.job import plan_job

    # An output that exists stops nobody from looking.
    job = plan_job(replace(job_options(given), overwrite=True))
    from hatvid.jobs.info import look

    outlook = look(job)
    if as_json:
        click.echo(json.dumps(outlook.as_dict()))
    else:
        _print(outlook)


def _print(outlook: Outlook) -> None:
    for title, facts in (("input", outlook.input), ("output", outlook.output)):
        if facts:
            click.echo(title)
        for name, value in facts.items():
            if value not in (None, {}):
                shown = (
                    " ".join(f"{key}={option}" for key, option in value.items())
                    if isinstance(value, dict)
                    else value
                )
                click.echo(one_line(f"  {name.replace('_', ' '):20} {shown}"))
    if outlook.streams:
        click.echo("streams")
    for fate in outlook.streams:
        reason = f": {fate.reason}" if fate.reason else ""
        click.echo(
            one_line(f"  {fate.index:<3} {fate.kind:10} {fate.codec:12} {fate.fate}{reason}")
        )
    if outlook.notes:
        click.echo("notes")
    for note in outlook.notes:
        click.echo(one_line(f"  {note}"))
    if outlook.refused:
        click.echo(one_line(f"refused: {outlook.refused}"))
