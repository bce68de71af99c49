"""``hatvid jobs``: what was begun and is not done."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hatvid.cli.lines import one_line

__all__ = ["jobs"]


@click.group(short_help="What was begun and is not done.")
def jobs() -> None:
    """List, show or clean what is kept of jobs that were stopped.

    The command that a job was begun with goes on with it.
    """


@jobs.command("list")
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def list_jobs(folder: Path, as_json: bool) -> None:
    """List the unfinished jobs whose outputs would lie in FOLDER (here by default)."""
    from hatvid.jobs.listing import kept_in

    for kept in kept_in(folder):
        if as_json:
            record = {
                "output": str(kept.output),
                "input": kept.header.input if kept.header else None,
                "done": kept.done,
                "segments": kept.segments,
                "bytes": kept.size,
                "working": kept.working,
            }
            click.echo(json.dumps(record))
            continue
        state = "at work" if kept.working else "stopped"
        whole = "?" if kept.segments is None else kept.segments
        size = f"{kept.size / 10**6:.1f} MB"
        click.echo(one_line(f"{kept.output}: {kept.done} of {whole} segments, {size}, {state}"))


@jobs.command("show")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One object.")
def show_job(output: Path, as_json: bool) -> None:
    """Show what the packets of an unfinished OUTPUT hang on, and what is done of it."""
    from hatvid.errors import OutputError
    from hatvid.jobs.listing import kept_at

    kept = kept_at(output)
    if kept.header is None:
        raise OutputError(f"what is kept of {output} cannot be believed; begin anew with --restart")
    if as_json:
        found = kept.header.model_dump(mode="json") | {"done": kept.done, "bytes": kept.size}
        click.echo(json.dumps(found))
        return
    click.echo(one_line(f"input: {kept.header.input}"))
    click.echo(f"segments: {kept.done} of {kept.segments} are done")
    for name, value in kept.header.settings.items():
        if value:
            click.echo(one_line(f"{name}: {value}"))


@jobs.command("clean")
@click.argument("outputs", type=click.Path(path_type=Path), nargs=-1, required=True)
def clean_jobs(outputs: tuple[Path, ...]) -> None:
    """Throw away what is kept of unfinished OUTPUTS; no output is touched."""
    from hatvid.jobs.listing import kept_at, remove

    for kept in [kept_at(output) for output in outputs]:
        remove(kept)
        click.echo(one_line(f"{kept.output}: {kept.size / 10**6:.1f} MB freed"))
