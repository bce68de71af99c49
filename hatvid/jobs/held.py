"""Frames that show what the frame before shows, bit for bit.

Their planes are compared before anything is done with them, so that a picture that is held
costs one comparison: no colours, no tiles, no network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["HeldFrames"]


class HeldFrames:
    """Finds frames that repeat the one before.

    Args:
        allowed: whether a frame may take what became of another; asked once, when one
            first could.
    """

    def __init__(self, allowed: Callable[[], bool]) -> None:
        self._ask = allowed
        self._allowed: bool | None = None
        self._before: tuple[Tensor, ...] | None = None

    def among(self, planes: tuple[Tensor, ...]) -> list[bool]:
        """Which frames of a batch repeat the one before; before the first lies the last of
        the batch that was asked about before.

        Args:
            planes: (N, h, w) each, as decoded.
        """
        held = []
        for number in range(len(planes[0])):
            frame = tuple(plane[number] for plane in planes)
            before, self._before = self._before, frame
            held.append(before is not None and _same(before, frame) and self._may())
        return held

    def _may(self) -> bool:
        if self._allowed is None:
            self._allowed = self._ask()
        return self._allowed


def _same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))
