from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.engine.prepare import prepared
from hatvid.errors import EngineError, OutOfMemoryError


def test_it_is_the_module_bit_for_bit(net: nn.Module, spec: TileSpec, tiles: Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(EagerEngine(net, spec).run(tiles), net(tiles))


def test_weights_are_shared_not_copied(net: nn.Module, spec: TileSpec) -> None:
    ready = prepared(net, spec)
    assert ready is not net
    for mine, theirs in zip(ready.parameters(), net.parameters(), strict=True):
        assert mine is theirs


def test_another_dtype_of_weights_is_an_error(spec: TileSpec) -> None:
    module = nn.Conv2d(3, 12, 1).half()
    with pytest.raises(EngineError, match=r"module\.float\(\)"):
        EagerEngine(module, spec)


def test_threads_hold_during_a_run_only(net: nn.Module, spec: TileSpec, tiles: Tensor) -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            result: Tensor = net(x)
            return result

    before = torch.get_num_threads()
    EagerEngine(Counting(), spec, threads=before + 1).run(tiles)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_memory_that_runs_out_is_told_with_a_way_out(spec: TileSpec, tiles: Tensor) -> None:
    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.empty(2**62, dtype=torch.uint8)

    with pytest.raises(OutOfMemoryError, match="choose a smaller tile"):
        EagerEngine(Greedy(), spec).run(tiles)


class Divisible(nn.Module):
    """Fits in memory once it has been made smaller ``times`` times, of two that it can be."""

    def __init__(self, net: nn.Module, times: int) -> None:
        super().__init__()
        self.net, self.times = net, times
        self.shrunk: list[int] = []  # a list, so that the engine's copy can be seen into

    def __deepcopy__(self, memo: object) -> Divisible:
        return self

    def shrink(self) -> bool:
        if len(self.shrunk) == 2:
            return False
        self.shrunk.append(1)
        return True

    def forward(self, x: Tensor) -> Tensor:
        if len(self.shrunk) < self.times:
            return torch.empty(2**62, dtype=torch.uint8)
        result: Tensor = self.net(x)
        return result


@pytest.mark.parametrize("times", [0, 1, 2])
def test_memory_that_runs_out_makes_the_pieces_smaller(
    net: nn.Module, spec: TileSpec, tiles: Tensor, times: int
) -> None:
    module = Divisible(net, times)
    with torch.no_grad():
        assert torch.equal(EagerEngine(module, spec).run(tiles), net(tiles))
    assert len(module.shrunk) == times


def test_the_smallest_pieces_may_be_too_large(
    net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    with pytest.raises(OutOfMemoryError, match="memory ran out"):
        EagerEngine(Divisible(net, 3), spec).run(tiles)


def test_a_mixed_module_runs_in_the_precision_that_it_was_brought_to(
    spec: TileSpec, tiles: Tensor
) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3 * spec.scale**2, 1).half()
            self.last = nn.PixelShuffle(spec.scale)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(self.first(x.half()).float())
            return result

    engine = EagerEngine(Mixed(), spec, precision="fp16")
    assert engine.precision == "fp16"
    assert engine.run(tiles).dtype == torch.float32
    with pytest.raises(EngineError, match="float16 parameters"):
        EagerEngine(Mixed(), spec, precision="bf16")


def test_a_module_that_returns_no_tensor_is_an_error(spec: TileSpec, tiles: Tensor) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(EngineError, match="tuple"):
        EagerEngine(Pair(), spec).run(tiles)


@pytest.mark.needs_cuda
def test_cuda_gives_what_the_cpu_gives(net: nn.Module, spec: TileSpec, tiles: Tensor) -> None:
    device = torch.device("cuda:0")
    there = TileSpec(
        batch=spec.batch, height=spec.height, width=spec.width, scale=spec.scale, device=device
    )
    output = EagerEngine(net, there).run(tiles.to(device))
    assert next(net.parameters()).device.type == "cpu"
    torch.testing.assert_close(output.cpu(), EagerEngine(net, spec).run(tiles), atol=1e-5, rtol=0)
