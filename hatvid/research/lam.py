"""Local attribution maps: which input pixels a network uses for a part of its output.

The method of Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution
Maps" (CVPR 2021, arXiv 2011.11036). The picture is blurred until nothing can be read off
it, and the blur is taken away in small steps. What each input pixel contributes on that
way to the edges in a window of the output (integrated gradients) is its attribution. The
diffusion index says over how many pixels the attribution spreads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BlurPath", "Lam", "attribute", "diffusion_index", "edges", "window_at"]

STEPS = 50
SIGMA = 1.2
"""Deviation of the blur that the path begins with, in input pixels."""

WINDOW = 16
"""Output pixels along a side of what is explained."""

_KERNEL = 9
_LEAST_SIGMA = 1e-5
# Under the root, so that its slope is finite where nothing changes: a difference of 1e-5
# is far under a step of 8 bits.
_EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class Lam:
    """What was found.

    Args:
        signed: (3, H, W), what each sample contributes to the objective; its sum is the
            objective of the picture less that of the blurred one, but for the steps.
        window: (top, left, side), in output pixels.
        objective: of the picture.
        blurred: objective of the blurred picture, where the path begins.
        larger: (3, sH, sW), what the network makes of the picture.
    """

    signed: Tensor
    window: tuple[int, int, int]
    objective: float
    blurred: float
    larger: Tensor

    @property
    def map(self) -> Tensor:
        """(H, W) attribution, from 0 to 1 at its largest; all 0 where there is none."""
        size = self.signed.sum(0).abs()
        most = float(size.max())
        return size / most if most else size

    @property
    def diffusion_index(self) -> float:
        """From near 0, where one pixel does it all, to 100, where all do alike."""
        return diffusion_index(self.map)


class BlurPath:
    """From a blurred picture to the picture itself: the blur's deviation falls evenly to 0.

    Args:
        picture: (1, 3, H, W).
        sigma: the deviation at the beginning, in pixels.
    """

    def __init__(self, picture: Tensor, sigma: float = SIGMA) -> None:
        self._picture = picture
        self._sigma = sigma

    def at(self, part: float) -> Tensor:
        """The picture after ``part`` of the way, 0 to 1."""
        sigma = self._sigma * (1 - part) + _LEAST_SIGMA
        reach = _KERNEL // 2
        place = torch.arange(-reach, reach + 1, dtype=torch.float64)
        line = torch.exp(-0.5 * (place / sigma) ** 2)
        weights = (line / line.sum()).to(self._picture)
        channels = self._picture.shape[1]
        across = weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        down = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        wide = _mirrored(_mirrored(self._picture, reach, 3), reach, 2)
        return F.conv2d(F.conv2d(wide, across, groups=channels), down, groups=channels)


def edges(larger: Tensor, window: tuple[int, int, int]) -> Tensor:
    """The objective: the sum over a window of sqrt(dx^2 + dy^2), all channels together.

    Args:
        larger: (1, 3, H, W).
        window: (top, left, side); a row and a column beyond it are looked at.
    """
    top, left, side = window
    part = larger[..., top : top + side + 1, left : left + side + 1]
    down = (part[..., :-1, :] - part[..., 1:, :])[..., :side]
    across = (part[..., :-1] - part[..., 1:])[..., :side, :]
    return (down.square() + across.square() + _EPSILON).sqrt().sum()


def window_at(
    x: int, y: int, scale: int, height: int, width: int, side: int = WINDOW
) -> tuple[int, int, int]:
    """The window of the output around one input pixel, moved inward at the border.

    Args:
        x: column of the input pixel.
        y: row of it.
        scale: output pixels an input pixel, along each axis.
        height: of the input.
        width: of the input.
        side: of the window in output pixels.

    Returns:
        (top, left, side), in output pixels.

    Raises:
        ValueError: the pixel is not in the input, or the output is smaller than a window.
    """
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"{x},{y} is no pixel of a picture of {width}x{height}")
    if min(height, width) * scale <= side:
        raise ValueError(f"{width}x{height} at x{scale} holds no window of {side}x{side}")

    def start(at: int, length: int) -> int:
        middle = at * scale + scale // 2
        return min(max(middle - side // 2, 0), length * scale - side - 1)

    return start(y, height), start(x, width), side


def attribute(
    network: Callable[[Tensor], Tensor],
    picture: Tensor,
    window: tuple[int, int, int],
    *,
    steps: int = STEPS,
    advanced: Callable[[int], None] = lambda steps: None,
) -> Lam:
    """Explain one window of a network's output, by the midpoint rule along the path.

    Args:
        network: (1, 3, H, W) -> (1, 3, sH, sW), differentiable.
        picture: (1, 3, H, W) in [0, 1], where the network is.
        window: from :func:`window_at`.
        steps: of the path.
        advanced: told how many steps more are done.
    """
    path = BlurPath(picture)
    signed = torch.zeros_like(picture)
    before = path.at(0)
    for step in range(steps):
        after = path.at((step + 1) / steps)
        middle = path.at((step + 0.5) / steps).requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(edges(network(middle), window), middle)
        signed += slope * (after - before)
        before = after
        advanced(1)
    with torch.no_grad():
        larger = network(picture)
        begun = edges(network(path.at(0)), window)
        ended = edges(larger, window)
    return Lam(
        signed=signed[0].cpu(),
        window=window,
        objective=float(ended),
        blurred=float(begun),
        larger=larger[0].cpu(),
    )


def diffusion_index(attribution: Tensor) -> float:
    """(1 - Gini) x 100 of how attribution is shared out among pixels.

    Args:
        attribution: of any shape, 0 or more, on the CPU.
    """
    shares = (attribution.double().flatten() + 1e-7).sort().values
    count = len(shares)
    rank = torch.arange(1, count + 1, dtype=torch.float64)
    gini = float(((2 * rank - count - 1) * shares).sum() / (count * shares.sum()))
    return (1 - gini) * 100


def _mirrored(picture: Tensor, reach: int, dim: int) -> Tensor:
    """``reach`` pixels more at both ends of an axis, mirrored at the edge pixel's middle."""
    size = picture.shape[dim]
    period = max(2 * (size - 1), 1)
    place = torch.arange(-reach, size + reach) % period
    return picture.index_select(dim, torch.minimum(place, period - place).to(picture.device))
