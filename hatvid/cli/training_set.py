"""``hatvid training-set``: patches to train on, cut from large pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from hatvid.cli.lines import one_line
from hatvid.cli.signals import ignore_signals
from hatvid.errors import OptionError

__all__ = ["training_set"]


@click.command("training-set", short_help="Cut patches to train on out of large pictures.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("pictures", nargs=-1, type=click.Path(path_type=Path))
@click.option("--debian", is_flag=True, help="Fetch Debian's free wallpapers (220 MB) by apt-get.")
def training_set(folder: Path, pictures: tuple[Path, ...], debian: bool) -> None:
    """Cut patches out of PICTURES (files, or folders of them) into FOLDER.

    Each picture is reduced (Lanczos; to 1/2 above 1000 pixels of width, to 1/3 above 3000),
    which removes traces of JPEG. Of its squares of 144 pixels, 72 apart, the 160 with the
    largest mean gradient are kept; flat ones are not. sources.csv tells where all are from.
    FOLDER is there only when all are in it.
    """
    if bool(pictures) == debian:
        raise OptionError("give either PICTURES or --debian")
    from hatvid.research.training_set import fetch_debian, make_set

    def tell(line: str) -> None:
        click.echo(one_line(line), err=True)

    with tempfile.TemporaryDirectory(prefix="hatvid-set-") as place:
        sources = fetch_debian(Path(place), tell=tell) if debian else list(pictures)
        rows = make_set(folder, sources, tell=tell, publishing=ignore_signals)
    kept = [row.patches for row in rows if row.patches]
    click.echo(f"{sum(kept)} patches of {len(kept)} pictures in {folder}")
