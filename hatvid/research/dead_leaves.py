"""Pictures made by chance that have edges and sizes as photographs have them.

Discs of all sizes fall on each other like leaves; radii follow r^-3, so that the picture
looks the same at every scale (Lee, Mumford & Huang, "Occlusion Models for Natural Images",
2001). Networks for restoration can be trained on such pictures (Achddou, Gousseau & Ladjal,
"Synthetic Images as a Regularity Prior for Image Restoration Neural Networks", 2021).
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hatvid.research.matlab_resize import Pixels, imresize

__all__ = ["dead_leaves"]

_FINER = 2
"""Pictures are drawn so many times larger, and reduced: edges are not jagged."""

_LEAST, _MOST = 4.0, 300.0
"""Radii, in pixels of what is drawn."""


def dead_leaves(height: int, width: int, random: Generator) -> Pixels:
    """Make a picture.

    Args:
        height: in pixels.
        width: in pixels.
        random: decides all.

    Returns:
        (height, width, 3) RGB.
    """
    tall, wide = height * _FINER, width * _FINER
    canvas = np.zeros((tall, wide, 3), np.uint8)
    free = np.ones((tall, wide), bool)
    for count in range(4 * (tall * wide) // int(_LEAST**2)):  # the front ones first
        # r^-3 between the two ends, by inversion.
        lowest, highest = _LEAST**-2, _MOST**-2
        radius = (lowest + random.random() * (highest - lowest)) ** -0.5
        y, x = random.uniform(0, tall), random.uniform(0, wide)
        rows = slice(max(int(y - radius), 0), min(int(y + radius) + 2, tall))
        columns = slice(max(int(x - radius), 0), min(int(x + radius) + 2, wide))
        down = np.arange(rows.start, rows.stop)[:, None] - y
        across = np.arange(columns.start, columns.stop)[None] - x
        seen = (down**2 + across**2 <= radius**2) & free[rows, columns]
        if seen.any():
            canvas[rows, columns][seen] = _leaf(down, across, radius, random)[seen]
            free[rows, columns] &= ~seen
        if count % 256 == 0 and not free.any():
            break
    canvas[free] = random.integers(0, 256, 3)
    return imresize(canvas, height, width, kernel="lanczos")


def _leaf(
    down: NDArray[np.floating], across: NDArray[np.floating], radius: float, random: Generator
) -> Pixels:
    """The face of a leaf: a colour, shaded or striped."""
    colour = random.uniform(20, 235, 3)
    angle = random.uniform(0, 2 * np.pi)
    along = np.cos(angle) * down + np.sin(angle) * across
    if random.random() < 0.3:
        wave = np.sin(2 * np.pi * along / random.uniform(4, 24))
    else:
        wave = along / radius
    values = colour + random.uniform(-50, 50, 3) * wave[..., None]
    return np.asarray(values.clip(0, 255) + 0.5).astype(np.uint8)
