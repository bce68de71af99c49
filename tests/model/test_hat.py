"""HAT as a module: prepared tables, what drops them, tracing, memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from hatvid.model.attention import WindowAttention, WindowOrder, WindowTables, shift_masks
from hatvid.model.blocks import CAB, HAB, OCAB, RHAG
from hatvid.model.hat import HAT, HATConfig


@pytest.fixture
def model(tiny: HATConfig) -> HAT:
    torch.manual_seed(0)
    model = HAT(tiny).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith("bias_table"):
            value.normal_()
    return model


def picture(height: int, width: int, batch: int = 1, **kwargs: Any) -> Tensor:
    return torch.rand(batch, 3, height, width, **kwargs)


def test_parameter_counts_of_the_paper() -> None:
    """As counted in the published networks."""
    counts = {
        HATConfig.hat_s: {2: 9_473_471, 3: 9_658_111, 4: 9_621_183},
        HATConfig.hat: {2: 20_624_795, 3: 20_809_435, 4: 20_772_507},
        HATConfig.hat_l: {2: 40_698_863, 3: 40_883_503, 4: 40_846_575},
        HATConfig.hat_nano: {4: 488_977},
    }
    for make, by_scale in counts.items():
        for scale, count in by_scale.items():
            with torch.device("meta"):
                parameters = HAT(make(scale)).parameters()
            assert sum(p.numel() for p in parameters) == count, (make, scale)


@pytest.mark.parametrize(
    "values",
    [
        {"embed_dim": 0},
        {"embed_dim": 50},
        {"depths": ()},
        {"depths": (6,)},
        {"window_size": 1},
        {"overlap_ratio": 0.45},
        {"overlap_ratio": -0.5},
        {"squeeze_factor": 181},
        {"mlp_ratio": 0.001},
        {"upscale": 6},
        {"upscale": 0},
        {"img_range": 0.0},
        {"resi_connection": "3conv"},
    ],
)
def test_config_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        HATConfig(**values)


def test_config_is_hashable_with_lists() -> None:
    config = HATConfig(depths=[6] * 6, num_heads=[6] * 6)  # type: ignore[arg-type]
    assert hash(config) == hash(HATConfig())


# -- Windows ----------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 48), (48, 16), (64, 48)])
def test_window_order_is_roll_and_partition(height: int, width: int) -> None:
    """Each window holds what a roll and a plain cut give, and all come back."""
    x = torch.arange(height * width).view(1, -1, 1)
    order = WindowOrder(height, width, 16, 8)
    rolled = x.view(height, width).roll((-8, -8), (0, 1))
    cut = [
        rolled[i : i + 16, j : j + 16].flatten()
        for i in range(0, height, 16)
        for j in range(0, width, 16)
    ]
    windows = order.partition(x).view(-1, 256)
    assert {tuple(w.tolist()) for w in windows} == {tuple(w.tolist()) for w in cut}
    assert torch.equal(order.merge(order.partition(x)), x)
    assert sum(order.counts) == len(cut)
    assert torch.equal(windows[-1], cut[-1])  # the corner comes last


def test_shift_masks_keep_apart_what_the_roll_brought_together() -> None:
    """Tokens may see each other if the roll left their distance as it was."""
    size, window, shift = 12, 4, 2
    grid = torch.arange(size * size).view(size, size).roll((-shift, -shift), (0, 1))
    masks = shift_masks(window, shift)[:, 0]
    place = {"interior": (0, 0), "right": (0, 8), "bottom": (8, 0), "corner": (8, 8)}
    for mask, (top, left) in zip(masks, place.values(), strict=True):
        source = grid[top : top + window, left : left + window].flatten()
        row, column = source // size, source % size
        together = ((row[:, None] - row).abs() < window) & (
            (column[:, None] - column).abs() < window
        )
        assert torch.equal(mask == 0, together)
        assert set(mask.unique().tolist()) <= {0.0, -100.0}


@pytest.mark.parametrize(("height", "width", "overlap"), [(20, 16, 24), (0, 16, 24), (16, 16, 23)])
def test_tables_refuse_a_map_that_is_no_grid(height: int, width: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="windows"):
        WindowTables(height, width, 16, overlap)


def test_blocks_work_alone() -> None:
    tables = WindowTables(32, 48)
    x = torch.rand(2, 32 * 48, 12)
    assert HAB(12, 3, shift_size=8, squeeze_factor=4)(x, tables).shape == x.shape
    assert OCAB(12, 3)(x, tables).shape == x.shape
    assert RHAG(12, 2, 3, squeeze_factor=4)(x, tables).shape == x.shape
    assert CAB(12, 3, 4)(torch.rand(2, 12, 5, 7)).shape == (2, 12, 5, 7)


def test_attention_takes_a_fused_kernel(model: HAT) -> None:
    """With one bias for all windows; the plain kernel would hold all scores at once."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model(picture(40, 40, batch=2))


# -- Prepared tables --------------------------------------------------------------------


def test_prepares_itself_for_another_shape(model: HAT) -> None:
    x, y = picture(20, 40), picture(40, 33)
    first = model(x)
    assert model.prepared == (20, 40)
    assert model(y).shape == (1, 3, 80, 66)
    assert model.prepared == (40, 33)
    assert torch.equal(model(x), first)


@pytest.mark.parametrize("size", [(0, 16), (16, -1)])
def test_refuses_an_input_without_pixels(model: HAT, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no pixels"):
        model.prepare(*size)


def test_batch_equals_single_runs(model: HAT) -> None:
    x = picture(40, 50, batch=2)
    single = torch.cat([model(x[:1]), model(x[1:])])
    torch.testing.assert_close(model(x), single, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "as part of another"])
