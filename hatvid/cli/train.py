"""``hatvid train``: train a network as a recipe says."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from hatvid.cli.lines import one_line
from hatvid.cli.signals import Interrupted
from hatvid.errors import OptionError, OutputError, OutputExistsError, TrainingError

__all__ = ["train"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@click.command(short_help="Train a network as a recipe says.")
@click.argument("recipe", required=False, type=click.Path(path_type=Path), metavar="[RECIPE.toml]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads.  [default: all cores]")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Stop after this time and keep the state; the same command goes on.",
)
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever the run's folder holds.")
@click.option("--changed", is_flag=True, help="Go on though the recipe was changed.")
@click.option("--smoke", is_flag=True, help="A trial of some minutes with pictures made up.")
@click.option("--recipes", is_flag=True, help="List the recipes that come with hatvid.")
@click.option("--copy", metavar="NAME", help="Copy one of them here, to be changed and run.")
def train(recipe: Path | None, **given: Any) -> None:
    """Train a network, or go on where the same command was stopped.

    RECIPE.toml says what is trained, on which pictures, and how; paths in it are relative to
    it. Checkpoints in the published layout, the whole state, logs and curves go to its
    run.folder. Ctrl-C and SIGTERM keep the state; a second one ends at once.

    Several GPUs: torchrun --nproc-per-node N -m hatvid train RECIPE.toml

    Needs hatvid[train]. See docs/training.md.
    """
    if importlib.util.find_spec("pydantic") is None or not importlib.util.find_spec("matplotlib"):
        raise OptionError("training needs pydantic and matplotlib: pip install 'hatvid[train]'")
    asked = [recipe is not None, given["smoke"], given["recipes"], given["copy"] is not None]
    if sum(asked) != 1:
        raise OptionError("give either a RECIPE.toml, --smoke, --recipes, or --copy NAME")
    if given["recipes"]:
        _list()
    elif given["copy"] is not None:
        _copy(given["copy"])
    elif given["smoke"]:
        _smoke(given)
    else:
        assert recipe is not None
        _train(recipe, given)


def _train(path: Path, given: dict[str, Any]) -> None:
    from hatvid.research.recipe_file import read_recipe

    recipe = read_recipe(path)  # what is wrong with it is told before torch's slow parts
    from hatvid.research.train import train as run

    with _asked_to_stop(given["minutes"]) as stop:
        done = run(
            recipe,
            device=given["device"],
            threads=given["threads"],
            overwrite=given["overwrite"],
            changed=given["changed"],
            stop=stop,
            tell=_tell,
        )
    if stop.signal is not None and not done.finished:
        raise Interrupted(
            stop.signal,
            f"iteration {done.iteration} of {done.total} is kept; run it again to go on",
        )
    best = "" if done.best is None else f", best {done.best:.3f} dB"
    if int(os.environ.get("RANK", 0)):
        return  # of several processes one tells
    word = "done" if done.finished else "stopped; the same command goes on"
    took = f"{done.iteration} of {done.total} iterations in {done.seconds / 60:.1f} min"
    _tell(f"{word}: {took}{best}, {done.checkpoint}")


def _smoke(given: dict[str, Any]) -> None:
    from hatvid.research.smoke import PROMISED, smoke

    with _kept_if_failed() as folder:
        with _asked_to_stop(given["minutes"]) as stop:
            result = smoke(
                folder,
                device=given["device"],
                threads=given["threads"],
                stop=stop,
                tell=_tell,
            )
        if result is None:
            if stop.signal is not None:
                raise Interrupted(stop.signal, "the trial left nothing")
            raise OptionError("the trial needs more --minutes")
        click.echo(
            f"held-out pictures: {result.start:.2f} dB at the start, {result.end:.2f} dB now, "
            f"bicubic {result.bicubic:.2f} dB: gained {result.gained:.2f} dB of at least "
            f"{PROMISED:g}"
        )


@contextmanager
def _kept_if_failed() -> Iterator[Path]:
    """A folder that stays only where the training failed, whose message names what is in it."""
    folder, failed = Path(tempfile.mkdtemp(prefix="hatvid-smoke-")), False
    try:
        yield folder
    except TrainingError:
        failed = True
        raise
    finally:
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)


def _list() -> None:
    from hatvid.research.recipe_file import shipped_recipes

    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        click.echo(f"{name:20}  {first.removeprefix('# ')}")


def _copy(name: str) -> None:
    from hatvid.research.recipe_file import shipped_recipes

    known = shipped_recipes()
    if name not in known:
        raise OptionError(f"no recipe is called {name!r}; there are {', '.join(known)}")
    target = Path(f"{name}.toml")
    try:
        with target.open("xb") as file:
            file.write(known[name].read_bytes())
    except FileExistsError:
        raise OutputExistsError(f"{target} exists; rename it first") from None
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror})") from error
    click.echo(str(target))


class _Stop:
    """Whether to stop: a signal came, or the time is up."""

    def __init__(self, minutes: float | None) -> None:
        self._ends = None if minutes is None else time.monotonic() + 60 * minutes
        self.signal: int | None = None

    def __call__(self) -> bool:
        late = self._ends is not None and time.monotonic() >= self._ends
        return self.signal is not None or late

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise Interrupted(number, "the state is that of the last time it was kept")
        self.signal = number
        _tell("stops after this iteration; once more ends at once")


@contextmanager
def _asked_to_stop(minutes: float | None) -> Iterator[_Stop]:
    stop = _Stop(minutes)
    before: dict[int, Callable[..., Any] | int | None] = {}
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, stop.note)
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _tell(line: str) -> None:
    click.echo(one_line(line), err=True)
