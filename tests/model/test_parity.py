"""HAT against spandrel's copy of the published network, on weights that hide nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatvid.model import attention
from hatvid.model.attention import BiasedAttention, WindowAttention, WindowTables
from hatvid.model.blocks import HAB, OCAB, ChannelAttention
from hatvid.model.hat import HAT, HATConfig, reflection_index
from hatvid.research.train_network import Tasks, drop_paths

FLOAT64 = 1e-9
FLOAT32 = 2e-5
"""Largest difference allowed, in standard deviations of the output."""

Pair = Callable[[HATConfig], tuple[HAT, nn.Module]]

NANO_SIZES = [(16, 16), (17, 50), (33, 70), (48, 25), (100, 30), (63, 97)]
SMALL_SIZES = [(17, 30)]


def visible(config: HATConfig) -> HATConfig:
    """With a CAB that weighs enough to be missed."""
    return replace(config, conv_scale=0.5)


def picture(height: int, width: int, batch: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(batch, 3, height, width, generator=random, dtype=torch.float64)


@torch.no_grad()
def difference(ours: nn.Module, theirs: nn.Module, x: Tensor) -> float:
    """Largest absolute difference, in standard deviations of the published output."""
    got, wanted = ours(x), theirs(x)
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    return float((got - wanted).abs().max() / wanted.std())


CASES = [
    *(("nano", HATConfig.hat_nano(scale), NANO_SIZES) for scale in (2, 3, 4)),
    *(("hat-s", HATConfig.hat_s(scale), SMALL_SIZES) for scale in (2, 3, 4)),
    *(("hat", HATConfig.hat(scale), SMALL_SIZES) for scale in (2, 3, 4)),
    ("hat-l", HATConfig.hat_l(4), [(18, 14)]),
]


# Scales differ in their tails alone.
QUICK = {"nano-x2", "nano-x3", "nano-x4", "hat-s-x4", "hat-x4"}


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        pytest.param(
            visible(c),
            sizes,
            id=(case := f"{name}-x{c.upscale}"),
            marks=[] if case in QUICK else pytest.mark.long,
        )
        for name, c, sizes in CASES
    ],
)
def test_equals_published(pair: Pair, config: HATConfig, sizes: list[tuple[int, int]]) -> None:
    ours, theirs = pair(config)
    for height, width in sizes:
        x = picture(height, width)
        assert difference(ours, theirs, x) < FLOAT64, (height, width)
    ours, theirs = copy.deepcopy(ours).float(), copy.deepcopy(theirs).float()
    assert difference(ours, theirs, x.float()) < FLOAT32


@pytest.mark.long
@pytest.mark.parametrize("make", [HATConfig.hat_s, HATConfig.hat], ids=["hat-s", "hat"])
def test_equals_published_on_a_larger_input(pair: Pair, make: Callable[[int], HATConfig]) -> None:
    ours, theirs = pair(visible(make(4)))
    assert difference(ours, theirs, picture(100, 67)) < FLOAT64


UNUSUAL = {
    "no patch norm": {"patch_norm": False},
    "no qkv bias": {"qkv_bias": False},
    "identity": {"resi_connection": "identity"},
    "qk_scale": {"qk_scale": 0.7},
    "img_range": {"img_range": 255.0},
    "window 8": {"window_size": 8},
    "odd window": {"window_size": 7, "overlap_ratio": 0.6},
    "no overlap": {"overlap_ratio": 0.0},
    "one channel": {"num_in_ch": 1},
    "x8": {"upscale": 8},
}


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_equals_published_with_unusual_settings(
    pair: Pair, tiny: HATConfig, change: dict[str, object]
) -> None:
    config = visible(replace(tiny, **change))  # type: ignore[arg-type]
    ours, theirs = pair(config)
    assert difference(ours, theirs, picture(35, 50)[:, : config.num_in_ch]) < FLOAT64


def test_gradients_equal_published(pair: Pair, tiny: HATConfig) -> None:
    pair_ours, pair_theirs = pair(visible(tiny))
    ours, theirs = copy.deepcopy(pair_ours).train(), copy.deepcopy(pair_theirs)
    x = picture(20, 33)
    for net in (ours, theirs):
        net(x).square().mean().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert wanted[name].grad is not None
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-9, atol=1e-12)


# -- Each part left out or bent on purpose must show. -----------------------------------


def _no_mask(patch: pytest.MonkeyPatch, net: HAT) -> None:
    patch.setattr(attention, "MASKED", 0.0)


def _no_bias_of(patch: pytest.MonkeyPatch, kind: type[BiasedAttention]) -> None:
    lookup = BiasedAttention._lookup
    patch.setattr(kind, "_lookup", lambda self, index: torch.zeros_like(lookup(self, index)))


def _no_self_attention_bias(patch: pytest.MonkeyPatch, net: HAT) -> None:
    _no_bias_of(patch, WindowAttention)


def _no_overlap_bias(patch: pytest.MonkeyPatch, net: HAT) -> None:
    _no_bias_of(patch, OCAB)


def _clamped_overlap_index(patch: pytest.MonkeyPatch, net: HAT) -> None:
    net.relative_position_index_OCA.clamp_(min=0)


def _wrong_scale(patch: pytest.MonkeyPatch, net: HAT) -> None:
    for part in net.modules():
        if isinstance(part, BiasedAttention):
            part.scale = net.config.embed_dim**-0.5


def _pool_per_window(patch: pytest.MonkeyPatch, net: HAT) -> None:
    def forward(self: ChannelAttention, x: Tensor) -> Tensor:
        gate = F.avg_pool2d(x, net.config.window_size)
        for layer in list(self.attention)[1:]:
            gate = layer(gate)
        return x * F.interpolate(gate, scale_factor=net.config.window_size)

    patch.setattr(ChannelAttention, "forward", forward)


def _no_cab(patch: pytest.MonkeyPatch, net: HAT) -> None:
    for part in net.modules():
        if hasattr(part, "conv_scale"):
            part.conv_scale = 0.0


def _no_ocab(patch: pytest.MonkeyPatch, net: HAT) -> None:
    patch.setattr(OCAB, "forward", lambda self, x, tables: x)


def _layer_norm_eps(patch: pytest.MonkeyPatch, net: HAT) -> None:
    # 9e-6 beside variances of 0.1 and more: as small as float32 rounding after ten
    # blocks (1.7 times its tolerance), so that float64 alone can be asked to see it.
    for part in net.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6


def _no_shift(patch: pytest.MonkeyPatch, net: HAT) -> None:
    for part in net.modules():
        if isinstance(part, WindowAttention):
            part.shift_size = 0


def _no_border_zeros(patch: pytest.MonkeyPatch, net: HAT) -> None:
    def overlapping(self: WindowTables, x: Tensor) -> Tensor:
        grid = x.view(x.shape[0], self.height, self.width, -1).permute(0, 3, 1, 2)
        grid = F.pad(grid, (self.margin,) * 4, mode="reflect")
        return grid.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, self.overlap)

    patch.setattr(WindowTables, "overlapping", overlapping)


DEFECTS = {
    "no mask": _no_mask,
    "no self-attention bias": _no_self_attention_bias,
    "no OCAB bias": _no_overlap_bias,
    "clamped OCAB index": _clamped_overlap_index,
    "wrong attention scale": _wrong_scale,
    "channel attention pooled per window": _pool_per_window,
    "CAB removed": _no_cab,
    "OCAB removed": _no_ocab,
    "LayerNorm eps changed": _layer_norm_eps,
    "no shift": _no_shift,
    "OCAB border reflected": _no_border_zeros,
}


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS.keys())
def test_comparison_sees_each_defect(
    pair: Pair,
    patch: pytest.MonkeyPatch,
    defect: Callable[[pytest.MonkeyPatch, HAT], None],
) -> None:
    """The parity tests above could not pass with any of these in place."""
    sound, theirs = pair(visible(HATConfig.hat_nano(4)))
    x = picture(33, 50)
    assert difference(sound, theirs, x) < FLOAT64
    broken = copy.deepcopy(sound)
    broken.drop_tables()
    defect(patch, broken)
    in_float64 = difference(broken, theirs, x)
    in_float32 = difference(broken.float(), copy.deepcopy(theirs).float(), x.float())
    assert in_float64 > 10 * FLOAT64
    assert defect is _layer_norm_eps or in_float32 > 10 * FLOAT32


# -- Padding ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "padded"), [(16, 16), (9, 16), (17, 32), (2, 16), (3, 16), (5, 48), (1, 16)]
)
def test_reflection_index_equals_numpy(size: int, padded: int) -> None:
    """numpy reflects as often as needed, and repeats an axis of one pixel."""
    wanted = np.pad(np.arange(size), (0, padded - size), mode="reflect")
    np.testing.assert_array_equal(reflection_index(size, padded).numpy(), wanted)


@torch.no_grad()
def test_pads_as_the_published_tester(pair: Pair, tiny: HATConfig) -> None:
    """Right and bottom, by reflection, to a multiple of the window; then cropped."""
    ours, _ = pair(visible(tiny))
    x = picture(35, 50)
    wanted = ours(F.pad(x, (0, 14, 0, 13), mode="reflect"))[:, :, :70, :100]
    assert torch.equal(ours(x), wanted)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20), (5, 2), (3, 17), (16, 1)])
@torch.no_grad()
def test_inputs_smaller_than_the_padding(
    pair: Pair, tiny: HATConfig, height: int, width: int
) -> None:
    ours, theirs = pair(visible(tiny))
    x = picture(height, width)
    tall, wide = -(-height // 16) * 16, -(-width // 16) * 16
    pad = ((0, 0), (0, 0), (0, tall - height), (0, wide - width))
    wanted = theirs(torch.from_numpy(np.pad(x.numpy(), pad, mode="reflect")))
    wanted = wanted[:, :, : 2 * height, : 2 * width]
    got = ours(x)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=0, atol=FLOAT64)


def test_stochastic_depth_is_the_published_one(pair: Pair) -> None:
    """Drawn from the same numbers, the same branches are left out, and weigh the same."""
    ours, theirs = map(copy.deepcopy, pair(replace(HATConfig.hat_nano(2), depths=(3, 2))))
    tasks = Tasks({"main": ours})
    drop_paths(tasks, 0.5)  # published: 0.1
    chances = [part.drop_path for part in tasks.modules() if isinstance(part, HAB)]
    assert chances == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    drops = [part for part in theirs.modules() if type(part).__name__ == "DropPath"]
    for drop, chance in zip(drops, chances[1:], strict=True):  # the first has none
        drop.drop_prob = chance  # type: ignore[assignment]
    pictures, made = picture(32, 32, batch=4), []
    for net in (ours, theirs):
        torch.manual_seed(11)
        with torch.no_grad():
            made.append(net.train()(pictures))
    assert (made[0] - made[1]).abs().max() / made[1].std() < FLOAT64
    with torch.no_grad():
        assert (ours.eval()(pictures) - made[0]).abs().max() / made[1].std() > 0.01
