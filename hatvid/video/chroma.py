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

__all__ = ["Room", "Subsampling", "enlarge"]


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
    beyond = _beyond(low, len(rows[0]), 1, chroma.shape[axis])
    lanes = _lanes(_mirrored(chroma, *beyond, axis), low, 1, axis)
    sums = [_weighted(lanes, row, torch.empty_like(chroma), axis) for row in rows]
    larger = torch.stack(sums, axis if vertical else chroma.ndim).flatten(axis - 1, axis)
    return larger.narrow(axis, 0, length)


class Room:
    """Memory for planes, with what mirrors their edges beyond them along one axis: planes
    that are computed into it need not be copied to be filtered.

    Attributes:
        inside: the planes (N, C, h, w); fill them in.
    """

    def __init__(self, memory: Tensor, before: int, after: int, axis: int) -> None:
        self._memory, self._before, self._after, self._axis = memory, before, after, axis
        self.length = memory.shape[axis] - before - after
        self.inside = memory.narrow(axis, before, self.length)

    def mirrored(self) -> Tensor:
        """All of it, the edges from what is inside now."""
        before, after, axis = self._before, self._after, self._axis
        if max(before, after) > self.length:
            return _mirrored(self.inside, before, after, axis)
        head = self.inside.narrow(axis, 0, before)
        tail = self.inside.narrow(axis, self.length - after, after)
        self._memory.narrow(axis, 0, before).copy_(head.flip(axis))
        self._memory.narrow(axis, before + self.length, after).copy_(tail.flip(axis))
        return self._memory


class Subsampling:
    """Makes planes of luma's size as small as chroma, the inverse of :func:`enlarge`.

    Args:
        down: luma samples that one of chroma covers down, and where it lies between the
            first (0) and the last (1) of them.
        across: the same across.
    """

    def __init__(self, down: tuple[int, float], across: tuple[int, float]) -> None:
        # Rows first: their sums are the cheaper ones, and leave fewer of the others.
        axes = ((-2, *down), (-1, *across))
        self._steps = [_Reduction(*axis) for axis in axes if axis[1] > 1]

    def room(self, like: Tensor, shape: Sequence[int]) -> Room:
        """Memory for planes of a shape (N, C, H, W), of the kind of another tensor."""
        if not self._steps:
            return Room(like.new_empty(shape), 0, 0, -1)
        return self._steps[0].room(like, shape)

    def reduced(self, room: Room) -> Tensor:
        """What is inside made smaller: (N, C, h, w), rounded up."""
        for number, step in enumerate(self._steps, 1):
            shape = step.shape(room)
            if number == len(self._steps):
                return step.sums(room, room.inside.new_empty(shape))
            smaller = self._steps[number].room(room.inside, shape)
            step.sums(room, smaller.inside)
            room = smaller
        return room.inside


class _Reduction:
    """Along one axis."""

    def __init__(self, axis: int, factor: int, offset: float) -> None:
        self._axis, self._factor = axis, factor
        self._low, self._rows = _taps((offset * (factor - 1),), factor)

    def room(self, like: Tensor, shape: Sequence[int]) -> Room:
        """Memory for planes of a shape."""
        before, after = _beyond(self._low, len(self._rows[0]), self._factor, shape[self._axis])
        sizes = list(shape)
        sizes[self._axis] += before + after
        return Room(like.new_empty(sizes), before, after, self._axis)

    def shape(self, room: Room) -> list[int]:
        """Of what comes of it."""
        sizes = list(room.inside.shape)
        sizes[self._axis] = -(-room.length // self._factor)
        return sizes

    def sums(self, room: Room, out: Tensor) -> Tensor:
        """Written to ``out``."""
        lanes = _lanes(room.mirrored(), self._low, self._factor, self._axis)
        return _weighted(lanes, self._rows[0], out, self._axis)


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


def _beyond(low: int, taps: int, step: int, length: int) -> tuple[int, int]:
    """Samples before and behind an axis that taps low.. of every step-th place look at."""
    count = -(-length // step)
    return max(0, -low), max(0, (count - 1) * step + low + taps - length)


def _lanes(padded: Tensor, low: int, step: int, axis: int) -> list[Tensor]:
    """Every step-th sample, from the first that is looked at, from the second, ..."""
    lanes = []
    for lane in range(step):
        every = slice(max(0, low) + lane, None, step)
        # Brought together once, so that each tap reads what lies side by side; rows do already.
        lanes.append(padded[..., every].contiguous() if axis == -1 else padded[..., every, :])
    return lanes


def _weighted(lanes: Sequence[Tensor], weights: Sequence[float], out: Tensor, axis: int) -> Tensor:
    """Sums of as many taps as there are weights, of each place of ``out``."""
    empty = True
    for tap, weight in enumerate(weights):
        if weight == 0:
            continue
        part = lanes[tap % len(lanes)].narrow(axis, tap // len(lanes), out.shape[axis])
        if empty:
            torch.mul(part, weight, out=out)
        else:
            out.add_(part, alpha=weight)
        empty = False
    return out
