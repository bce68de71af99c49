from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.engine.prepare import prepared
from hatvid.errors import EngineError


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

    with pytest.raises(EngineError, match="choose a smaller tile"):
        EagerEngine(Greedy(), spec).run(tiles)


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
