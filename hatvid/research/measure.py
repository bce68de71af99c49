"""One way of enlarging, measured over a set of pictures by the protocol of the papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from hatvid.errors import InputError
from hatvid.research.matlab_resize import Kernel, Pixels, imresize
from hatvid.research.metrics import SSIM_WINDOW, Quality, quality
from hatvid.research.pairs import Pair

__all__ = ["Row", "measure", "resized", "upscaled"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of enlarging."""

    name: str
    model: str | None
    """As it was asked for; None for what needs no network."""

    pictures: tuple[Quality, ...]
    """In the order of the set."""

    @property
    def psnr(self) -> float:
        """Mean over the pictures, in dB."""
        return fmean(picture.psnr for picture in self.pictures)

    @property
    def ssim(self) -> float:
        """Mean over the pictures."""
        return fmean(picture.ssim for picture in self.pictures)


def measure(
    name: str,
    enlarge: Callable[[Pixels], Pixels],
    pairs: Sequence[Pair],
    scale: int,
    *,
    model: str | None = None,
    seen: Callable[[Pair, Pixels, Pixels, Quality], None] = lambda *picture: None,
) -> Row:
    """Enlarge every picture of a set and compare it with what it should be.

    Args:
        name: of the row.
        enlarge: (H, W, 3) RGB codes to those of ``scale`` times the size.
        pairs: the set.
        scale: of the set.
        model: see :class:`Row`.
        seen: told of each picture: its pair, what was made, what is wanted, how near it is.

    Raises:
        InputError: a picture cannot be read, or is too small.
    """
    found = []
    for pair in pairs:
        small, large = pair.read(scale)
        if min(large.shape[:2]) < SSIM_WINDOW + 2 * scale:
            raise InputError(
                f"{pair.large} has {large.shape[1]}x{large.shape[0]} pixels, too few for SSIM at "
                f"x{scale}; leave it out"
            )
        pixels = enlarge(small)
        found.append(quality(pixels, large, border=scale))
        seen(pair, pixels, large, found[-1])
    return Row(name=name, model=model, pictures=tuple(found))


def upscaled(upscaler: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Pixels], Pixels]:
    """What enlarges RGB in [0, 1], for pictures of 8 bits: (H, W, 3) -> (sH, sW, 3)."""

    def enlarge(small: Pixels) -> Pixels:
        rgb = torch.from_numpy(small.transpose(2, 0, 1)[None] / np.float32(255))
        codes = (upscaler(rgb)[0].cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        return codes.permute(1, 2, 0).contiguous().numpy()

    return enlarge


def resized(kernel: Kernel, scale: int) -> Callable[[Pixels], Pixels]:
    """MATLAB's imresize, for comparison."""
    return lambda small: imresize(
        small, small.shape[0] * scale, small.shape[1] * scale, kernel=kernel
    )
