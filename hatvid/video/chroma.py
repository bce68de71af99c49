"""Chroma planes to the size of luma, and back.

Separable bicubic (Catmull-Rom), antialiased on the way down. Chroma sample j lies at luma
position ``factor * j + offset * (factor - 1)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["enlarge", "reduce"]


def enlarge(chroma: Tensor, factor: int, offset: float, length: int, *, vertical: bool) -> Tensor:
    """Make planes larger along one axis.

    Args:
        chroma: (N, C, h, w).
        factor: luma samples that one covers along the axis.
        offset: where it lies between the first (0) and the last (1) of them.
        length: of luma along the axis.
        vertical: rows, not columns, are made more.
    """
    if factor == 1:
        return chroma
    if vertical:
        return enlarge(chroma.mT, factor, offset, length, vertical=False).transpose(-1, -2)
    first = offset * (factor - 1)
    low, rows = _taps(tuple((phase - first) / factor for phase in range(factor)), 1)
    return _filtered(chroma, low, rows, 1).flatten(-2)[..., :length]


def reduce(chroma: Tensor, factor: int, offset: float, *, vertical: bool) -> Tensor:
    """Make planes smaller along one axis, the inverse of :func:`enlarge`."""
    if factor == 1:
        return chroma
    if vertical:
        return reduce(chroma.mT, factor, offset, vertical=False).mT
    low, rows = _taps((offset * (factor - 1),), factor)
    return _filtered(chroma, low, rows, factor).flatten(-2)


def _catmull_rom(x: float) -> float:
    """Cubic convolution with a = -1/2 (Keys 1981), support 2."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2:
        return ((-0.5 * x + 2.5) * x - 4) * x + 2
    return 0.0


@lru_cache(maxsize=64)
def _taps(centers: tuple[float, ...], widen: int) -> tuple[int, tuple[tuple[float, ...], ...]]:
    """First tap, and for each centre the normalised weights of consecutive samples."""
    low = math.floor(min(centers) - 2 * widen)
    high = math.ceil(max(centers) + 2 * widen)
    rows = []
    for center in centers:
        row = [_catmull_rom((tap - center) / widen) for tap in range(low, high + 1)]
        rows.append(tuple(weight / sum(row) for weight in row))
    return low, tuple(rows)


def _mirrored(planes: Tensor, before: int, after: int) -> Tensor:
    """Pad the last axis by mirroring about its edges, edge sample included."""
    length = planes.shape[-1]
    first, last = -before // length, (length + after - 1) // length
    # Every second copy is turned round. No table of positions: on a GPU it would have to be
    # built, or copied there, for each frame.
    turned = planes.flip(-1)
    copies = torch.cat([turned if k % 2 else planes for k in range(first, last + 1)], -1)
    start = -before - first * length
    return copies[..., start : start + before + length + after]


def _filtered(planes: Tensor, low: int, rows: Sequence[Sequence[float]], step: int) -> Tensor:
    """Weighted sums of taps low.. of the last axis: (..., len) -> (..., len/step, rows)."""
    taps = len(rows[0])
    length = planes.shape[-1]
    count = -(-length // step)
    after = max(0, (count - 1) * step + low + taps - length)
    padded = _mirrored(planes, max(0, -low), after)
    padded = padded[..., max(0, low) :]
    sums = []
    for weights in rows:
        out = None
        for tap, weight in enumerate(weights):
            part = padded[..., tap : tap + (count - 1) * step + 1 : step] * weight
            out = part if out is None else out + part
        assert out is not None
        sums.append(out)
    return torch.stack(sums, -1)
