"""A new tail in closed form: what a body gives is brought to the large patches by least squares.

Behind the LeakyReLU of ``conv_before_upsample`` a HAT is linear, so that the best first
convolution of the tail for the sum of squares is the solution of one system of linear
equations, where descent would take thousands of steps to find it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatvid.model.hat import HAT

__all__ = ["fit_tail", "fits"]

RIDGE = 1e-6
"""Of the mean of the diagonal: features may hang together."""


def fits(scale: int) -> bool:
    """Whether there is one pixel shuffle, as a tail in closed form needs."""
    return scale in (2, 3)


@torch.no_grad()
def fit_tail(net: HAT, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Change ``upsample`` and ``conv_last`` to the best that one 3x3 convolution can do.

    Three channels of the shuffled map become the picture, which ``conv_last`` passes on. The
    others keep their initial weights and do not count yet: training may use them.

    Args:
        net: of scale 2 or 3, its ``conv_before_upsample`` trained with its body.
        pairs: small and large pictures, (N, 3, h, w) and (N, 3, sh, sw) uint8.
    """
    net.eval()
    convolution, last = net.upsample[0], net.conv_last  # type: ignore[index]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    size, scale = 9 * convolution.in_channels + 1, net.scale
    device = convolution.weight.device
    normal = torch.zeros(size, size, dtype=torch.float64, device=device)
    right = torch.zeros(size, 3 * scale**2, dtype=torch.float64, device=device)
    found: list[Tensor] = []
    hook = net.conv_before_upsample.register_forward_hook(lambda *told: found.append(told[2]))
    try:
        for small, large in pairs:
            net(small.to(device) / 255)
            taps = F.unfold(found.pop(), 3, padding=1).mT.flatten(0, 1)
            row = torch.cat([taps, torch.ones_like(taps[:, :1])], 1).double()
            shifted = (large.to(device) / 255 - net.mean) * net.config.img_range
            wanted = F.pixel_unshuffle(shifted, scale).permute(0, 2, 3, 1)
            normal += row.mT @ row
            right += row.mT @ wanted.reshape(-1, 3 * scale**2).double()
    finally:
        hook.remove()
    normal.diagonal().add_(RIDGE * normal.diagonal().mean())
    solved = torch.linalg.solve(normal, right).to(convolution.weight.dtype)
    picture = slice(0, 3 * scale**2)  # the shuffle's first three channels
    convolution.weight[picture] = solved[:-1].mT.reshape(-1, *convolution.weight.shape[1:])
    assert convolution.bias is not None
    assert last.bias is not None
    convolution.bias[picture] = solved[-1]
    last.weight.zero_()
    last.weight[range(3), range(3), 1, 1] = 1
    last.bias.zero_()
