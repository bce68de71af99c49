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
    first = offset * (factor - 1)
    low, rows = _taps(tuple((phase - first) / factor for phase in range(factor)), 1)
    axis = -2 if vertical else -1
    sums = _filtered(chroma, low, rows, 1, axis)
    larger = torch.stack(sums, axis if vertical else chroma.ndim).flatten(axis - 1, axis)
    return larger.narrow(axis, 0, length)


def reduce(chroma: Tensor, factor: int, offset: float, *, vertical: bool) -> Tensor:
    """Make planes smaller along one axis, the inverse of :func:`enlarge`."""
    if factor == 1:
        return chroma
    low, rows = _taps((offset * (factor - 1),), factor)
    (smaller,) = _filtered(chroma, low, rows, factor, -2 if vertical else -1)
    return smaller


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


def _mirrored(planes: Tensor, before: int, after: int, axis: int) -> Tensor:
    """Pad an axis by mirroring about its edges, edge sample included."""
    length = planes.shape[axis]
    if before <= length and after <= length:
        head, tail = planes.narrow(axis, 0, before), planes.narrow(axis, length - after, after)
        return torch.cat([head.flip(axis), planes, tail.flip(axis)], axis)
    first, last = -before // length, (length + after - 1) // length
    # Every second copy is turned round. No table of positions: on a GPU it would have to be
    # built, or copied there, for each frame.
    turned = planes.flip(axis)
    copies = torch.cat([turned if k % 2 else planes for k in range(first, last + 1)], axis)
    return copies.narrow(axis, -before - first * length, before + length + after)


def _filtered(
    planes: Tensor, low: int, rows: Sequence[Sequence[float]], step: int, axis: int
) -> list[Tensor]:
    """Weighted sums of taps low.. of an axis, of every step-th place: one tensor a row."""
    taps = len(rows[0])
    length = planes.shape[axis]
    count = -(-length // step)
    after = max(0, (count - 1) * step + low + taps - length)
    padded = _mirrored(planes, max(0, -low), after, axis)
    skipped = max(0, low)
    # Every step-th sample is brought together once, so that each tap reads what lies side by
    # side; along columns it does already.
    lanes = []
    for lane in range(step):
        every = slice(skipped + lane, None, step)
        lanes.append(padded[..., every].contiguous() if axis == -1 else padded[..., every, :])
    sums = []
    for weights in rows:
        out = None
        for tap, weight in enumerate(weights):
            if weight == 0:
                continue
            part = lanes[tap % step].narrow(axis, tap // step, count)
            out = part * weight if out is None else out.add_(part, alpha=weight)
        assert out is not None
        sums.append(out)
    return sums
