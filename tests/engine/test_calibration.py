from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import Engine, ResolvedEngine, TileSpec
from hatvid.engine.cache import ModelCache
from hatvid.engine.calibration import (
    MARGIN,
    WORTH_RUNS,
    faster_on_cpu,
    fastest_kernel,
    wall_seconds,
)
from hatvid.engine.eager import EagerEngine

OPENVINO = ResolvedEngine(
    engine="openvino", precision="fp32", device=torch.device("cpu"), threads=2, streams=2
)


class Trial:
    """Chooses with engines that take the seconds they are said to, and counts them."""

    def __init__(self, net: nn.Module, spec: TileSpec, folder: Path) -> None:
        self.net, self.spec, self.folder = net, spec, folder
        self.times = {"openvino": 1.0, "eager": 0.5}
        self.built: list[ResolvedEngine] = []

    def choose(
        self,
        *,
        runs: int = WORTH_RUNS,
        fingerprint: str | None = "abc",
        threads: int = 2,
        code: str = "def",
    ) -> ResolvedEngine:
        return faster_on_cpu(
            ResolvedEngine(**(vars(OPENVINO) | {"threads": threads})),
            self.spec,
            self._build,
            fingerprint=fingerprint,
            code=code,
            eager_precision="fp32",
            cache=ModelCache(self.folder),
            runs=runs,
            seconds=lambda engine, tiles: self.times[engine.name],
        )

    def _build(self, resolved: ResolvedEngine) -> Engine:
        self.built.append(resolved)
        engine = EagerEngine(self.net, self.spec)
        engine.name = resolved.engine
        return engine


@pytest.fixture
def trial(net: nn.Module, spec: TileSpec, tmp_path: Path) -> Trial:
    return Trial(net, spec, tmp_path / "choices")


def test_the_faster_one_is_taken_and_kept(trial: Trial) -> None:
    first = trial.choose()
    assert (first.engine, first.streams) == ("eager", 1), "PyTorch has no streams"
    assert [one.engine for one in trial.built] == ["openvino", "eager"]
    assert trial.choose() == first
    assert trial.choose(runs=0) == first, "what was measured before holds for short jobs too"
    assert len(trial.built) == 2
    trial.choose(threads=1)
    assert len(trial.built) == 4, "other threads are another question"
    trial.choose(code="changed")
    assert len(trial.built) == 6, "so is other source"


def test_a_short_job_measures_nothing(trial: Trial) -> None:
    assert trial.choose(runs=WORTH_RUNS - 1) == OPENVINO
    assert trial.built == []


def test_a_small_lead_is_noise(trial: Trial) -> None:
    trial.times["eager"] = (MARGIN + 1) / 2
    assert trial.choose() == OPENVINO


def test_a_network_without_a_name_is_measured_each_time(trial: Trial) -> None:
    for _ in range(2):
        assert trial.choose(fingerprint=None).engine == "eager"
    assert len(trial.built) == 4


class Clocked:
    """An engine whose runs take what a clock of ours says."""

    name, precision = "clocked", "fp32"

    def __init__(self, takes: Iterator[float], spec: TileSpec) -> None:
        self.takes, self.spec, self.now, self.runs = takes, spec, 0.0, 0

    def run(self, tiles: Tensor) -> Tensor:
        self.now += next(self.takes)
        self.runs += 1
        return tiles

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("takes", "seconds", "runs"),
    [([9.0, 0.3, 0.2, 0.4], 0.3, 2), ([0.9, 0.3, 0.2, 0.4, 0.3], 0.2, 5), ([0.01] * 9, 0.01, 6)],
)
def test_the_clock_of_the_wall(
    takes: list[float], seconds: float, runs: int, spec: TileSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Clocked(iter(takes), spec)
    monkeypatch.setattr("hatvid.engine.calibration.time.perf_counter", lambda: engine.now)
    assert wall_seconds(engine, torch.zeros(spec.input_shape)) == pytest.approx(seconds)
    assert engine.runs == runs


def test_kernels_are_timed_on_a_small_tile_whatever_the_frame(
    net: nn.Module, tmp_path: Path
) -> None:
    """Every start would measure whole frames otherwise."""
    resolved = ResolvedEngine(
        engine="replay", precision="fp32", device=torch.device("cpu"), threads=1, layout="gpu"
    )
    candidates = {name: replace(resolved, kernel=name) for name in ("efficient", "triton")}
    built: list[tuple[str, tuple[int, ...]]] = []

    class Slow(EagerEngine):
        def run(self, tiles: Tensor) -> Tensor:
            until = time.perf_counter() + 0.05
            while time.perf_counter() < until:
                pass
            return super().run(tiles)

    def build(spec: TileSpec, candidate: ResolvedEngine) -> Engine:
        built.append((candidate.kernel, spec.input_shape))
        return (Slow if candidate.kernel == "efficient" else EagerEngine)(net, spec)

    for _ in range(2):
        cache = ModelCache(tmp_path)
        assert fastest_kernel(candidates, build, scale=2, network="n", cache=cache) == "triton"
    assert built == [("efficient", (1, 3, 256, 256)), ("triton", (1, 3, 256, 256))]
