"""What is smooth stays smooth: no line, grid or frame in the sky, with any embedded network.

A network trained on patches whose every window lies at the patch's border has never seen
an inner window, and all that it upscales shows a line sixteen input pixels inside its
frame. So do tiles that are blended with weights whose sum is not one, and a frame that is
padded with black. No error against pictures of the world shows it: texture hides it, sky
does not.

Five smooth pictures are upscaled, whole and in tiles. Of the luma's difference from
Pillow's bicubic the means of all columns and of all rows are taken, each then averaged
over one input pixel; a line is what remains. The largest of these means less the smallest,
the frame's border included, bounds the spread between any two percentiles of them.

Not seen: what averages out along a line, such as single pixels in the corners, and what a
smooth picture has no part in, such as the mask of shifted windows.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import hatvid

Picture = NDArray[np.uint8]
Luma = NDArray[np.float64]

SCALES = (2, 3, 4)
CODES = 1.5
"""How far the mean of a column or a row may lie from that of another, in codes of 8 bits."""

WHOLE = (80, 128)
"""Height and width: windows inside that touch no border, on the grid of windows."""

TILED = (90, 118)
"""Two rows and three columns of tiles of 64, with padding at the right and at the bottom."""


def smooth_pictures(height: int, width: int) -> dict[str, Picture]:
    """Five pictures (height, width, 3) without an edge, a little warmer than grey."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    to_middle = np.hypot(x - width / 2, y - height / 2) / np.hypot(width / 2, height / 2)
    brightness = {
        "bright": np.full((height, width), 200.0),
        "dark": np.full((height, width), 60.0),
        "ramp across": 120 + 40 * x / width,
        "diagonal ramp": 60 + 60 * (x + y) / (height + width),
        "radial ramp": 230 - 20 * to_middle,
    }
    tint = np.array([1.0, 0.9, 1.08])
    return {
        name: (grey[..., None] * tint).clip(0, 255).round().astype(np.uint8)
        for name, grey in brightness.items()
    }


def luma(rgb: NDArray[np.float64] | Picture) -> Luma:
    """(H, W) Y of BT.601, 16..235, not rounded, of (H, W, 3) in codes of 8 bits."""
    result: Luma = rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16
    return result


def bicubic(picture: Picture, scale: int) -> Picture:
    height, width = picture.shape[:2]
    size = (width * scale, height * scale)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def spread(difference: Luma, scale: int) -> float:
    """The largest mean of a column less the smallest, or of a row if that is more, in the
    unit of ``difference`` (H, W); each averaged over ``scale`` neighbours."""
    found = []
    for axis in (0, 1):
        means = np.convolve(difference.mean(axis), np.full(scale, 1 / scale), "valid")
        found.append(means.max() - means.min())
    return float(max(found))


def spreads(upscaler: hatvid.Upscaler, size: tuple[int, int]) -> dict[str, float]:
    """By the name of each smooth picture, in codes of 8 bits."""
    pictures = smooth_pictures(*size)
    frames = torch.from_numpy(np.stack(list(pictures.values()))).permute(0, 3, 1, 2) / 255
    larger = (upscaler(frames).clamp(0, 1) * 255).permute(0, 2, 3, 1).double().numpy()
    found = {}
    for (name, picture), result in zip(pictures.items(), larger, strict=True):
        difference = luma(result) - luma(bicubic(picture, upscaler.scale))
        found[name] = round(spread(difference, upscaler.scale), 2)
    return found


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("tile", "size"), [(0, WHOLE), (64, TILED)], ids=["whole frame", "tiles of 64"]
)
def test_no_line_in_what_is_smooth(scale: int, tile: int, size: tuple[int, int]) -> None:
    with hatvid.Upscaler.from_checkpoint(
        "auto", scale=scale, engine="eager", precision="fp32", tile=tile
    ) as upscaler:
        found = spreads(upscaler, size)
    assert max(found.values()) <= CODES, str(found)


@pytest.mark.parametrize("axis", [0, 1], ids=["row", "column"])
@pytest.mark.parametrize("at", [0, 16])
@pytest.mark.parametrize("scale", SCALES)
def test_a_faint_line_is_seen(scale: int, at: int, axis: int) -> None:
    """Two codes, one input pixel wide, at the frame's border or sixteen pixels inside."""
    difference = np.zeros((WHOLE[0] * scale, WHOLE[1] * scale))
    np.moveaxis(difference, axis, 0)[at * scale : (at + 1) * scale] = 2
    assert spread(difference, scale) == pytest.approx(2)
