"""The race: contestants take turns on one network and one frame size.

Each has a process of its own, with the same CPUs and as many threads, and is stopped while
others run. The published network in eager fp32 is the reference: its output and its times
are what all are compared with. Products of matrices take turns like everybody else, for
what a CPU can do changes with its heat and its neighbours.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hatvid.bench.contestants import REFERENCE, Contestant, Settings
from hatvid.bench.figures import orders
from hatvid.bench.material import Network, published_flops, task
from hatvid.bench.process import ContestantProcess
from hatvid.bench.race_result import Lap, RaceResult, entries
from hatvid.bench.runner import Task
from hatvid.engine.fidelity import compare
from hatvid.errors import EngineError, HatvidError

__all__ = ["Conditions", "race"]

START_LIMIT, TURN_LIMIT = 3600.0, 1800.0
"""Seconds after which a contestant has failed. torch.compile takes minutes to start."""

TRIES = 3
"""Turns by which the fastest of several settings is found."""

NO_BF16 = "this CPU does not compute in bf16"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is the same for all."""

    threads: int

    cpus: Sequence[int] | None
    """That contestants may run on; None where the system pins nothing."""

    native_bf16: bool

    rounds: int = 7

    seconds: float = 0.5
    """Of a turn, about; a frame that takes longer is a turn."""

    tries: bool = True
    """Whether contestants with several settings try them; else they take the first."""

    seed: int = 0
    """Of the order of turns."""


