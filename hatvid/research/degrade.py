"""How small pictures are made from large ones, for a network to learn the way back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from hatvid.research.codec import through_jpeg, through_x264
from hatvid.research.degradations import X264, Blur, Degradation, Jpeg, Noise
from hatvid.research.matlab_resize import Pixels, imresize

__all__ = ["block", "blurred", "degrade", "noisy", "reach"]

_BICUBIC_REACH = 3
"""Small pixels: the widened kernel spans two to each side, and half a pixel's shift."""

_CODEC_REACH = 8

_PAN = 3
"""Pixels from frame to frame at most, in each direction."""


def degrade(
    pixels: Pixels, degradation: Sequence[Degradation], scale: int, random: Generator
) -> Pixels:
    """Run a chain of degradations; what lies between two of them is of 8 bits.

    Args:
        pixels: (H, W, 3), sides multiples of ``scale``.
        degradation: in order.
        scale: of the reduction among them.
        random: all that is left to chance is drawn from it.

    Returns:
        (H / scale, W / scale, 3) if there is a reduction.
    """
    for part in degradation:
        if part.kind == "bicubic":
            pixels = imresize(pixels, pixels.shape[0] // scale, pixels.shape[1] // scale)
            continue
        if random.random() >= part.chance:
            continue
        match part:
            case Blur():
                pixels = blurred(pixels, random.uniform(*part.sigma))
            case Noise():
                gray = random.random() < part.gray
                pixels = noisy(pixels, random.uniform(*part.sigma), random, gray=gray)
            case Jpeg():
                pixels = through_jpeg(pixels, int(random.integers(*part.quality, endpoint=True)))
            case X264():
                pixels = through_x264(
                    pixels,
                    int(random.integers(*part.crf, endpoint=True)),
                    preset=part.preset,
                    frames=part.frames,
                    shown=int(random.integers(part.frames)),
                    pan=(
                        int(random.integers(-_PAN, _PAN, endpoint=True)),
                        int(random.integers(-_PAN, _PAN, endpoint=True)),
                    ),
                )
    return pixels


def reach(degradation: Sequence[Degradation], scale: int) -> int:
    """How many small pixels around a patch change it: so much is cut out with it."""
    total, large = 0.0, any(part.kind == "bicubic" for part in degradation)
    for part in degradation:
        match part.kind:
            case "bicubic":
                total, large = total + _BICUBIC_REACH, False
            case "blur":
                total += _radius(part.sigma[1]) / (scale if large else 1)
            case "jpeg" | "x264":
                total += _CODEC_REACH / (scale if large else 1)
    return int(np.ceil(total))


def block(degradation: Sequence[Degradation]) -> int:
    """Side of the blocks of the codecs in a chain, 1 without one: patches are cut at any
    place of them."""
    sides = {"jpeg": 16, "x264": 16}
    return max((sides.get(part.kind, 1) for part in degradation), default=1)


def blurred(pixels: Pixels, sigma: float) -> Pixels:
    """Convolve with a Gaussian, cut at four deviations; the picture is mirrored beyond its
    edge, edge included.

    Args:
        pixels: (H, W, 3).
        sigma: deviation in pixels, at least 0.
    """
    radius = _radius(sigma)
    if radius == 0:
        return pixels
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    values = pixels.astype(np.float64)
    for axis in (0, 1):
        size = values.shape[axis]
        margin = [(radius, radius) if axis == number else (0, 0) for number in range(3)]
        around = np.moveaxis(np.pad(values, margin, mode="symmetric"), axis, 0)
        lines = sum((w * around[k : k + size] for k, w in enumerate(weights)), np.zeros(()))
        values = np.moveaxis(lines, 0, axis)
    return _rounded(values)


def noisy(pixels: Pixels, sigma: float, random: Generator, *, gray: bool) -> Pixels:
    """Add Gaussian noise.

    Args:
        pixels: (H, W, 3).
        sigma: deviation, in steps of 8 bits.
        random: where the noise comes from.
        gray: the same in the three channels.
    """
    shape = (*pixels.shape[:2], 1) if gray else pixels.shape
    return _rounded(pixels + sigma * random.standard_normal(shape))


def _radius(sigma: float) -> int:
    return int(4 * sigma + 0.5)


def _rounded(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Pixels:
    return np.ascontiguousarray(np.floor(values.clip(0, 255) + 0.5).astype(np.uint8))
