"""PSNR and SSIM by the protocol of the super-resolution papers.

On luma alone, Y of BT.601 as MATLAB's ``rgb2ycbcr`` gives it (16 to 235) but not rounded,
of pictures rounded to 8 bits, with as many pixels left out along each border as the scale
is. The peak is 255. SSIM is that of Wang et al. (2004): Gaussian windows of 11x11 pixels
with a deviation of 1.5, only where they fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hatvid.research.matlab_resize import Pixels

__all__ = ["Luma", "PEAK", "Quality", "SSIM_WINDOW", "luma", "psnr", "quality", "ssim"]

type Luma = NDArray[np.float64]
"""(height, width), in steps of which there are 255 in the full range."""

PEAK = 255.0
"""Of what PSNR and SSIM are measured against."""

SSIM_WINDOW = 11
_DEVIATION = 1.5
_C1, _C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2

# ITU-R BT.601, in codes for components in [0, 1].
_WEIGHTS = np.array([65.481, 128.553, 24.966])


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of one picture, against what it should be."""

    psnr: float
    """dB; infinite where nothing differs."""

    ssim: float


def quality(pixels: Pixels, wanted: Pixels, *, border: int) -> Quality:
    """Measure a picture by the protocol.

    Args:
        pixels: (H, W, 3) RGB.
        wanted: likewise.
        border: pixels left out along each edge: the scale.

    Raises:
        ValueError: the sizes differ, or no window of SSIM fits.
    """
    if pixels.shape != wanted.shape:
        raise ValueError(f"{pixels.shape} and {wanted.shape} are not of one size")
    inside = slice(border, -border or None), slice(border, -border or None)
    y, ideal = luma(pixels)[inside], luma(wanted)[inside]
    return Quality(psnr=psnr(y, ideal), ssim=ssim(y, ideal))


def luma(rgb: Pixels) -> Luma:
    """(H, W, 3) RGB codes -> (H, W) Y of BT.601, 16 to 235, not rounded."""
    y: Luma = rgb @ _WEIGHTS / PEAK + 16
    return y


def psnr(y: Luma, wanted: Luma) -> float:
    """Peak signal-to-noise ratio in dB; infinite where nothing differs."""
    error = float(np.mean((y - wanted) ** 2))
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ssim(y: Luma, wanted: Luma) -> float:
    """Mean structural similarity; 1 where nothing differs.

    Raises:
        ValueError: the picture is smaller than a window.
    """
    if min(y.shape) < SSIM_WINDOW:
        raise ValueError(
            f"{y.shape[1]}x{y.shape[0]} pixels hold no window of {SSIM_WINDOW}x{SSIM_WINDOW}"
        )
    mean, ideal = _blurred(y), _blurred(wanted)
    variance = _blurred(y * y) - mean * mean
    other = _blurred(wanted * wanted) - ideal * ideal
    shared = _blurred(y * wanted) - mean * ideal
    likeness = (2 * mean * ideal + _C1) * (2 * shared + _C2)
    return float(
        np.mean(likeness / ((mean * mean + ideal * ideal + _C1) * (variance + other + _C2)))
    )


def _blurred(values: Luma) -> Luma:
    """Means in windows, only where the windows fit."""
    at = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = np.exp(-0.5 * (at / _DEVIATION) ** 2)
    window /= window.sum()
    rows = len(values) - SSIM_WINDOW + 1
    values = sum((w * values[k : k + rows] for k, w in enumerate(window)), np.zeros(()))
    columns = values.shape[1] - SSIM_WINDOW + 1
    return sum((w * values[:, k : k + columns] for k, w in enumerate(window)), np.zeros(()))
