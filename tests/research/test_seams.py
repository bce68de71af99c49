"""Errors of tiles: none where there are none, and planted ones where they were planted."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hatvid.errors import OptionError
from hatvid.options import EngineOptions, TileOptions
from hatvid.research.seams import measure_seams, seams_of
from hatvid.tiling import TilePlan
from hatvid.upscaler import Upscaler

EAGER = EngineOptions(engine="eager", threads=1)


class Nearest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


class Pooled(nn.Module):
    """Brighter where the tile is: the mean of a tile is not that of the frame."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.2 * x.mean((2, 3), keepdim=True)
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def upscaler(module: nn.Module, options: TileOptions) -> Upscaler:
    return Upscaler(module, scale=2, engine_options=EAGER, tile_options=options)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    tile=st.integers(1, 8).map(lambda n: 16 * n),
    share=st.floats(0, 0.5),
    batch=st.integers(1, 5),
)
def test_nearest_pixels_are_exact_through_any_plan(
    height: int, width: int, tile: int, share: float, batch: int
) -> None:
    frames = torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(1))
    # Less than a grid line of step is refused, which is another test's matter.
    overlap = min(int(tile * share), tile - 16)
    with upscaler(Nearest(), TileOptions(tile=tile, overlap=overlap, batch=batch)) as up:
        assert torch.equal(up(frames), Nearest()(frames))


def test_where_nothing_differs_there_is_no_seam() -> None:
    frame = torch.rand((1, 3, 90, 140), generator=torch.Generator().manual_seed(1))
    (row,) = measure_seams([frame], [(64, 16)], lambda options: upscaler(Nearest(), options))
    assert (row.psnr, row.max_error, row.at_seams, row.elsewhere) == (math.inf, 0, 0, 0)
    assert row.step_ratio == 1
    assert row.as_dict()["psnr"] is None
    # 96x144 in 64x64: two rows of three.
    assert row.tiles == 6
    assert row.work == pytest.approx(6 * 64 * 64 / (90 * 140))


def test_a_planted_seam_is_found() -> None:
    frame = torch.linspace(0, 1, 140).expand(1, 3, 90, 140).clone()
    hard, soft = measure_seams(
        [frame], [(64, 0), (64, 32)], lambda options: upscaler(Pooled(), options)
    )
    # Tiles differ by a constant each: all steps are at seams, sudden without an overlap and
    # spread over the blend band with one.
    assert hard.step_ratio == math.inf or hard.step_ratio > 100
    assert soft.step_ratio > 20
    assert hard.max_error > 10


@pytest.fixture(scope="module")
def plan() -> TilePlan:
    return TilePlan.make(96, 160, tile=64, overlap=16)


def test_an_error_that_is_everywhere_is_no_seam(plan: TilePlan) -> None:
    error = (
        0.01 * torch.randn((2, 3, 192, 320), generator=torch.Generator().manual_seed(1)).double()
    )
    row = seams_of(error, plan, 2, tile=64, overlap=16)
    assert row.step_ratio == pytest.approx(1, abs=0.05)
    assert row.at_seams == pytest.approx(row.elsewhere, rel=0.05)
    assert row.psnr == pytest.approx(40, abs=0.1)


def test_a_step_of_known_size(plan: TilePlan) -> None:
    """One step of 0.1 at a vertical seam, on noise of 0.01."""
    (first, *_), noise = plan.columns.seams, torch.Generator().manual_seed(1)
    error = 0.001 * torch.randn((1, 3, 192, 320), generator=noise).double()
    row = seams_of(error, plan, 2, tile=64, overlap=16)
    error[..., first * 2 :] += 0.1
    stepped = seams_of(error, plan, 2, tile=64, overlap=16)
    assert row.step_ratio == pytest.approx(1, abs=0.05)
    assert stepped.step_ratio > 3
    # A step on another line is not taken for one.
    error[..., first * 2 :] -= 0.1
    error[..., first * 2 + 20 :] += 0.1
    assert seams_of(error, plan, 2, tile=64, overlap=16).step_ratio == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("tiling", "text"),
    [((17, 0), "multiple of 16"), ((64, 40), "at most half"), ((256, 16), "take a smaller one")],
)
def test_what_cannot_be_measured(tiling: tuple[int, int], text: str) -> None:
    frame = torch.zeros(1, 3, 90, 140)
    with pytest.raises(OptionError, match=text):
        measure_seams([frame], [tiling], lambda options: upscaler(Nearest(), options))
