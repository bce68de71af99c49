"""Resampling to a size that no whole scale gives."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["resample"]


def resample(rgb: Tensor, height: int, width: int) -> Tensor:
    """Bicubic (Keys, a = -1/2), widened on the way down so that nothing aliases.

    Args:
        rgb: (N, C, H, W) floating point.
        height: of the result.
        width: of the result.

    Returns:
        (N, C, height, width), not clamped; ``rgb`` itself if it has that size.
    """
    if rgb.shape[-2:] == (height, width):
        return rgb
    return interpolate(
        rgb, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
