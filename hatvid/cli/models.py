"""``hatvid models``: what networks there are, where they come from, whether they are whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import click

from hatvid.cli.lines import one_line
from hatvid.cli.models_check import check
from hatvid.errors import HatvidError, OptionError, UnknownModelError
from hatvid.model.catalog import KNOWN, KnownModel
from hatvid.model.zoo import check_file, model_path, models_folder, resolve_model

__all__ = ["models"]


@click.group(short_help="List, show, pull, verify and check networks.")
def models() -> None:
    """Networks by name: some come with hatvid, others are pulled.

    Pulled checkpoints lie in a folder of the user's data, or in the one that the
    environment variable HATVID_MODELS names. Each is known by its SHA-256, which is
    checked when it is pulled and whenever it is loaded.
    """


models.add_command(check)


@models.command("list", short_help="The networks that are known by name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_models(as_json: bool) -> None:
    """List the networks that are known by name, and which of them are here."""
    rows = [_facts(model) for model in KNOWN.values()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        size = f"{row['size'] / 1e6:5.0f} MB" if row["size"] else "       ?"
        click.echo(
            f"{row['name'].ljust(width)}  x{row['scale']}  {row['network']:8}  {size}  "
            f"{row['state']:8}  {row['about']}"
        )
    click.echo(f"\nPulled ones lie in {one_line(str(models_folder()))}")


@models.command(short_help="All that is known of one network, or of a checkpoint.")
@click.argument("model", metavar="NAME|PATH")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(model: str, as_json: bool) -> None:
    """Show what is known of a network, and what its checkpoint says if it is here."""
    facts: dict[str, Any] = {}
    if model in KNOWN:
        facts = _facts(KNOWN[model])
        path = model_path(KNOWN[model])
    else:
        path = resolve_model(model).path
    if path.is_file():
        facts |= _inside(model)
    if as_json:
        click.echo(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        if name == "mirrors_tried":
            name, value = "", "(addresses that hatvid's makers have not tried)"
        for number, line in enumerate(value if isinstance(value, list) else [value]):
            shown = "unknown" if line is None else one_line(str(line))
            click.echo(f"{(name if number == 0 else '').ljust(width)}  {shown}")


@models.command(short_help="Fetch checkpoints; each is checked by its SHA-256.")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="All that are known.")
@click.option("--from", "url", metavar="URL", help="Another address of the file.")
@click.option("--insecure-http", is_flag=True, help="Allow http beside https.")
def pull(names: tuple[str, ...], everything: bool, url: str | None, insecure_http: bool) -> None:
    """Fetch checkpoints from their mirrors.

    What broke off is resumed by the same command. A checkpoint gets its name only when it
    is whole and has the SHA-256 that it is known by, wherever it came from.
    """
    wanted = [model for model in KNOWN.values() if not model.embedded] if everything else []
    wanted += [_known(name) for name in names]
    if not wanted:
        raise OptionError("nothing to pull; name models of hatvid models list, or give --all")
    if url is not None and len(wanted) > 1:
        raise OptionError("--from is the address of one file; name one model")
    from hatvid.model.pull import pull as fetch

    for model in wanted:
        if model.embedded:
            click.echo(f"{model.name} comes with hatvid")
            continue
        with _bar(model) as advanced:
            path = fetch(
                model,
                models_folder(),
                mirrors=None if url is None else (url,),
                insecure=insecure_http,
                advanced=advanced,
                said=lambda text: click.echo(f"hatvid: {one_line(text)}", err=True),
            )
        _inside(model.name)
        click.echo(f"{model.name}: {one_line(str(path))}")


@models.command(short_help="Check that checkpoints are whole.")
@click.argument("names", nargs=-1, metavar="[NAME|PATH]...")
def verify(names: tuple[str, ...]) -> int:
    """Check the SHA-256 of known checkpoints, and load each strictly.

    Without a name all that are here are checked. The exit code is 1 if one is not whole.
    """
    here = [model.name for model in KNOWN.values() if model_path(model).is_file()]
    failed = False
    for name in names or here:
        try:
            facts = _inside(name)
        except (UnknownModelError, OptionError):
            raise
        except HatvidError as error:
            failed = True
            click.echo(
                f"{click.style('FAILED', fg='red')}  {one_line(name)}  {one_line(str(error))}"
            )
        else:
            click.echo(
                f"{click.style('ok    ', fg='green')}  {one_line(name)}  "
                f"{facts['parameters']:,} parameters"
            )
    return 1 if failed else 0


def _known(name: str) -> KnownModel:
    if name not in KNOWN:
        resolve_model(name)  # says so of what nobody knows
        raise OptionError(f"{name} is a checkpoint already; pull takes names of hatvid models list")
    return KNOWN[name]


def _facts(model: KnownModel) -> dict[str, Any]:
    facts = asdict(model)
    path = model_path(model)
    here = path.is_file()
    state = "embedded" if model.embedded else "pulled" if here else "not here"
    size = path.stat().st_size if here else model.size
    return {
        **facts,
        "size": size,
        "mirrors": list(model.mirrors),
        **({} if model.embedded else {"mirrors_tried": False}),
        "state": state,
        "path": str(path) if here else None,
    }


def _inside(name: str) -> dict[str, Any]:
    """What a checkpoint itself says; it is checked on the way."""
    found = resolve_model(name)
    if found.known is not None:
        check_file(found.known, found.path)
    from hatvid.model.catalog import file_sha256
    from hatvid.model.zoo import load_model

    model = load_model(name)
    config = getattr(model, "config", None)
    return {
        "path": str(found.path),
        "sha256": file_sha256(found.path),
        "scale": model.scale,
        "architecture": getattr(model, "architecture", "HAT"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **({} if config is None else {"config": [f"{k} = {v}" for k, v in asdict(config).items()]}),
    }


def _bar(model: KnownModel) -> AbstractContextManager[Callable[[int, int | None], None]]:
    """A bar where standard error is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext(lambda done, total: None)
    return _Bar(model.name)


class _Bar(AbstractContextManager[Callable[[int, int | None], None]]):
    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
        from rich.progress import TransferSpeedColumn as Speed

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            Speed(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None)

    def __enter__(self) -> Callable[[int, int | None], None]:
        self._bar.start()
        return lambda done, total: self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
