"""Tiles that were computed before are not computed again.

Two tiles share a result only where every bit of what goes in is the same, and everything
that the result depends on besides (:class:`~hatvid.tile_cache.Identity`). A checksum only
finds candidates; the bytes decide.

Bits may also depend on a tile's slot in its batch: where vectors of the CPU do not fit the
channels, for one, a sigmoid is computed one by one at the end of the batch. Where that may
be, a tile keeps the slot that it has where nothing is reused, and takes only results of the
same slot.

What ran out of range and was computed again in fp32 is not kept: it is mended, and told,
wherever it comes.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hatvid.tile_cache import Identity, TileCache, same_bits

__all__ = [
    "Result",
    "Reused",
    "TileReuse",
    "checksum",
]


@dataclass(frozen=True, kw_only=True)
class Reused:
    """How many of some tiles did not have to be computed."""

    tiles: int = 0
    hits: int = 0
    """Those of the same bytes as one before."""

    @property
    def share(self) -> float:
        """Of the tiles, those that took a result, from 0 to 1."""
        return self.hits / self.tiles if self.tiles else 0.0

    def __add__(self, other: Reused) -> Reused:
        return Reused(tiles=self.tiles + other.tiles, hits=self.hits + other.hits)


@dataclass(frozen=True)
class Result:
    """What became of one tile."""

    larger: Tensor
    """(C, sH, sW), valid until the next is asked for."""

    mended: bool = False
    """It ran out of the precision's range, and was computed again in fp32."""

    taken: bool = False
    """From another tile of the same bytes."""


Run = Callable[[Tensor], tuple[Tensor, list[int]]]
"""A full batch (N, C, H, W) -> (N, C, sH, sW), valid until the next call, and the slots of
what was computed again in fp32."""


@dataclass(eq=False)
class _Miss:
    """A tile that waits for its batch."""

    tile: Tensor
    digest: Hashable
    result: Result | None = None


class TileReuse:
    """Goes through tiles in order, and computes those that were not computed before.

    Those that must be computed are packed into batches, however many others lie between
    them; where bits hang on the slot tile number n is computed in slot n modulo the batch.

    Args:
        cache: keeps results.
        digest: tells most tiles apart; only for speed.
    """

    def __init__(
        self, cache: TileCache, *, digest: Callable[[Tensor], Hashable] | None = None
    ) -> None:
        self.cache = cache
        self._digest = digest or checksum

    def results(
        self,
        tiles: Tensor,
        identity: Identity,
        run: Run,
        *,
        allowed: Callable[[], bool],
    ) -> Iterator[Result]:
        """One for each tile, in order; take each before asking for the next.

        Args:
            tiles: (n, C, H, W), any number.
            identity: of what ``run`` does.
            run: computes a batch.
            allowed: asked each time a result could be taken; where the answer is no, the
                tile is computed.
        """
        waiting: deque[_Miss | Result] = deque()
        misses: dict[int, _Miss] = {}
        batch = identity.shape[0]
        for number, tile in enumerate(tiles):
            digest = number % identity.slots, self._digest(tile)
            found = self._found(identity, tile, digest, misses.values())
            if found is None or not allowed():
                found = _Miss(tile, digest)
                slot = len(misses) if identity.slots == 1 else number % batch
                if slot in misses:
                    self._compute(misses, identity, run)
                    yield from _drained(waiting)
                    misses = {}
                misses[slot] = found
            waiting.append(found)
            if len(misses) == batch:
                self._compute(misses, identity, run)
                misses = {}
            if not misses:
                yield from _drained(waiting)
        if misses:
            self._compute(misses, identity, run)
        yield from _drained(waiting)

    def _found(
        self,
        identity: Identity,
        tile: Tensor,
        digest: Hashable,
        misses: Iterable[_Miss],
    ) -> _Miss | Result | None:
        """A result, or a tile that waits and is the same."""
        for miss in misses:
            if miss.digest == digest and same_bits(miss.tile, tile):
                return miss
        stored = self.cache.find(identity, digest, tile)
        return None if stored is None else Result(stored.larger, taken=True)

    def _compute(self, misses: Mapping[int, _Miss], identity: Identity, run: Run) -> None:
        # A slot that nobody waits for is filled with one of the others.
        filler = misses[max(misses)].tile
        slots = range(identity.shape[0])
        tiles = [misses[slot].tile if slot in misses else filler for slot in slots]
        larger, again = run(torch.stack(tiles) if len(tiles) > 1 else filler[None])
        for slot, miss in misses.items():
            miss.result = Result(larger[slot], mended=slot in again)
            if not miss.result.mended:
                self.cache.add(identity, miss.digest, miss.tile, larger[slot])


def _drained(waiting: deque[_Miss | Result]) -> Iterator[Result]:
    """What has a result by now. The first who waited for a tile had it computed, the
    others took it."""
    seen: set[int] = set()
    while waiting:
        first = waiting.popleft()
        if isinstance(first, Result):
            yield first
            continue
        assert first.result is not None
        again = id(first) in seen
        seen.add(id(first))
        yield Result(first.result.larger, mended=first.result.mended, taken=again)


def checksum(tile: Tensor) -> int:
    """CRC-32 of a tile's bytes."""
    return zlib.crc32(memoryview(tile.contiguous().cpu().numpy()).cast("B"))
