"""Frames that show what the one before shows, bit for bit.

Their planes are compared before anything is done with them, so that a picture that is held
costs one comparison: no colours, no tiles, no network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from hatvid.jobs.way import Finished, Item, Larger
from hatvid.reuse import Reused
from hatvid.video.batch import FrameBatch
from hatvid.video.pictures import AnyPacket

__all__ = ["HeldFrames", "Holding"]

_WAITING = 32
"""Items behind a frame that waits for others to fill its batch, at most."""


class HeldFrames:
    """Finds what repeats what came before.

    Args:
        allowed: whether frames may take what became of others; asked once, when some
            first could.
    """

    def __init__(self, allowed: Callable[[], bool]) -> None:
        self._ask = allowed
        self._allowed: bool | None = None
        self._before: tuple[Tensor, ...] = ()

    def among(self, planes: tuple[Tensor, ...]) -> list[bool]:
        """Which frames of a batch repeat the one before; before the first lies the last of
        the batch that was asked about before.

        Args:
            planes: (N, h, w) each, as decoded.
        """
        return [
            self.repeats(tuple(plane[number : number + 1] for plane in planes))
            for number in range(len(planes[0]))
        ]

    def repeats(self, planes: tuple[Tensor, ...]) -> bool:
        """Whether all of a batch repeats the one that was asked about before, each frame
        the one at its place."""
        before, self._before = self._before, planes
        if not before or not all(map(_same, before, planes)):
            return False
        if self._allowed is None:
            self._allowed = self._ask()
        return self._allowed


class Enlarges(Protocol):
    """Makes frames larger."""

    @property
    def tiles(self) -> int:
        """Of one frame."""
        ...

    def computed(self, batch: FrameBatch) -> Larger:
        """What becomes of a batch."""
        ...

    def told(self, batch: FrameBatch, larger: Larger) -> FrameBatch:
        """The larger frames, when those who want to know have been told of them."""
        ...


@dataclass(eq=False)
class _Frame:
    """One that is in line."""

    batch: FrameBatch
    held: bool
    larger: Larger | None = None


class Holding:
    """A :class:`~hatvid.jobs.way.Way` on which only frames that differ from the one before
    are computed, as many at once as fill a batch.

    That is for engines where no bit of a frame hangs on its place in a batch.

    Args:
        straight: computes the others.
        frames: that fill a batch.
        allowed: see :class:`HeldFrames`.
    """

    def __init__(self, straight: Enlarges, *, frames: int, allowed: Callable[[], bool]) -> None:
        self._straight = straight
        self._frames = frames
        self._held = HeldFrames(allowed)
        self._line: deque[_Frame | AnyPacket] = deque()
        self._before: Larger | None = None

    def put(self, item: Item) -> Iterator[Finished]:
        """See :class:`~hatvid.jobs.way.Way`."""
        if not isinstance(item, FrameBatch):
            self._line.append(item)
        else:
            held = self._held.among(item.planes)
            self._line += [_Frame(_one(item, number), again) for number, again in enumerate(held)]
        yield from self._finished(at_once=False)

    def flush(self) -> Iterator[Finished]:
        """See :class:`~hatvid.jobs.way.Way`."""
        yield from self._finished(at_once=True)

    def close(self) -> None:
        """See :class:`~hatvid.jobs.way.Way`; nothing runs between two batches."""

    def _finished(self, *, at_once: bool) -> Iterator[Finished]:
        """What waits for nothing, or need not wait longer."""
        while True:
            yield from self._ready()
            # The first in line is none that is held: those are ready.
            fresh = [entry for entry in self._line if isinstance(entry, _Frame) and not entry.held]
            waits = len(fresh) < self._frames and len(self._line) < _WAITING and not at_once
            if not fresh or waits:
                return
            self._compute(fresh[: self._frames])

    def _ready(self) -> Iterator[Finished]:
        while self._line:
            entry = self._line[0]
            if not isinstance(entry, _Frame):
                yield Finished(self._line.popleft())  # type: ignore[arg-type]
                continue
            if entry.held:
                assert self._before is not None
                tiles = self._straight.tiles
                entry.larger = replace(self._before, reused=Reused(tiles=tiles, hits=tiles))
            if entry.larger is None:
                return
            self._line.popleft()
            self._before = entry.larger
            yield Finished(self._straight.told(entry.batch, entry.larger))

    def _compute(self, fresh: Sequence[_Frame]) -> None:
        larger = self._straight.computed(_joined([frame.batch for frame in fresh]))
        for number, frame in enumerate(fresh):
            frame.larger = Larger(
                tuple(plane[number : number + 1] for plane in larger.planes),
                [replace(tile, frame=0) for tile in larger.mended if tile.frame == number],
                Reused() if number else larger.reused,
            )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _one(batch: FrameBatch, number: int) -> FrameBatch:
    here = slice(number, number + 1)
    return FrameBatch(
        planes=tuple(plane[here] for plane in batch.planes),
        times=batch.times[here],
        carriers=batch.carriers[here],
    )


def _joined(batches: Sequence[FrameBatch]) -> FrameBatch:
    """What is computed together; nothing is carried on from there."""
    if len(batches) == 1:
        return batches[0]
    return FrameBatch(
        planes=tuple(map(torch.cat, zip(*(batch.planes for batch in batches), strict=True))),
        times=tuple(time for batch in batches for time in batch.times),
    )
