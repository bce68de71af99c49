"""``hatvid pipelines``: recipes to run, or to copy and change."""

from __future__ import annotations

from pathlib import Path

import click

from hatvid.cli.lines import one_line
from hatvid.jobs.recipes import copy_recipe, recipes

__all__ = ["pipelines"]


@click.group(short_help="Scripts to run, or to copy and change.")
def pipelines() -> None:
    """Scripts that come with hatvid: for VapourSynth, FFmpeg, clusters, whole folders."""


@pipelines.command("list", short_help="Show all.")
def list_pipelines() -> None:
    """Show what each pipeline is for, and the line that runs it."""
    for recipe in recipes():
        click.echo(f"{recipe.name}\n    {recipe.purpose}\n    {recipe.run}")


@pipelines.command("copy", short_help="Copy one.")
@click.argument("name")
@click.argument("destination", type=click.Path(path_type=Path), default=".")
def copy_pipeline(name: str, destination: Path) -> None:
    """Copy a pipeline to a folder, or to a name; nothing is overwritten."""
    click.echo(one_line(str(copy_recipe(name, destination))))
