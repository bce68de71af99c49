"""The network with no table of any size in it equals the published one, before it is exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hatvid.model.export_dynamic import DynamicHAT
from hatvid.model.hat import HAT, HATConfig

FLOAT64 = 1e-9
"""Largest difference allowed, in standard deviations of the output."""

Pair = Callable[[HATConfig], tuple[HAT, nn.Module]]

# One window; one row and one column of windows; every kind of window; less than a window,
# and less than the padding reflects.
SIZES = [(16, 16), (16, 50), (37, 16), (40, 52), (5, 3), (1, 20), (33, 1), (1, 1)]


def picture(height: int, width: int, batch: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(batch, 3, height, width, generator=random, dtype=torch.float64)


@torch.no_grad()
def difference(got: nn.Module, wanted: nn.Module, x: Tensor) -> float:
    one, other = got(x), wanted(x)
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.std())


def test_equals_published(pair: Pair, tiny: HATConfig) -> None:
    ours, theirs = pair(replace(tiny, conv_scale=0.5))
    dynamic = DynamicHAT(ours)
    for height, width in SIZES:
        x = picture(height, width)
        # The published network pads by reflection once, which needs as much to reflect.
        reference = theirs if min(height, width) > 15 else ours
        assert difference(dynamic, reference, x) < FLOAT64, (height, width)


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
}


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_equals_published_with_unusual_settings(
    pair: Pair, tiny: HATConfig, change: dict[str, object]
) -> None:
    config = replace(tiny, conv_scale=0.5, **change)  # type: ignore[arg-type]
    ours, theirs = pair(config)
    x = picture(35, 50)[:, : config.num_in_ch]
    assert difference(DynamicHAT(ours), theirs, x) < FLOAT64


def test_the_network_stays_as_it_is_and_shares_its_parameters(pair: Pair, tiny: HATConfig) -> None:
    ours, _ = pair(tiny)
    ours.prepare(20, 20)
    names = [name for name, _ in ours.named_modules()]
    dynamic = DynamicHAT(ours)
    assert ours.prepared == (20, 20)
    assert [name for name, _ in ours.named_modules()] == names
    own = {id(parameter) for parameter in ours.parameters()}
    assert all(id(parameter) in own for parameter in dynamic.parameters())
