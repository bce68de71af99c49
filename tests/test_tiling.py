from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hatvid.errors import OptionError
from hatvid.tiling import Axis, Canvas, TilePlan

GRID = 16

lengths = st.integers(1, 700)
# Tile and overlap as the options allow them: at most half a tile is shared.
cuts = st.integers(2, 12).flatmap(
    lambda lines: st.tuples(st.just(lines * GRID), st.integers(0, (lines - 1) * GRID // 2))
)


def nearest(tiles: Tensor, scale: int) -> Tensor:
    """An engine whose tiled result is known: every pixel becomes a square."""
    return tiles.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


@given(lengths, cuts)
def test_axis_lies_on_the_grid_and_covers_the_padded_length(
    length: int, cut: tuple[int, int]
) -> None:
    tile, overlap = cut
    axis = Axis.make(length, tile=tile, overlap=overlap, grid=GRID)

    assert axis.padded % GRID == 0
    assert 0 <= axis.padded - length < GRID
    assert axis.tile % GRID == 0
    assert axis.tile <= tile
    assert all(origin % GRID == 0 for origin in axis.origins)
    assert axis.origins[0] == 0
    assert axis.origins[-1] + axis.tile == axis.padded
    covered = np.zeros(axis.padded, int)
    for origin in axis.origins:
        assert origin + axis.tile <= axis.padded
        covered[origin : origin + axis.tile] += 1
    assert covered.min() >= 1


@given(lengths, cuts)
def test_neighbours_share_at_least_the_overlap(length: int, cut: tuple[int, int]) -> None:
    tile, overlap = cut
    axis = Axis.make(length, tile=tile, overlap=overlap, grid=GRID)
    steps = np.diff(axis.origins)
    assert all(0 < step <= axis.tile - overlap for step in steps)
    assert not len(steps) or max(steps) - min(steps) <= GRID


@given(lengths, cuts)
def test_owners_partition_the_frame(length: int, cut: tuple[int, int]) -> None:
    tile, overlap = cut
    axis = Axis.make(length, tile=tile, overlap=overlap, grid=GRID)
    owners = np.zeros(length, int)
    for origin, (start, stop) in zip(axis.origins, axis.owned, strict=True):
        assert origin <= start < stop <= origin + axis.tile
        owners[start:stop] += 1
    assert (owners == 1).all()


@given(lengths, cuts, st.sampled_from([1, 2, 3, 4]))
def test_bands_lie_in_what_is_shared_and_apart_from_each_other(
    length: int, cut: tuple[int, int], scale: int
) -> None:
    tile, overlap = cut
    axis = Axis.make(length, tile=tile, overlap=overlap, grid=GRID)
    mixed = np.zeros(axis.padded * scale, int)
    for seam in range(len(axis.seams)):
        start, stop = axis.band(seam, scale)
        assert stop - start <= overlap * scale
        assert start >= axis.origins[seam + 1] * scale
        assert stop <= (axis.origins[seam] + axis.tile) * scale
        mixed[start:stop] += 1
    assert mixed.max(initial=0) <= 1


@given(lengths, cuts)
def test_fewest_and_smallest_tiles(length: int, cut: tuple[int, int]) -> None:
    """Against a search through every number and size of tiles."""
    tile, overlap = cut
    axis = Axis.make(length, tile=tile, overlap=overlap, grid=GRID)
    if tile >= axis.padded:
        assert axis.origins == (0,)
        return

    def reaches(size: int, count: int) -> bool:
        end = size
        for _ in range(count - 1):
            end += (size - overlap) // GRID * GRID
        return end >= axis.padded

    count = next(count for count in range(2, 10**4) if reaches(tile, count))
    assert len(axis.origins) == count
    assert axis.tile == next(
        size for size in range(GRID, tile + GRID, GRID) if reaches(size, count)
    )


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([(0, 0), (16, 0), (32, 0), (32, 7), (32, 16), (48, 24), (64, 32)]),
    st.sampled_from([2, 3, 4]),
    st.integers(1, 2),
)
@settings(deadline=None, max_examples=150)
def test_nearest_pixels_survive_any_plan_bit_for_bit(
    height: int, width: int, cut: tuple[int, int], scale: int, count: int
) -> None:
    seed = torch.Generator().manual_seed(height * 1000 + width)
    frames = torch.randn((count, 3, height, width), generator=seed)
    plan = TilePlan.make(height, width, tile=cut[0], overlap=cut[1])
    tiles = plan.extract(frames)
    assert tiles.shape == (count * plan.count, 3, plan.tile_height, plan.tile_width)
    assert torch.equal(plan.assemble(nearest(tiles, scale), scale=scale), nearest(frames, scale))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (2, 3), (9, 17), (33, 31)])
def test_padding_is_reflection(height: int, width: int) -> None:
    """numpy's reflection goes back and forth over short axes, as ours must."""
    frames = torch.rand((1, 2, height, width))
    plan = TilePlan.make(height, width, tile=0, overlap=0)
    pads = ((0, plan.rows.padded - height), (0, plan.columns.padded - width))
    expected = np.pad(frames.numpy(), ((0, 0), (0, 0), *pads), mode="reflect")
    assert np.array_equal(plan.extract(frames).numpy(), expected)


def test_padding_equals_that_of_the_published_network() -> None:
    frames = torch.rand((2, 3, 50, 90))
    expected = torch.nn.functional.pad(frames, (0, 6, 0, 14), "reflect")
    plan = TilePlan.make(50, 90, tile=0, overlap=8)
    assert torch.equal(plan.extract(frames), expected)


