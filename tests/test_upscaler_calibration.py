"""Which engine ``auto`` becomes on a CPU, as callers of the upscaler see it."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import Engine, ResolvedEngine, TileSpec, build_engine
from hatvid.engine.calibration import WORTH_RUNS
from hatvid.options import EngineName, EngineOptions, TileOptions
from hatvid.upscaler import Upscaler


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2, mode="nearest")


class Burdened:
    """Builds the real engines; the named one spins before each run."""

    def __init__(self, slow: str) -> None:
        self.slow = slow

    def __call__(
        self, module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        engine = build_engine(module, spec, resolved, None)
        if resolved.engine == self.slow:
            run = engine.run

            def late(tiles: Tensor) -> Tensor:
                until = time.perf_counter() + 0.05
                while time.perf_counter() < until:
                    pass
                return run(tiles)

            engine.run = late  # type: ignore[method-assign]
        return engine


def _upscaler(slow: str, *, engine: EngineName = "auto", name: str | None = None) -> Upscaler:
    return Upscaler(
        Twice(),
        scale=2,
        engine_options=EngineOptions(engine=engine, device="cpu", precision="fp32", threads=1),
        tile_options=TileOptions(tile=32, overlap=0),
        fingerprint=name,
        engine_factory=Burdened(slow),
    )


def _engine(upscaler: Upscaler, frames: int | None) -> str:
    with upscaler:
        facts = upscaler.warm_up(32, 64, ahead=frames)
        assert upscaler(torch.rand(1, 3, 32, 64)).shape == (1, 3, 64, 128)
        assert upscaler.describe(32, 64).engine == facts.engine, "it holds"
        return facts.engine


MANY = WORTH_RUNS // 2
"""Frames of two tiles each."""


def test_a_long_job_takes_the_faster_engine() -> None:
    assert _engine(_upscaler("openvino"), MANY) == "eager"
    assert _engine(_upscaler("eager"), MANY) == "openvino"


@pytest.mark.parametrize("frames", [None, MANY - 1])
def test_a_short_job_does_not_measure(frames: int | None) -> None:
    assert _engine(_upscaler("openvino"), frames) == "openvino"


def test_an_engine_that_was_named_is_taken() -> None:
    assert _engine(_upscaler("openvino", engine="openvino"), MANY) == "openvino"


def test_what_was_measured_holds_for_later_jobs() -> None:
    name = "a network that no other test has"
    assert _engine(_upscaler("openvino", name=name), MANY) == "eager"
    assert _engine(_upscaler("eager", name=name), None) == "eager"


@pytest.mark.parametrize(("slow", "streams", "batch"), [("openvino", 1, 1), ("eager", 2, 2)])
def test_batches_are_filled_for_the_engine_that_is_taken(
    slow: str, streams: int, batch: int
) -> None:
    """PyTorch takes tiles one by one: only then a frame that comes again costs nothing."""
    with Upscaler(
        Twice(),
        scale=2,
        engine_options=EngineOptions(device="cpu", precision="fp32", threads=2, streams=2),
        tile_options=TileOptions(tile=32, overlap=0),
        engine_factory=Burdened(slow),
    ) as upscaler:
        facts = upscaler.warm_up(32, 64, ahead=2 * MANY)
        assert (facts.streams, facts.batch, facts.alone) == (streams, batch, True)
        frames = torch.rand(3, 3, 32, 64)
        torch.testing.assert_close(upscaler(frames), Twice()(frames))
