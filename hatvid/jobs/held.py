"""Frames that show what those before show, bit for bit.

Their planes are compared before anything is done with them, so that a picture that is held
costs one comparison: no colours, no tiles, no network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["HeldFrames"]


class HeldFrames:
    """Finds batches that repeat the one before, frame by frame.

    What becomes of a frame may hang on its place in the batch, by the last bit; so a frame
    is compared with the one at the same place.

    Args:
        allowed: whether frames may take what became of others; asked once, when some
            first could.
    """

    def __init__(self, allowed: Callable[[], bool]) -> None:
        self._ask = allowed
        self._allowed: bool | None = None
        self._before: tuple[Tensor, ...] = ()

    def repeats(self, planes: tuple[Tensor, ...]) -> bool:
        """Whether a batch repeats the one that was asked about before.

        Args:
            planes: (N, h, w) each, as decoded.
        """
        before, self._before = self._before, planes
        if not before or not all(map(_same, before, planes)):
            return False
        if self._allowed is None:
            self._allowed = self._ask()
        return self._allowed


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