@given(st.integers(1, 120), st.integers(1, 120), st.sampled_from([(32, 8), (48, 16), (64, 0)]))
@settings(deadline=None)
def test_tiles_hold_the_frame_and_its_reflection_only(
    height: int, width: int, cut: tuple[int, int]
) -> None:
    """Each pixel carries its own coordinates; no other value may turn up."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    plan = TilePlan.make(height, width, tile=cut[0], overlap=cut[1])
    tiles = plan.extract(torch.stack([y, x])[None])
    number = 0
    for top in plan.rows.origins:
        for left in plan.columns.origins:
            tile = tiles[number].numpy()
            rows = np.pad(np.arange(height), (0, plan.rows.padded - height), mode="reflect")
            cols = np.pad(np.arange(width), (0, plan.columns.padded - width), mode="reflect")
            assert (tile[0] == rows[top : top + plan.tile_height, None]).all()
            assert (tile[1] == cols[None, left : left + plan.tile_width]).all()
            number += 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_overlap_counts_input_pixels(scale: int) -> None:
    """An overlap taken in output pixels would blend over 8, not 8 * scale."""
    plan = TilePlan.make(16, 112, tile=64, overlap=8)
    left, right = plan.extract(torch.zeros(1, 1, 16, 112))
    tiles = torch.stack([nearest(left, scale), nearest(right + 1, scale)])
    row = plan.assemble(tiles, scale=scale)[0, 0, 0]

    seam = plan.columns.seams[0] * scale
    half = 4 * scale
    assert seam == 56 * scale
    assert (row[: seam - half] == 0).all()
    assert (row[seam + half :] == 1).all()
    ramp = row[seam - half : seam + half]
    assert ((ramp > 0) & (ramp < 1)).all()
    torch.testing.assert_close(ramp.diff(), torch.full((8 * scale - 1,), 1 / (8 * scale)))
    torch.testing.assert_close(ramp + ramp.flip(0), torch.ones_like(ramp))


def test_blending_is_separable_and_sums_to_one() -> None:
    """Against weights made from scratch: a hat for each tile, summed over the frame."""
    scale, height, width, overlap = 2, 70, 101, 8
    plan = TilePlan.make(height, width, tile=48, overlap=overlap)

    def hats(axis: Axis) -> np.ndarray:
        at = (np.arange(axis.length * scale) + 0.5) / scale
        rises = [np.clip((at - seam) / overlap + 0.5, 0, 1) for seam in axis.seams]
        rises = [np.ones_like(at), *rises, np.zeros_like(at)]
        return np.stack([a - b for a, b in pairwise(rises)])

    values = np.random.default_rng(1).random(plan.count)
    weights = np.einsum("iy,jx->ijyx", hats(plan.rows), hats(plan.columns))
    expected = np.einsum("t,tyx->yx", values, weights.reshape(plan.count, *weights.shape[2:]))

    side = (plan.tile_height * scale, plan.tile_width * scale)
    tiles = torch.tensor(values)[:, None, None, None].expand(-1, 1, *side)
    np.testing.assert_allclose(weights.sum((0, 1)), 1)
    np.testing.assert_allclose(plan.assemble(tiles, scale=scale)[0, 0], expected, atol=1e-12)


def test_height_and_width_are_not_mixed_up() -> None:
    plan = TilePlan.make(40, 200, tile=96, overlap=16)
    assert (plan.tile_height, plan.rows.origins) == (48, (0,))
    assert (plan.tile_width, plan.columns.origins) == (80, (0, 64, 128))
    assert plan.count == 3


def test_no_rest_is_left_at_the_edge() -> None:
    """Floor division of 100 by 48 would leave a rest of 4 pixels black."""
    plan = TilePlan.make(100, 100, tile=48, overlap=0)
    frames = plan.assemble(torch.ones(plan.count, 3, 192, 192), scale=4)
    assert (frames == 1).all()


def test_a_canvas_needs_no_tile_after_it_was_added() -> None:
    frames = torch.rand((2, 3, 50, 70))
    plan = TilePlan.make(50, 70, tile=32, overlap=8)
    canvas = Canvas(plan, 2, scale=2)
    buffer = torch.empty((1, 3, plan.tile_height * 2, plan.tile_width * 2))
    for tile in plan.extract(frames):
        assert canvas.missing
        buffer.copy_(nearest(tile, 2)[None])
        canvas.extend(buffer)
        buffer.fill_(float("nan"))
    assert canvas.missing == 0
    assert torch.equal(canvas.frames, nearest(frames, 2))
    with pytest.raises(ValueError, match="added already"):
        canvas.extend(buffer)


def test_wrong_shapes_are_refused() -> None:
    plan = TilePlan.make(50, 70, tile=32, overlap=8)
    with pytest.raises(ValueError, match="this plan cuts"):
        plan.extract(torch.zeros(1, 3, 70, 50))
    with pytest.raises(ValueError, match="no whole frames"):
        plan.assemble(torch.zeros(plan.count + 1, 3, 64, 64), scale=2)
    with pytest.raises(ValueError, match="expected"):
        plan.assemble(torch.zeros(plan.count, 3, 64, 65), scale=2)


@pytest.mark.parametrize(
    ("tile", "overlap", "text"),
    [
        (40, 0, "multiple of 16"),
        (-16, 0, "multiple of 16"),
        (32, -1, "0 or more"),
        (16, 8, "room to advance"),
        (32, 20, "room to advance"),
    ],
)
def test_plans_that_cannot_be(tile: int, overlap: int, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        TilePlan.make(300, 300, tile=tile, overlap=overlap)


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(OptionError, match="0x5"):
        TilePlan.make(5, 0, tile=0, overlap=0)
