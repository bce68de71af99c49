"""Labelled pictures in rows, on one sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["MARK", "Panel", "enlarged", "marked", "png_of", "sheet"]

_GAP = 12
_TEXT = 16
_PAPER, _INK = (24, 24, 24), (235, 235, 235)
MARK = (255, 64, 64)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a sheet, and the words above it: a line for each."""

    image: Image.Image
    words: tuple[str, ...] = ()


def sheet(rows: Sequence[Sequence[Panel]]) -> Image.Image:
    """Panels in rows; those of a column stand below each other.

    Args:
        rows: of at least one panel each; they may be of different lengths.
    """
    columns = [
        max(row[at].image.width for row in rows if at < len(row))
        for at in range(max(map(len, rows)))
    ]
    heads = [(_TEXT + 4) * max(len(panel.words) for panel in row) for row in rows]
    heights = [
        head + max(panel.image.height for panel in row) + _GAP
        for head, row in zip(heads, rows, strict=True)
    ]
    width = sum(columns) + _GAP * (len(columns) + 1)
    drawn = Image.new("RGB", (width, sum(heights) + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(_TEXT)
    top = _GAP
    for row, head, height in zip(rows, heads, heights, strict=True):
        left = _GAP
        for panel, column in zip(row, columns, strict=False):
            for number, words in enumerate(panel.words):
                words = _fitting(words, draw, font, column)
                draw.text((left, top + number * (_TEXT + 4) - 2), words, _INK, font)
            drawn.paste(panel.image, (left, top + head))
            left += column + _GAP
        top += height
    return drawn


def marked(pixels: NDArray[Any], box: tuple[int, int, int, int], limit: int) -> Image.Image:
    """A picture no larger than ``limit`` along a side, with a frame around a part of it.

    Args:
        pixels: (H, W, 3) of uint8.
        box: (top, left, height, width) of the part.
        limit: in pixels.
    """
    image = Image.fromarray(pixels)
    ratio = min(1.0, limit / max(image.size))
    image = image.resize([max(1, round(side * ratio)) for side in image.size])
    top, left, height, width = (value * ratio for value in box)
    corners = [round(value) for value in (left, top, left + width - 1, top + height - 1)]
    corners[2:] = max(corners[0], corners[2]), max(corners[1], corners[3])
    ImageDraw.Draw(image).rectangle(corners, outline=MARK)
    return image


def png_of(image: Image.Image) -> bytes:
    """The PNG file of an image."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _fitting(words: str, draw: ImageDraw.ImageDraw, font: Any, width: int) -> str:
    while len(words) > 1 and draw.textlength(words, font) > width:
        words = words[:-2] + "…"
    return words


def enlarged(pixels: NDArray[np.uint8], times: int) -> Image.Image:
    """(H, W, 3) with each pixel ``times`` as large along a side, so that pixels can be seen."""
    return Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
