"""How good a network is while it is trained, by the protocol of the papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hatvid.model.hat import HAT
from hatvid.research.matlab_resize import Kernel, Pixels, imresize
from hatvid.research.metrics import quality
from hatvid.research.pairs import Pair

__all__ = ["Score", "enlarged", "score", "score_of_kernel"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean over pictures."""

    psnr: float
    """dB on Y."""

    ssim: float


@torch.inference_mode()
def enlarged(net: HAT, pixels: Pixels) -> Pixels:
    """A picture through a network, whole, rounded to 8 bits: (sH, sW, 3)."""
    x = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(net.mean.device).unsqueeze(0)
    y = (net(x / 255)[0].float().clamp(0, 1) * 255).round().byte()
    made: Pixels = y.cpu().permute(1, 2, 0).numpy()
    return made


def score(net: HAT, pairs: Sequence[Pair]) -> Score:
    """Of a network in eval mode.

    Raises:
        InputError: a picture cannot be read, or the sizes of a pair do not fit.
    """
    found = []
    for pair in pairs:
        small, large = pair.read(net.scale)
        found.append(quality(enlarged(net, small), large, border=net.scale))
    return Score(
        psnr=float(np.mean([one.psnr for one in found])),
        ssim=float(np.mean([one.ssim for one in found])),
    )


def score_of_kernel(pairs: Sequence[Pair], scale: int, kernel: Kernel) -> Score:
    """Of MATLAB's imresize, for comparison.

    Raises:
        InputError: as :func:`score`.
    """
    found = []
    for pair in pairs:
        small, large = pair.read(scale)
        made = imresize(small, large.shape[0], large.shape[1], kernel=kernel)
        found.append(quality(made, large, border=scale))
    return Score(
        psnr=float(np.mean([one.psnr for one in found])),
        ssim=float(np.mean([one.ssim for one in found])),
    )
