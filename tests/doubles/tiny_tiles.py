"""Tiles so small that thousands of them are nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from hatvid.tile_cache import Identity

BATCH = 3
IDENTITY = Identity(
    model="m",
    engine="eager",
    precision="fp32",
    layout="cpu",
    kernel="default",
    versions=("1", "2"),
    scale=2,
    shape=(BATCH, 1, 4, 4),
    slots=BATCH,
    chunked=False,
    compiled=False,
    threads=1,
    streams=1,
)
ENTRY = 16 * 4 * (1 + 4)
"""Bytes of a tile and its result."""


def tile_of(number: int) -> Tensor:
    return torch.rand((1, 4, 4), generator=torch.Generator().manual_seed(number))


def larger_of(tile: Tensor) -> Tensor:
    return (tile * 3 + tile.mean()).repeat_interleave(2, 1).repeat_interleave(2, 2)