def test_other_weights_after_a_forward(model: HAT, wrapped: bool) -> None:
    x = picture(20, 20)
    before = model(x)
    other = copy.deepcopy(model)
    for value in other.parameters():
        value.normal_(std=0.3)
    other.drop_tables()
    wanted = other(x)
    if wrapped:
        state = {f"0.{key}": value for key, value in other.state_dict().items()}
        nn.Sequential(model).load_state_dict(state)
    else:
        model.load_state_dict(other.state_dict())
    assert torch.equal(model(x), wanted)
    assert not torch.allclose(before, wanted)


def test_a_training_step_between_two_forwards(model: HAT) -> None:
    x = picture(20, 20)
    model(x)
    model.train().requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
    tables = [p for n, p in model.named_parameters() if n.endswith("bias_table")]
    assert all(p.grad is not None and bool(p.grad.any()) for p in tables)
    model.eval().requires_grad_(False)
    fresh = HAT(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model(x), fresh(x))


def test_double_after_a_forward(model: HAT) -> None:
    x = picture(20, 33)
    single = model(x)
    double = model.double()(x.double())
    assert double.dtype == torch.float64
    fresh = HAT(model.config).double().eval()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(double, fresh(x.double()), rtol=0, atol=1e-12)
    torch.testing.assert_close(single, double.float(), rtol=0, atol=1e-4)


def test_gradient_of_the_input_after_inference_mode(model: HAT) -> None:
    """Tables made in inference mode must not spoil a later gradient."""
    x = picture(20, 20)
    with torch.inference_mode():
        model(x)
    x.requires_grad_(True)
    model(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())


def test_tables_are_not_saved(model: HAT) -> None:
    names = list(model.state_dict())
    model(picture(20, 20))
    assert list(model.state_dict()) == names


def test_prepared_buffers_of_a_1080p_frame_are_small() -> None:
    """One mask a window would be 12.8 GB a block here."""
    model = HAT(HATConfig.hat_nano(4)).eval().prepare(1080, 1920)
    saved = {id(value) for value in model.state_dict(keep_vars=True).values()}
    size = sum(value.nbytes for value in model.buffers() if id(value) not in saved)
    assert 20e6 < size < 120e6


# -- Tracing ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_trace_replays_another_input(model: HAT) -> None:
    """No warning is let through: each would be a branch on data, or a frozen value."""
    x, y = picture(33, 50, batch=4).split(2)
    traced = torch.jit.trace(model.prepare(33, 50), x, check_trace=False)
    assert torch.equal(traced(y), model(y))


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_make_fx_replays_another_input(model: HAT, mode: str) -> None:
    x, y = picture(33, 50, batch=4).split(2)
    graph = make_fx(
        model.prepare(33, 50), tracing_mode=mode, _allow_non_fake_inputs=mode == "fake"
    )(x)
    assert torch.equal(graph(y), model(y))


def test_export_replays_another_input(model: HAT) -> None:
    x, y = picture(33, 50, batch=4).split(2)
    exported = torch.export.export(model.prepare(33, 50), (x,)).module()
    assert torch.equal(exported(y), model(y))


def test_forward_stays_on_the_device(tiny: HATConfig) -> None:
    """On a fake GPU: once prepared, no copy from the host, no new constant, no sync."""
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        model = HAT(tiny).eval().requires_grad_(False).prepare(33, 50)
        graph = make_fx(model)(torch.rand(2, 3, 33, 50))
    called = {str(node.target) for node in graph.graph.nodes if "aten" in str(node.target)}
    allowed = "index_select convolution native_layer_norm gelu pixel_shuffle mean"
    assert all(any(part in name for name in called) for part in allowed.split())
    banned = (
        "_to_copy", "copy_", "lift", "arange", "full", "zeros", "ones", "empty", "scalar",
        "nonzero", "item", "rand",
    )  # fmt: skip
    assert not [name for name in called if any(part in name for part in banned)]
    outputs = [n.meta["val"] for n in graph.graph.nodes if isinstance(n.meta.get("val"), Tensor)]
    assert {value.device.type for value in outputs} == {"cuda"}


@pytest.mark.parametrize("half", [False, True])
def test_a_bias_that_learns_is_attended_with_as_one_that_does_not(half: bool) -> None:
    """On a CPU the two take different ways; values and gradients are the fused kernel's."""
    torch.manual_seed(0)
    attention = WindowAttention(24, 3, window_size=8)
    q, k, v = (torch.randn(5, 64, 24, requires_grad=True) for _ in range(3))
    bias = torch.randn(1, 3, 64, 64, requires_grad=True)
    towards = torch.randn(5, 64, 24)

    def heads(x: Tensor) -> Tensor:
        return x.view(5, 64, 3, 8).transpose(1, 2)

    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        ours = attention.attend(q, k, v, bias)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        heads(q), heads(k), heads(v), bias, scale=attention.scale
    )
    theirs = theirs.transpose(1, 2).flatten(2)
    near = 2e-2 if half else 1e-5
    torch.testing.assert_close(ours.float(), theirs, atol=near, rtol=near)
    for mine, published in zip(
        torch.autograd.grad((ours.float() * towards).sum(), (q, k, v, bias)),
        torch.autograd.grad((theirs * towards).sum(), (q, k, v, bias)),
        strict=True,
    ):
        torch.testing.assert_close(mine, published, atol=4 * near, rtol=near)
