"""The tail as one convolution, against the layers that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hatvid.engine import TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.engine.openvino import OpenVINOEngine
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.tail import CollapsedTail, collapse_tail, tail_multiply_adds

SIZES = [(16, 16), (16, 48), (37, 50), (5, 90)]


def redrawn(scale: int, num_feat: int = 5) -> HAT:
    """A small HAT in float64 whose weights and biases all matter."""
    config = HATConfig(
        embed_dim=12,
        depths=(1,),
        num_heads=(2,),
        squeeze_factor=6,
        num_feat=num_feat,
        upscale=scale,
    )
    model = HAT(config).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(scale)
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_whole_frame_is_the_same_ring_included(scale: int, size: tuple[int, int]) -> None:
    model = redrawn(scale)
    collapsed = collapse_tail(model)
    assert isinstance(collapsed.upsample, CollapsedTail)
    frames = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(1)).double()
    expected, result = model(frames), collapsed(frames)
    assert float((result - expected).abs().max()) < 1e-12 * float(expected.std())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_the_ring_it_would_be_another_network(scale: int) -> None:
    """The layers see zeros around their own maps; the one convolution cannot."""
    model = redrawn(scale)
    tail = collapse_tail(model).upsample
    assert isinstance(tail, CollapsedTail)
    features = torch.rand((1, 5, 24, 24), generator=torch.Generator().manual_seed(1)).double()
    alone = tail.shuffle(tail.conv(features))
    expected = model.conv_last(model.upsample(features))
    apart = (alone - expected).abs().amax((0, 1)) / expected.std()
    edge = tail.ring * scale
    assert float(apart[edge:-edge, edge:-edge].max()) < 1e-12
    assert min(float(apart[0].max()), float(apart[:, -1].max())) > 1e-3
    # No row of the ring is there for nothing: the innermost one needs it too.
    assert float(apart[edge - scale : edge].max()) > 1e-6


def test_arithmetic_is_down_tenfold_and_counted() -> None:
    """For num_feat 64 and x4, 764,928 multiply-adds an input pixel become 76,800."""
    assert tail_multiply_adds(HATConfig()) == (764_928, 76_800)
    model = redrawn(4, num_feat=64).float()
    collapsed = collapse_tail(model)
    side = 96
    features = torch.rand(1, 64, side, side)
    counts = []
    for network in (model, collapsed):
        with FlopCounterMode(display=False) as counter:
            network.conv_last(network.upsample(features))
        counts.append(counter.get_total_flops() / 2 / side**2)
    assert counts[0] == 764_928
    # What the strips of the ring cost grows with the side, the rest with its square.
    ring = 4 * 4 * side * 764_928 / side**2
    assert counts[1] == pytest.approx(76_800 + ring, rel=1e-6)
    assert counts[0] / counts[1] > 3.5
    largest = []
    for network in (model, collapsed):
        sizes: list[int] = []
        for layer in network.upsample.modules():
            layer.register_forward_hook(lambda *seen, sizes=sizes: sizes.append(seen[2].numel()))
        network.conv_last(network.upsample(features))
        largest.append(max(sizes))
    assert largest[0] == 16 * 64 * side**2
    assert largest[1] == 16 * 3 * side**2


def test_the_given_model_stays_and_is_shared() -> None:
    model = redrawn(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collapsed = collapse_tail(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    own = {id(parameter) for parameter in model.parameters()}
    new = [name for name, parameter in collapsed.named_parameters() if id(parameter) not in own]
    assert new == ["upsample.conv.weight", "upsample.conv.bias"]


def test_what_has_nothing_to_collapse_comes_back() -> None:
    model = redrawn(1)
    assert collapse_tail(model) is model
    collapsed = collapse_tail(redrawn(2))
    assert collapse_tail(collapsed) is collapsed


@pytest.mark.parametrize("engine", ["eager", "openvino"])
def test_engines_run_it(engine: str) -> None:
    model = redrawn(4).float()
    spec = TileSpec(batch=2, height=32, width=48, scale=4)
    tiles: Tensor = torch.rand(spec.input_shape, generator=torch.Generator().manual_seed(1))
    collapsed: nn.Module = collapse_tail(model)
    if engine == "eager":
        result = EagerEngine(collapsed, spec).run(tiles)
    else:
        result = OpenVINOEngine(
            collapsed, spec, precision="fp32", fingerprint="", cache_dir=None
        ).run(tiles)
    expected = model(tiles)
    torch.testing.assert_close(result, expected, atol=2e-5 * float(expected.std()), rtol=0)
