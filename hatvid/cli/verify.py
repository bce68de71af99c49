"""``hatvid verify``: prove that one file is another, larger, with nothing lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hatvid.cli.lines import one_line
from hatvid.cli.options import Time, given_reading, given_streams, reading_options, stream_options
from hatvid.errors import OptionError

if TYPE_CHECKING:
    from hatvid.jobs.checks import Verification

__all__ = ["verify"]


@click.command(short_help="Prove that an output is its input, larger.")
@click.argument("input", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--quick", is_flag=True, help="Leave the pictures unseen.")
@click.option("--start", type=Time(), help="As the output was made with.")
@click.option("--end", type=Time(), help="Likewise.")
@stream_options
@reading_options
def verify(**given: Any) -> int:
    """Prove that OUTPUT is INPUT, larger, with nothing lost.

    Both files are read and decoded: frames, times, streams, tags and pictures are
    compared, and each check is one line. The exit code is 1 if any does not hold. Options
    that the output was made with are to be given here too.
    """
    if str(given["output"]) == "-" or str(given["input"]) == "-":
        raise OptionError("both files are read more than once; name files, not -")
    reading, streams = given_reading(given), given_streams(given)
    # Imported here: a wrong option is answered before torch is loaded.
    from hatvid.jobs.verify import verify as compare

    found = compare(
        given["input"],
        given["output"],
        start=given["start"],
        end=given["end"],
        reading=reading,
        streams=streams,
        quick=given["quick"],
    )
    if given["as_json"]:
        sys.stdout.write(json.dumps(found.as_dict()) + "\n")
    else:
        _print(found)
    return 0 if found.ok else 1


def _print(found: Verification) -> None:
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        verdict = click.style("ok    ", fg="green") if check.ok else click.style("FAILED", fg="red")
        click.echo(f"{verdict}  {check.name.ljust(width)}  {one_line(check.text)}")
