"""What ``hatvid bench`` does to measure: races, and what is printed and written of them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hatvid.cli.lines import one_line
from hatvid.errors import EngineError, OptionError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from hatvid.bench.race import Conditions
    from hatvid.bench.race_result import RaceResult

__all__ = ["SYNTHETIC", "run_races", "separated"]

FORMAT = 1
"""Of the JSON; counts up when a field changes its meaning."""

SYNTHETIC = "synthetic"
"""A clip that is made up."""

CLIP_SIZE = 320, 180

QUICK_ROUNDS, ROUNDS = 3, 7


def separated(values: Sequence[str]) -> list[str]:
    """What was given by several options, or by one with commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def run_races(
    *,
    models: Sequence[str],
    scale: int | None,
    sizes: Sequence[tuple[int, int]],
    clip: str | None,
    frames: int,
    only: Sequence[str],
    rounds: int | None,
    threads: int | None,
    quick: bool,
    markdown: bool,
    json_path: Path | None,
    json_shown: bool,
    plot: Path | None,
) -> None:
    """Run every race that was asked for.

    Args:
        models: as :func:`~hatvid.bench.material.network` takes them.
        scale: likewise.
        sizes: width and height of tiles, a race each.
        clip: a video or picture, or :data:`SYNTHETIC`: one more race, with its frames.
        frames: of the clip, how many.
        only: parts of the names of contestants.
        rounds: None takes the usual number.
        threads: None takes one for each core.
        quick: fewer rounds, without what is slow to start, settings not tried.
        markdown: the table in Markdown.
        json_path: where the figures go.
        json_shown: they go to standard output, without a table.
        plot: where the chart goes.

    Raises:
        EngineError: none of hatvid's own ran.
    """
    for path, option in ((json_path, "--json"), (plot, "--plot")):
        _check_place(path, option)
    from hatvid.bench.contestants import CONTESTANTS, chosen
    from hatvid.bench.machine import machine_facts, native_bf16, pinned_cpus
    from hatvid.bench.material import moving_frames, network
    from hatvid.bench.networks import network_config
    from hatvid.bench.process import CAN_STOP
    from hatvid.bench.race import Conditions, race

    for name in models:
        network_config(name, scale)  # a wrong name is answered before the first race
    names = separated(only)
    conditions = Conditions(
        threads=_threads(threads),
        cpus=pinned_cpus(_threads(threads)),
        native_bf16=native_bf16(),
        rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
        tries=not quick,
    )
    given: list[tuple[Tensor, str | None]] = [(moving_frames(1, h, w), None) for w, h in sizes]
    if clip is not None:
        given.append(_clip(clip, frames))
    teams = [chosen(CONTESTANTS, names, clip=shown is not None, quick=quick) for _, shown in given]
    machine = machine_facts(conditions.threads)
    results: list[RaceResult] = []
    for name in models:
        racing = network(name, scale)
        for (pictures, shown), team in zip(given, teams, strict=True):
            result = race(racing, pictures, team, conditions, clip=shown, tell=_tell)
            results.append(result)
            # What was measured is not lost if a later race is broken off.
            written = json.dumps(_document(machine, conditions, results, stopped=CAN_STOP))
            if json_path is not None:
                _write(json_path, "--json", lambda file, text=written: file.write_text(text + "\n"))  # type: ignore[misc]
            if not json_shown:
                _print(result, markdown)
    if json_shown:
        click.echo(written)
    else:
        _print_machine(machine, conditions.rounds, stopped=CAN_STOP)
    if plot is not None:
        from hatvid.bench.race_table import chart

        _write(plot, "--plot", lambda file: chart(results, file))
    if any(one.side == "ours" for team in teams for one in team) and not any(
        result.ours_ran for result in results
    ):
        raise EngineError("none of hatvid's own engines ran; the reasons stand in the table")


def _threads(asked: int | None) -> int:
    from hatvid.bench.machine import allowed_cpus, default_threads

    most = len(allowed_cpus())
    if asked is not None and asked > most:
        raise OptionError(f"threads is {asked}, and {most} CPUs may be used here; take no more")
    return asked or default_threads()


def _clip(name: str, count: int) -> tuple[Tensor, str]:
    """Frames (N, 3, H, W) and what they are."""
    import torch

    from hatvid.bench.material import moving_frames

    width, height = CLIP_SIZE
    if name == SYNTHETIC:
        return moving_frames(count, height, width), f"{SYNTHETIC} clip of {width}x{height}"
    from hatvid.research.seams import read_frames

    shown = torch.cat(read_frames(Path(name), frames=count))
    return shown, f"{one_line(Path(name).name)} of {shown.shape[3]}x{shown.shape[2]}"


def _document(
    machine: dict[str, Any],
    conditions: Conditions,
    results: Sequence[RaceResult],
    *,
    stopped: bool,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "measured": True,
        "machine": machine,
        "conditions": {
            "rounds": conditions.rounds,
            "turn_seconds": conditions.seconds,
            "settings_tried": conditions.tries,
            "seed": conditions.seed,
            "idle_stopped": stopped,
        },
        "races": [result.as_dict() for result in results],
    }


def _print(result: RaceResult, markdown: bool) -> None:
    from rich.console import Console

    from hatvid.bench.race_table import heading, notes, table

    console = Console(width=250, highlight=False)
    with console.capture() as captured:
        console.print(table(result, markdown=markdown))
    rows = [row.rstrip() for row in captured.get().splitlines() if row.strip()]
    click.echo("\n".join([one_line(heading(result)), "", *rows, ""]))
    for line in notes(result):
        click.echo(f"- {one_line(line)}" if markdown else one_line(line))
    click.echo("")


def _print_machine(machine: dict[str, Any], rounds: int, *, stopped: bool) -> None:
    from hatvid.bench.race_table import machine_lines

    for line in machine_lines(machine, rounds=rounds, stopped=stopped):
        click.echo(line)


def _tell(text: str) -> None:
    click.echo(one_line(text), err=True)


def _check_place(path: Path | None, option: str) -> None:
    """Before hours of measuring, not after."""
    if path is None:
        return
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path} cannot be written; choose another place with {option}")


def _write(path: Path, option: str, make: Callable[[Path], object]) -> None:
    """Give a file its name when it is whole."""
    try:
        with _beside(path) as partial:
            make(partial)
            partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); choose another place with {option}"
        ) from error


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".hatvid-", dir=path.parent) as folder:
        yield Path(folder, "part")
