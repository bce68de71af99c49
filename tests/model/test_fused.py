from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hatvid.engine import TileSpec
from hatvid.engine.capture_safety import check_capturable
from hatvid.engine.prepare import prepared
from hatvid.engine.recorded import RecordedEngine
from hatvid.engine.runtime import HostRuntime
from hatvid.model.attention import BiasedAttention
from hatvid.model.attention_form import with_attention
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig

DEPTHS = (2, 2)


@pytest.fixture(scope="module")
def model() -> HAT:
    """Heads of 30 as HAT's; weights redrawn."""
    config = HATConfig(
        embed_dim=60, depths=DEPTHS, num_heads=(2, 2), squeeze_factor=10, num_feat=16, upscale=2
    )
    generator = torch.Generator().manual_seed(7)
    built = HAT(config).eval().requires_grad_(False)
    for parameter in built.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return built


def _picture(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("size", [(33, 50), (16, 16), (16, 40), (48, 10)])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("padded", [False, True])
def test_every_form_of_the_network_is_the_same_when_fused(
    model: HAT, size: tuple[int, int], precision: str, padded: bool
) -> None:
    forms = Forms(model)
    x = _picture(*size)
    plain = forms.form(precision, padded=padded)(x)
    fused = forms.form(precision, padded=padded, fused=True)(x)
    limit = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}[precision]
    assert (fused - plain).abs().max() < limit * plain.std()


def test_in_float64(model: HAT) -> None:
    import copy

    exact = copy.deepcopy(model).double()
    x = _picture(33, 50).double()
    fused = with_attention(exact, "triton")
    torch.testing.assert_close(fused(x), exact(x), rtol=0, atol=1e-12)


def _operators(network: HAT, x: Tensor) -> Counter[str]:
    network.prepare(*x.shape[2:])
    graph = make_fx(network)(x)
    return Counter(
        str(node.target).removesuffix(".default")
        for node in graph.graph.nodes
        if node.op == "call_function"
    )


def test_no_map_is_shifted_partitioned_or_unfolded(model: HAT) -> None:
    x = _picture(32, 48)
    plain = _operators(model, x)
    fused = _operators(with_attention(model, "triton"), x)
    assert plain["aten.index_select"] > 0
    assert fused["hatvid.window_attention"] == sum(DEPTHS)
    assert fused["hatvid.overlap_attention"] == len(DEPTHS)
    gone = ("aten.index_select", "aten.roll", "aten.cat", "aten.constant_pad_nd", "aten.softmax")
    assert not any(fused[name] for name in gone), fused


def test_the_model_stays_as_it_is_and_shares_its_weights(model: HAT) -> None:
    assert {m.attention for m in model.modules() if isinstance(m, BiasedAttention)} == {"sdpa"}
    fused = with_attention(model, "triton")
    assert {m.attention for m in model.modules() if isinstance(m, BiasedAttention)} == {"sdpa"}
    assert {m.attention for m in fused.modules() if isinstance(m, BiasedAttention)} == {"triton"}
    assert {id(p) for p in fused.parameters()} == {id(p) for p in model.parameters()}


def test_it_may_be_captured_and_recorded(model: HAT) -> None:
    spec = TileSpec(batch=2, height=32, width=32, scale=2)
    network: Any = Forms(model).form("fp16", padded=True, fused=True)
    check_capturable(
        lambda n, x: n(x), (torch.empty(spec.input_shape),), prepared(network, spec, "fp16")
    )
    engine = RecordedEngine(network, spec, runtime=HostRuntime(), name="replay", precision="fp16")
    tiles = torch.rand(spec.input_shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(engine.run(tiles), network(tiles))
