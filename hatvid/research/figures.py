"""LAM and feature maps as pictures to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hatvid.research.features import FeatureMap
from hatvid.research.lam import Lam
from hatvid.research.sheet import Panel, enlarged, marked, sheet

__all__ = ["feature_figure", "lam_figure", "pixels_of"]

_SIDE = 384
"""About how many pixels of a figure a picture is wide or high."""

_CROP_SIDE = 96


def lam_figure(
    picture: Tensor, found: Sequence[tuple[str, int, Lam]], *, steps: int
) -> Image.Image:
    """The picture with the window marked; and for each network what it makes of the window,
    its map, and the map over the picture.

    Args:
        picture: (1, 3, H, W) in [0, 1].
        found: (name, scale, map) of each network.
        steps: of the path, for the words.
    """
    times = max(1, round(_SIDE / max(picture.shape[2:])))
    pixels = pixels_of(picture[0])
    rows = []
    for number, (name, scale, lam) in enumerate(found):
        top, left, side = (value / scale * times for value in lam.window)
        whole = np.asarray(enlarged(pixels, times))
        box = round(top), round(left), max(2, round(side)), max(2, round(side))
        strength = np.asarray(
            Image.fromarray(_strength(lam.map)).resize(whole.shape[1::-1], Image.Resampling.NEAREST)
        )
        paper = np.full_like(whole, 255)
        rows.append(
            [
                Panel(
                    image=marked(whole, box, max(whole.shape)),
                    words=("the picture; marked, what is explained", "") if not number else (),
                ),
                Panel(image=_window(lam), words=(name, f"x{scale}")),
                Panel(
                    image=Image.fromarray(_red(paper, strength)),
                    words=(f"DI {lam.diffusion_index:.2f}", f"{steps} steps"),
                ),
                Panel(
                    image=Image.fromarray(_red(whole // 2 + 64, strength)),
                    words=("the map over the picture", ""),
                ),
            ]
        )
    return sheet(rows)


def feature_figure(
    maps: Sequence[FeatureMap], window: int | None, *, columns: int = 4
) -> Image.Image:
    """Feature maps in a grid, each with its layer's name and its step across windows."""
    panels = []
    for one in maps:
        image = one.image()
        times = max(1, _SIDE // max(image.size))
        words = "" if window is None else f"step at windows x{one.step(window):.2f}"
        panels.append(Panel(image=enlarged(np.asarray(image), times), words=(one.layer, words)))
    return sheet([panels[at : at + columns] for at in range(0, len(panels), columns)])


def pixels_of(rgb: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in [0, 1] -> (H, W, 3) of 8 bits."""
    codes = (rgb.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return codes.permute(1, 2, 0).contiguous().numpy()


def _window(lam: Lam) -> Image.Image:
    """What the network makes of the window and as much around it."""
    top, left, side = lam.window
    height, width = lam.larger.shape[1:]
    high, wide = (min(2 * side, size) for size in (height, width))
    top = min(max(top - side // 2, 0), height - high)
    left = min(max(left - side // 2, 0), width - wide)
    part = pixels_of(lam.larger[:, top : top + high, left : left + wide])
    times = max(1, _CROP_SIDE // max(part.shape[:2]))
    inner = (lam.window[0] - top, lam.window[1] - left, side, side)
    image = np.asarray(enlarged(part, times))
    box = tuple(value * times for value in inner)
    return marked(image, (box[0], box[1], box[2], box[3]), max(image.shape))


def _strength(attribution: Tensor) -> NDArray[np.uint8]:
    """Attribution falls off fast: its root lets the far pixels be seen."""
    codes: NDArray[np.uint8] = (attribution.sqrt() * 255).round().to(torch.uint8).numpy()
    return codes


def _red(pixels: NDArray[np.uint8], strength: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Red laid over a picture, as dense as ``strength``, of which 255 hides the picture."""
    part = strength[..., None] / 255
    return (pixels * (1 - part) + np.array([220.0, 0.0, 0.0]) * part).round().astype(np.uint8)