def race(
    network: Network,
    frames: Tensor,
    contestants: Sequence[Contestant],
    conditions: Conditions,
    *,
    clip: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> RaceResult:
    """Let contestants upscale the same frames in turns.

    Args:
        network: what they run.
        frames: (N, 3, H, W) RGB in [0, 1].
        contestants: in the order of the result.
        conditions: see there.
        clip: what the frames are, if they are a clip's.
        tell: is told what is going on.

    Returns:
        What each did; one that failed stands in it with the reason.
    """
    height, width = frames.shape[2:]
    about = f"{network.name} x{network.config.upscale}, {width}x{height}"
    with tempfile.TemporaryDirectory(prefix="hatvid-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        given = task(
            network,
            frames,
            folder,
            threads=conditions.threads,
            native_bf16=conditions.native_bf16,
            clip=clip is not None,
        )
        flops = published_flops(network.published, network.config, height, width)
        start = _Start(given, folder, conditions, stack, lambda text: tell(f"{about}: {text}"))
        # The reference first: the others are compared with what it made.
        first = sorted(contestants, key=lambda one: one.name != REFERENCE)
        racing = {one.name: start(one) for one in first}
        racers = [racing[one.name] for one in contestants]
        _turns(racers, conditions, lambda text: tell(f"{about}: {text}"))
    return RaceResult(
        model=network.name,
        trained=network.trained,
        scale=network.config.upscale,
        width=width,
        height=height,
        clip=clip,
        flops=flops,
        rounds=conditions.rounds,
        entries=entries([racer.lap() for racer in racers], flops),
    )


@dataclass
class _Racer:
    """A contestant on its way."""

    contestant: Contestant
    process: ContestantProcess | None = None
    told: dict[str, Any] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    snr: float | None = None
    reason: str | None = None
    left_out: bool = False

    def fail(self, reason: str) -> None:
        self.reason, self.seconds = reason, []
        if self.process is not None:
            self.process.close()
            self.process = None

    def lap(self) -> Lap:
        return Lap(
            name=self.contestant.name,
            side=self.contestant.side,
            reason=self.reason,
            left_out=self.left_out,
            seconds=tuple(self.seconds),
            snr=self.snr,
            memory=self.memory,
            tried=tuple(self.tried),
            precision=self.told.get("precision"),
            settings=self.told.get("settings", {}),
            start_seconds=self.told.get("start_seconds"),
            work=self.told.get("work"),
        )


class _Start:
    """Brings contestants to the start, one after the other, and leaves them stopped."""

    def __init__(
        self,
        given: Task,
        folder: Path,
        conditions: Conditions,
        stack: ExitStack,
        tell: Callable[[str], None],
    ) -> None:
        self._task = given
        self._folder = folder
        self._conditions = conditions
        self._stack = stack
        self._tell = tell
        self._onnx: dict[tuple[int, int], str | EngineError] = {}
        self._reference: Tensor | None = None

    def __call__(self, contestant: Contestant) -> _Racer:
        racer = _Racer(contestant)
        if contestant.needs_bf16 and not self._task.native_bf16:
            racer.reason, racer.left_out = NO_BF16, True
            return racer
        try:
            given = self._given(contestant)
            settings = self._fastest(racer, given)
            self._tell(f"starting {contestant.name}{_words(settings)}")
            racer.process = self._stack.enter_context(self._process())
            racer.told = self._built(racer.process, contestant, given, settings)
            racer.process.stop()
            racer.snr = self._snr(contestant, racer.told)
        except EngineError as error:
            racer.fail(str(error))
        return racer

    def _process(self) -> ContestantProcess:
        conditions = self._conditions
        return ContestantProcess(self._folder, cpus=conditions.cpus, threads=conditions.threads)

    def _built(
        self, process: ContestantProcess, one: Contestant, given: Task, settings: Settings
    ) -> dict[str, Any]:
        request = {
            "do": "build",
            "build": one.build,
            "task": given.as_dict(),
            "settings": dict(settings),
            "started": process.started,
            "output": str(self._folder / "output.npy"),
        }
        return process.ask(request, seconds=START_LIMIT)

    def _given(self, one: Contestant) -> Task:
        """The task, with the network as ONNX if the contestant wants it."""
        if not one.onnx:
            return self._task
        tile = one.tile(self._task.height, self._task.width)
        if tile not in self._onnx:
            self._onnx[tile] = self._exported(tile)
        path = self._onnx[tile]
        if isinstance(path, EngineError):
            raise path
        return replace(self._task, onnx=path)

    def _exported(self, tile: tuple[int, int]) -> str | EngineError:
        height, width = tile
        self._tell(f"exporting the published network for {width}x{height} as ONNX")
        path = str(self._folder / f"published-{width}x{height}.onnx")
        given = replace(self._task, height=height, width=width, onnx=path)
        request = {
            "do": "call",
            "call": "hatvid.bench.rivals:write_onnx",
            "task": given.as_dict(),
        }
        try:
            with self._process() as process:
                process.ask(request, seconds=START_LIMIT)
        except EngineError as error:
            return EngineError(f"PyTorch does not export the published network: {error}")
        return path

    def _fastest(self, racer: _Racer, given: Task) -> Settings:
        """The settings that race: of several, those that were the fastest when tried."""
        one = racer.contestant
        if len(one.settings) == 1 or not self._conditions.tries:
            return one.settings[0]
        trials = [_Racer(one) for _ in one.settings]
        with ExitStack() as stack:
            for trial, settings in zip(trials, one.settings, strict=True):
                self._tell(f"trying {one.name}{_words(settings)}")
                trial.process = stack.enter_context(self._process())
                try:
                    self._built(trial.process, one, given, settings)
                    trial.process.stop()
                except EngineError as error:
                    trial.fail(str(error))
            # By turns, as in the race: a busy minute is everybody's.
            for number in range(TRIES):
                for trial in trials:
                    _turn(trial, number, self._conditions.seconds)
        best, least = one.settings[0], None
        for trial, settings in zip(trials, one.settings, strict=True):
            tried: dict[str, Any] = {"settings": dict(settings)}
            if trial.seconds:
                tried["seconds"] = seconds = statistics.median(trial.seconds)
                if least is None or seconds < least:
                    best, least = settings, seconds
            else:
                tried["reason"] = trial.reason
            racer.tried.append(tried)
        return best

    def _snr(self, one: Contestant, told: Mapping[str, Any]) -> float | None:
        """Against the reference, in dB."""
        if not told["output"]:
            return None
        made = torch.from_numpy(np.load(self._folder / "output.npy"))
        if one.name == REFERENCE:
            self._reference = made
            return None
        if self._reference is None:
            return None
        if made.shape != self._reference.shape:
            raise EngineError(
                f"it made {tuple(made.shape)}, not {tuple(self._reference.shape)} of the frames"
            )
        return compare(self._reference, made).snr


def _turns(racers: Sequence[_Racer], conditions: Conditions, tell: Callable[[str], None]) -> None:
    for number, order in enumerate(orders(len(racers), conditions.rounds, conditions.seed)):
        tell(f"round {number + 1} of {conditions.rounds}")
        for place in order:
            _turn(racers[place], number, conditions.seconds)


def _turn(racer: _Racer, number: int, seconds: float) -> None:
    """Let one run about so long, if it is still there."""
    if racer.process is None:
        return
    racer.process.resume()
    try:
        told = racer.process.ask({"do": "turn", "seconds": seconds}, seconds=TURN_LIMIT)
    except HatvidError as error:
        racer.fail(f"in round {number + 1}: {error}")
        return
    racer.process.stop()
    racer.seconds.append(told["seconds"])
    racer.memory = told["memory"]


def _words(settings: Settings) -> str:
    return "".join(f", {name} {value}" for name, value in settings.items() if value not in (0, ""))
