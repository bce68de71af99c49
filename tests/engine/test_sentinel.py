from __future__ import annotations

import math

import pytest
import torch

from hatvid.engine.sentinel import suspects


@pytest.mark.parametrize(
    ("value", "suspect"),
    [
        (math.nan, True),
        (math.inf, True),
        (-math.inf, True),
        (2.01, True),
        (-1.01, True),
        (1.99, False),
        (-0.99, False),
    ],
)
def test_one_sample_condemns_its_tile_and_no_other(value: float, suspect: bool) -> None:
    tiles = torch.rand((3, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    larger = tiles.repeat_interleave(2, -1).repeat_interleave(2, -2)
    larger[1, 2, 15, 0] = value
    assert suspects(tiles, larger).tolist() == [False, suspect, False]


def test_a_tile_that_leaves_the_range_itself_may_come_out_so() -> None:
    tiles = torch.full((1, 3, 8, 8), 0.5)
    tiles[0, 0, 0, 0], tiles[0, 0, 0, 1] = -1.5, 2.5
    assert suspects(tiles, tiles).tolist() == [False]
    assert suspects(tiles, tiles * 2).tolist() == [True]
