"""Planes in bands of rows: what is done to one after another stays in a CPU's cache."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["bands"]

SAMPLES = 2**15
"""Of one plane in a band: some of them fit the second cache of one core, and PyTorch does not
share so few among threads."""


def bands(planes: Tensor) -> Iterator[slice]:
    """Rows of planes from top to bottom; on other devices than a CPU all of them at once.

    Args:
        planes: (..., H, W).
    """
    height, width = planes.shape[-2:]
    rows = max(1, SAMPLES // max(1, width)) if planes.device.type == "cpu" else max(1, height)
    for top in range(0, height, rows):
        yield slice(top, min(height, top + rows))
