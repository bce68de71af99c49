"""Tiles and what became of them, found by content, kept within a bound of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "FRAMES_MOST",
    "Identity",
    "Stored",
    "TileCache",
    "default_budget",
    "same_bits",
]

BUDGET_SHARE = 1 / 8
"""Of the free memory, for what is kept if nothing else is asked for."""

BUDGET_LIMIT = 2**30
"""Bytes that this share is at most: 1,300 tiles of 64x64 and their results at scale 4; more
only for :data:`FRAMES_LEAST`."""

FRAMES_LEAST = 2
"""Frames that the limit does not count for: with less than one, each tile is forgotten before
it can come again."""

FRAMES_MOST = 16
"""Frames that are kept at most: what comes again later than the drawings of a cycle seldom
comes at all, and memory that is asked for is cleared by the system first."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a tile's result depends on beside the tile.

    What the source's colours mean is no part of it: tiles are RGB, so it is in their bytes.
    """

    model: str
    """The fingerprint of the weights and the configuration, or a name that is this
    network's alone."""

    engine: str
    precision: str
    layout: str
    kernel: str
    versions: tuple[str, ...]
    """Of what computes."""

    scale: int
    shape: tuple[int, int, int, int]
    """Of the full batch: bits may depend on it."""

    slots: int
    """Places in the batch at which a tile may get bits of its own: all, or one."""

    chunked: bool
    compiled: bool
    threads: int
    streams: int


@dataclass(frozen=True)
class Stored:
    """A tile that was computed, and its result; neither shares memory with anything."""

    tile: Tensor
    larger: Tensor

    @property
    def bytes(self) -> int:
        """That both take."""
        return self.tile.nbytes + self.larger.nbytes


type _Key = tuple[Identity, Hashable]


class TileCache:
    """Tiles and their results, those used last, within a bound of memory.

    Safe to use from several threads.

    Args:
        budget: bytes that tiles and results may take together.

    Attributes:
        bytes: taken now.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self._frame = 0
        self._stored: OrderedDict[_Key, Stored] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._stored)

    def serve(self, frame: int, free: Callable[[], int]) -> None:
        """Have the default budget, or more, for frames of a size.

        Args:
            frame: bytes of one frame's tiles and their results.
            free: bytes of memory, asked for where frames are larger than all before.
        """
        if frame > self._frame:
            self._frame = frame
            self.budget = max(self.budget, default_budget(free(), frame))

    def find(self, identity: Identity, digest: Hashable, tile: Tensor) -> Stored | None:
        """The one of the same bytes; it counts as used."""
        key = identity, digest
        with self._lock:
            found = self._stored.get(key)
            if found is not None:
                self._stored.move_to_end(key)
        return found if found is not None and same_bits(found.tile, tile) else None

    def add(self, identity: Identity, digest: Hashable, tile: Tensor, larger: Tensor) -> None:
        """Keep copies of a tile and its result, and forget those not used for longest.

        What alone is larger than the budget is not kept; where a GPU has no memory left for
        copies, nothing is.
        """
        key = identity, digest
        needed = tile.nbytes + larger.nbytes
        if needed > self.budget:
            return
        try:
            stored = Stored(tile.clone(), larger.clone())
        except torch.OutOfMemoryError:
            self.clear()
            return
        with self._lock:
            before = self._stored.pop(key, None)
            if before is not None:  # of another tile with this checksum
                self.bytes -= before.bytes
            while self.bytes + needed > self.budget:
                self.bytes -= self._stored.popitem(last=False)[1].bytes
            self._stored[key] = stored
            self.bytes += needed

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._stored.clear()
            self.bytes = 0


def default_budget(free: int, frame: int | None = None) -> int:
    """Bytes for a cache.

    Args:
        free: bytes of memory.
        frame: bytes of one frame's tiles and their results, if that is known.
    """
    limit = BUDGET_LIMIT
    if frame is not None:
        limit = max(FRAMES_LEAST * frame, min(FRAMES_MOST * frame, limit))
    return int(min(free * BUDGET_SHARE, limit))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two float32 tensors have the same bytes: NaN is equal to itself, and -0.0 is
    not 0.0."""
    return torch.equal(one.view(torch.int32), other.view(torch.int32))
