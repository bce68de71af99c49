"""How frames and packets get from the decoder to the encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from hatvid.reuse import Reused
from hatvid.upscaler import MendedTile
from hatvid.video.batch import FrameBatch
from hatvid.video.pictures import AnyPacket

__all__ = ["Done", "Finished", "Item", "Larger", "Way"]

Item = FrameBatch | AnyPacket

Done = Callable[[FrameBatch, Reused], None]
"""Told of each batch that has been upscaled, and what of it was not computed."""


@dataclass(frozen=True)
class Finished:
    """A packet, or larger frames; in the order of what was put in."""

    item: Item
    release: Callable[[], None] | None = None
    """To be called when the item's planes are no longer read."""


@dataclass(frozen=True)
class Larger:
    """What became of some frames."""

    planes: tuple[Tensor, ...]
    """(N, h, w) each."""

    mended: Sequence[MendedTile]
    reused: Reused


class Way(Protocol):
    """What items go through."""

    def put(self, item: Item) -> Iterator[Finished]:
        """Take one item; what is finished by then, in order."""
        ...

    def flush(self) -> Iterator[Finished]:
        """What is still on its way."""
        ...

    def close(self) -> None:
        """Leave nothing running, whatever was not finished."""
        ...
