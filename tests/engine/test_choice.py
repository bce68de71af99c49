from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import Engine, TileSpec
from hatvid.engine.cache import ModelCache
from hatvid.engine.choice import cuda_seconds, fastest
from hatvid.engine.eager import EagerEngine
from hatvid.errors import EngineError, OutOfMemoryError

TIMES = {"plain": 2.0, "slow": 3.0, "quick": 1.0}
IDENTITY = {"gpu": "one", "torch": "2"}


class Bench:
    """Builds engines that tell their time, and counts what was built, run and closed."""

    def __init__(self, net: nn.Module, spec: TileSpec) -> None:
        self.net, self.spec = net, spec
        self.open: list[str] = []
        self.built: list[str] = []
        self.error: type[EngineError] = EngineError

    def candidates(self, *names: str, broken: str = "") -> dict[str, Callable[[], Engine]]:
        def build(name: str) -> Engine:
            assert self.open == [], "two at once take twice the memory"
            if name == broken:
                raise self.error(f"{name} cannot be built; choose another")
            bench = self

            class Told(EagerEngine):
                seconds = TIMES[name]

                def close(self) -> None:
                    bench.open.remove(name)
                    super().close()

            self.open.append(name)
            self.built.append(name)
            return Told(self.net, self.spec)

        return {name: lambda name=name: build(name) for name in names}  # type: ignore[misc]


def _seconds(engine: Engine, tiles: Tensor) -> float:
    engine.run(tiles)
    return float(engine.seconds)  # type: ignore[attr-defined]


@pytest.fixture
def bench(net: nn.Module, spec: TileSpec) -> Bench:
    return Bench(net, spec)


def _choose(
    candidates: dict[str, Callable[[], Engine]],
    tiles: Tensor,
    cache: ModelCache | None = None,
    identity: dict[str, str] = IDENTITY,
) -> str:
    return fastest(candidates, tiles, identity=identity, cache=cache, seconds=_seconds)


def test_the_least_time_wins(bench: Bench, tiles: Tensor) -> None:
    assert _choose(bench.candidates("plain", "slow", "quick"), tiles) == "quick"
    assert _choose(bench.candidates("plain", "slow"), tiles) == "plain"
    assert bench.open == []


def test_one_that_cannot_be_built_is_left_out(bench: Bench, tiles: Tensor) -> None:
    assert _choose(bench.candidates("plain", "quick", broken="quick"), tiles) == "plain"
    assert _choose(bench.candidates("plain", "quick", broken="plain"), tiles) == "quick"
    with pytest.raises(EngineError, match="plain cannot be built"):
        _choose(bench.candidates("plain", broken="plain"), tiles)


def test_the_answer_is_kept(bench: Bench, tiles: Tensor, tmp_path: Path) -> None:
    names = ("plain", "slow", "quick")
    for _ in range(2):
        cache = ModelCache(tmp_path / "choices")
        assert _choose(bench.candidates(*names), tiles, cache) == "quick"
    assert bench.built == list(names)
    assert _choose(bench.candidates(*names), tiles, cache, {"gpu": "two", "torch": "2"}) == "quick"
    assert bench.built == [*names, *names], "another GPU is measured anew"
    assert _choose(bench.candidates("plain", "slow"), tiles, cache) == "plain"
    assert bench.built[-2:] == ["plain", "slow"], "so is another choice"


@pytest.mark.parametrize("error", [EngineError, OutOfMemoryError])
def test_a_passing_want_of_memory_is_no_answer_for_ever(
    error: type[EngineError], bench: Bench, tiles: Tensor, tmp_path: Path
) -> None:
    bench.error, cache = error, ModelCache(tmp_path / "choices")
    broken = bench.candidates("plain", "quick", broken="quick")
    assert _choose(broken, tiles, cache) == "plain"
    later = "quick" if error is OutOfMemoryError else "plain"
    assert _choose(bench.candidates("plain", "quick"), tiles, cache) == later


def test_the_clock_is_that_of_the_engines_gpu(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several GPUs an event of the current one's stream does not wait for the engine's."""
    current, recorded_on = ["cuda:0"], []

    @contextmanager
    def device(which: torch.device) -> Iterator[None]:
        current.append(str(which))
        yield
        current.pop()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            recorded_on.append(current[-1])

        def synchronize(self) -> None: ...

        def elapsed_time(self, end: object) -> float:
            return 5.0

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Event", Event)

    class OnTheSecond:
        name, precision = "fake", "fp32"
        spec = TileSpec(batch=1, height=16, width=16, scale=2, device=torch.device("cuda:1"))

        def run(self, tiles: Tensor) -> Tensor:
            assert current[-1] == "cuda:1"
            return tiles

        def close(self) -> None: ...

    assert cuda_seconds(OnTheSecond(), torch.zeros(1)) == 0.005
    assert set(recorded_on) == {"cuda:1"}


@pytest.mark.needs_cuda
def test_the_clock_of_the_gpu(net: nn.Module) -> None:
    spec = TileSpec(batch=2, height=16, width=32, scale=2, device=torch.device("cuda:0"))
    tiles = torch.rand(spec.input_shape, device=spec.device)
    build: dict[str, Callable[[], Engine]] = {"plain": lambda: EagerEngine(net, spec)}
    assert fastest(build, tiles, identity={}, cache=None) == "plain"
