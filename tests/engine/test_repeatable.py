"""An engine that gives other bits for the same tile is found out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.engine.repeatable import is_repeatable
from hatvid.model.hat import HAT, HATConfig


class Engine:
    """Doubles pixels; ``spoil`` changes a batch afterwards."""

    name, precision = "double", "fp32"

    def __init__(self, batch: int, spoil: Callable[[Tensor, Tensor, int], None]) -> None:
        self.spec = TileSpec(batch=batch, height=16, width=16, scale=2)
        self._spoil = spoil
        self._calls = 0
        self._buffer = torch.empty(self.spec.output_shape)

    def run(self, tiles: Tensor) -> Tensor:
        assert tuple(tiles.shape) == self.spec.input_shape
        self._buffer.copy_(tiles.repeat_interleave(2, 2).repeat_interleave(2, 3))
        self._spoil(self._buffer, tiles, self._calls)
        self._calls += 1
        return self._buffer

    def close(self) -> None:
        pass


def _nudge(one: Tensor) -> None:
    """The last bit of one sample."""
    one.view(torch.int32).flatten()[5] += 1


def _nothing(larger: Tensor, tiles: Tensor, call: int) -> None:
    pass


def _each_time(larger: Tensor, tiles: Tensor, call: int) -> None:
    if call % 2:
        for one in larger:
            _nudge(one)


def _by_neighbours(larger: Tensor, tiles: Tensor, call: int) -> None:
    larger += tiles.mean((1, 2, 3)).roll(1)[:, None, None, None] * 1e-3


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7])
def test_an_engine_that_gives_the_same_bits(batch: int) -> None:
    assert is_repeatable(Engine(batch, _nothing), batch)
    assert is_repeatable(Engine(batch, _nothing), 1)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_an_engine_that_hangs_on_the_time(batch: int) -> None:
    assert not is_repeatable(Engine(batch, _each_time), batch)
    assert not is_repeatable(Engine(batch, _each_time), 1)


@pytest.mark.parametrize("batch", [2, 3, 4, 7])
def test_an_engine_that_hangs_on_the_neighbours(batch: int) -> None:
    assert not is_repeatable(Engine(batch, _by_neighbours), batch)
    assert not is_repeatable(Engine(batch, _by_neighbours), 1)


@pytest.mark.parametrize("slot", range(4))
def test_an_engine_that_hangs_on_a_slot(slot: int) -> None:
    def spoil(larger: Tensor, tiles: Tensor, call: int) -> None:
        _nudge(larger[slot])

    assert is_repeatable(Engine(4, spoil), 4), "where tiles keep their slots"
    assert not is_repeatable(Engine(4, spoil), 1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    config = HATConfig(
        embed_dim=24, depths=(2,), num_heads=(2,), squeeze_factor=4, num_feat=8, upscale=2
    )
    torch.manual_seed(3)
    return HAT(config).eval()


@pytest.mark.parametrize("threads", [1, 2])
def test_eager_fp32_gives_the_same_bits_in_any_slot(network: nn.Module, threads: int) -> None:
    """By all slots and changing neighbours, not by the check that the product makes."""
    spec = TileSpec(batch=4, height=48, width=32, scale=2)
    engine = EagerEngine(network, spec, threads=threads)
    generator = torch.Generator().manual_seed(9)
    tile = torch.rand(spec.input_shape[1:], generator=generator)
    expected = None
    for slot in range(4):
        for _ in range(2):
            batch = torch.rand(spec.input_shape, generator=generator)
            batch[slot] = tile
            found = engine.run(batch)[slot].clone()
            expected = found if expected is None else expected
            assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
    assert expected is not None
    assert float(expected.std()) > 0.01
    assert is_repeatable(engine, 4)
    assert is_repeatable(engine, 1)
