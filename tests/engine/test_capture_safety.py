"""What a CUDA graph could not repeat is found without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import TileSpec
from hatvid.engine.capture_safety import check_capturable
from hatvid.engine.prepare import prepared
from hatvid.errors import EngineError
from hatvid.model.forms import Forms
from hatvid.model.zoo import load_model
from hatvid.tiling import Canvas, TilePlan, blend_ramps

CONSTANT = np.linspace(0, 1, 32, dtype=np.float32)


class _Around(nn.Module):
    """A network with something in front of it."""

    table: Tensor

    def __init__(self, net: nn.Module, front: Callable[[_Around, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.front = net, front
        self.register_buffer("table", torch.linspace(0, 1, 32))
        self.loose = torch.linspace(0, 1, 32)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(self.front(self, x))
        return result


def _branches(module: _Around, x: Tensor) -> Tensor:
    return x if x.mean() > 0 else -x


def _in_place_of_a_part(module: _Around, x: Tensor) -> Tensor:
    x = x.clone()
    x[x > 0.5] = module.table[:1]
    return x


HAZARDS: dict[str, tuple[Callable[[_Around, Tensor], Tensor], str]] = {
    "a tensor that stayed on the CPU": (lambda m, x: x + m.loose, "on the cpu"),
    "a constant from numpy": (lambda m, x: x + torch.from_numpy(CONSTANT), "on the cpu"),
    "a copy from the host": (lambda m, x: x + torch.from_numpy(CONSTANT).cuda(), "cpu"),
    "a list of numbers": (lambda m, x: x * torch.tensor([1.0, 2.0], device="cuda")[0], "cpu"),
    "a copy to the host": (lambda m, x: x.cpu().cuda(), "copies to the cpu"),
    "a factory": (lambda m, x: x + torch.arange(32, device="cuda"), "arange makes a tensor"),
    "another factory": (lambda m, x: x + torch.zeros(32, device="cuda"), "zeros makes a tensor"),
    "a number read": (lambda m, x: x * float(x.max()), "reads values"),
    "numpy": (lambda m, x: x + float(x.numpy().sum()), "captured"),
    "true and false as index": (lambda m, x: x + m.table[m.table > 0.5].sum(), "reads values"),
    "an index that is assigned to": (_in_place_of_a_part, "reads values"),
    "where the ones are": (lambda m, x: x + x.nonzero().sum(), "reads values"),
    "a branch on data": (_branches, "reads values"),
    "random numbers": (lambda m, x: x + torch.rand_like(x), "random"),
}


@pytest.mark.parametrize("name", list(HAZARDS))
def test_a_hazard_is_named(name: str, net: nn.Module, spec: TileSpec) -> None:
    front, said = HAZARDS[name]
    module = _Around(net, front).eval()
    with pytest.raises(EngineError, match=said) as caught:
        check_capturable(lambda m, x: m(x), (torch.empty(spec.input_shape),), module)
    assert "choose engine eager" in str(caught.value)


@pytest.mark.parametrize(
    "front",
    [
        lambda m, x: x + m.table,
        lambda m, x: x + m.table.index_select(0, (m.table * 31).long()),
        lambda m, x: torch.where(x > 0.5, x, -x),
        lambda m, x: x + torch.empty_like(x).zero_(),
        lambda m, x: x + x.new_zeros(1),
    ],
)
def test_what_may_be_captured(
    front: Callable[[_Around, Tensor], Tensor], net: nn.Module, spec: TileSpec
) -> None:
    module = _Around(net, front).eval()
    check_capturable(lambda m, x: m(x), (torch.empty(spec.input_shape),), module)


def test_the_module_stays_as_it_is(net: nn.Module, spec: TileSpec, tiles: Tensor) -> None:
    with torch.no_grad():
        before = net(tiles)
        check_capturable(lambda m, x: m(x), (tiles,), net)
        assert torch.equal(net(tiles), before)


@pytest.fixture(scope="module")
def forms() -> Forms:
    return Forms(load_model("hat-nano-x4", 4))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("chunked", [False, True], ids=["at once", "chunked"])
def test_every_form_of_the_network_may_be_captured(
    forms: Forms, precision: str, chunked: bool
) -> None:
    spec = TileSpec(batch=2, height=37, width=50, scale=4)
    module = prepared(forms.form(precision, chunked=chunked), spec, precision)
    check_capturable(lambda m, x: m(x), (torch.empty(spec.input_shape),), module)


def test_cutting_and_joining_may_be_captured() -> None:
    plan = TilePlan.make(70, 90, tile=48, overlap=16)
    assert plan.count > 1
    ramps = blend_ramps(plan, scale=2, dtype=torch.float32, device=torch.device("cpu"))

    def join(tiles: Tensor, *weights: Tensor) -> Tensor:
        canvas = Canvas(
            plan, 2, scale=2, device="cuda", ramps=dict(zip(ramps, weights, strict=True))
        )
        canvas.extend(tiles)
        return canvas.frames

    check_capturable(plan.extract, (torch.empty(2, 3, 70, 90),))
    tiles = torch.empty(2 * plan.count, 3, 96, 96)
    check_capturable(join, (tiles, *ramps.values()))
