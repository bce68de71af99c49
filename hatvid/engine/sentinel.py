"""Did a tile come out of the network as a picture?

In 16 bits a value inside the network can run out of range, and what comes out is no
number (a black tile, once encoded) or far outside of what pictures are made of. Each
tile gets one flag, computed where the tile is.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["suspects"]

MARGIN = 1.0
"""How far a sample may leave the range of the tile's own input and of [0, 1]: a whole
black-to-white step. Networks overshoot edges by a few hundredths."""


def suspects(tiles: Tensor, larger: Tensor) -> Tensor:
    """Flag the tiles that cannot be right.

    Args:
        tiles: (N, C, H, W), what went into the network.
        larger: (N, C, sH, sW), what came out of it.

    Returns:
        (N,) bool on the tiles' device: a sample is no number, infinite, or out of range.
    """
    low, high = _range(tiles)
    least, most = _range(larger)
    # They pass NaN on, and no comparison holds for it.
    inside = (least >= low.clamp(max=0) - MARGIN) & (most <= high.clamp(min=1) + MARGIN)
    return torch.logical_not(inside)


def _range(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest sample of each tile."""
    flat = tiles.flatten(1)
    if flat.is_cuda:
        low, high = flat.aminmax(dim=1)
        return low, high
    # There aminmax is not vectorised along a dimension, and takes 16 times as long.
    return flat.amin(1), flat.amax(1)
