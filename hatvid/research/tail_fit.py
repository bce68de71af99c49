"""A new tail in closed form: what a body gives is brought to the large patches by least squares.

Behind the LeakyReLU of ``conv_before_upsample`` a HAT is linear, so that the best tail for
the sum of squares is the solution of some systems of linear equations, where descent would
take thousands of steps to find it.

With one pixel shuffle by s, a large pixel is a sum over the 3x3 taps of ``conv_last``; a tap
that reaches into a neighbour's s x s large pixels sees the 3x3 features around that neighbour.
So the pixels at a corner of their s x s may hang on 4x4 features, those at an edge on 3x4, those
inside on 3x3. If each tap of each colour has a channel of the shuffled map for itself, which
takes 27 of them, every such sum can be had, and each of the s x s places is solved alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatvid.model.hat import HAT

__all__ = ["EDGE", "LEAST_CHANNELS", "fit_tail", "fits"]

RIDGE = 1e-3
"""Of the mean of the diagonal: features hang together. On pictures that were not fitted to,
1e-3 was better than 1e-6 and 1e-4 (Set5 x3, 1,600 patches: 32.356, 32.345 and 32.347 dB)."""

EDGE = 0.03
"""What a small pixel counts that is nearer to the edge than an eighth of the side. Features
end in zeros there, which nothing else prepares a tail for: without them the outermost large
pixels of a picture had five times the error of others (hat-nano-x4: two times). Patches have
far more edge than pictures, so that 1 would be too much."""

LEAST_CHANNELS = 3
"""Of the shuffled map: one for each colour. With fewer than 27, taps of ``conv_last`` beside
its middle are left out."""

_SEEN = 5
"""Side of the window of features that all large pixels of a small one hang on together."""


def fits(scale: int) -> bool:
    """Whether there is one pixel shuffle, as a tail in closed form needs."""
    return scale in (2, 3)


@torch.no_grad()
def fit_tail(
    net: HAT,
    pairs: Iterable[tuple[Tensor, Tensor]],
    together: Callable[[Tensor], Tensor] = lambda summed: summed,
    *,
    ridge: float = RIDGE,
    edge: float = EDGE,
) -> None:
    """Change ``upsample`` and ``conv_last`` to the best that they can do.

    Channels that are not needed keep their initial weights and do not count yet: training
    may use them.

    Args:
        net: of scale 2 or 3, its ``conv_before_upsample`` trained with its body.
        pairs: small and large pictures, (N, 3, h, w) and (N, 3, sh, sw) uint8.
        together: adds up what several processes have summed, each of its own pairs.
        ridge: what is added to the diagonal of the equations, of its mean.
        edge: see :data:`EDGE`.
    """
    convolution, last = net.upsample[0], net.conv_last  # type: ignore[index]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    normal, right = map(together, _equations(net, convolution.in_channels, pairs, edge))
    normal.diagonal().add_(ridge * normal.diagonal().mean())
    scale, channels = net.scale, convolution.in_channels
    reach = (-1, 0, 1) if last.in_channels >= 27 else (0,)
    taps = {tap: n for n, tap in enumerate((down, across) for down in reach for across in reach)}

    # By channel of the shuffled map, place in the s x s, feature, and row and column of the tap.
    weight = convolution.weight.view(-1, scale, scale, channels, 3, 3)
    assert convolution.bias is not None
    assert last.bias is not None
    bias = convolution.bias.view(-1, scale, scale)
    weight[: 3 * len(taps)] = 0
    bias[: 3 * len(taps)] = 0
    last.weight.zero_()
    last.bias.zero_()
    for colour in range(3):
        for (down, across), number in taps.items():
            last.weight[colour, colour * len(taps) + number, 1 + down, 1 + across] = 1
    numbers = torch.arange(len(normal) - 1).view(channels, _SEEN, _SEEN)
    for y in range(scale):
        for x in range(scale):
            # Those that reach into a neighbour, after the middle one.
            used = [t for t in taps if _crosses(y, t[0], scale) and _crosses(x, t[1], scale)]
            used.sort(key=lambda tap: abs(tap[0]) + abs(tap[1]))
            sees = torch.zeros_like(numbers, dtype=torch.bool)
            for down, across in used:
                sees[:, 1 + down : 4 + down, 1 + across : 4 + across] = True
            chosen = torch.cat([numbers[sees], numbers.new_tensor([len(normal) - 1])])
            wanted = torch.arange(3) * scale**2 + y * scale + x
            solved = torch.linalg.solve(normal[chosen][:, chosen], right[chosen][:, wanted])
            for colour in range(3):
                left = normal.new_zeros(numbers.shape)
                left[sees] = solved[:-1, colour]
                bias[colour * len(taps) + taps[0, 0], y, x] = solved[-1, colour]
                for down, across in used:
                    # Each tap takes what those before it did not see.
                    window = left[:, 1 + down : 4 + down, 1 + across : 4 + across]
                    place = (y + down) % scale, (x + across) % scale
                    weight[colour * len(taps) + taps[down, across], *place] = window
                    window.zero_()


def _crosses(place: int, tap: int, scale: int) -> bool:
    """Whether a tap reaches beyond the s large pixels of a small one, or is the middle one."""
    return tap == 0 or not 0 <= place + tap < scale


def _equations(
    net: HAT, channels: int, pairs: Iterable[tuple[Tensor, Tensor]], edge: float
) -> tuple[Tensor, Tensor]:
    """The normal equations: (n, n), and (n, 3 s s) for all places and colours.

    n counts the features of a window by channel, row and column, and a constant.
    """
    size, scale, device = channels * _SEEN**2 + 1, net.scale, net.mean.device
    normal = torch.zeros(size, size, dtype=torch.float64, device=device)
    right = torch.zeros(size, 3 * scale**2, dtype=torch.float64, device=device)
    found: list[Tensor] = []
    hook = net.conv_before_upsample.register_forward_hook(lambda *told: found.append(told[2]))
    net.eval()
    try:
        for small, large in pairs:
            net(small.to(device) / 255)
            features = F.unfold(found.pop(), _SEEN, padding=_SEEN // 2)
            shifted = (large.to(device) / 255 - net.mean) * net.config.img_range
            wanted = F.pixel_unshuffle(shifted, scale).flatten(2)
            height, width = small.shape[-2:]
            rows, columns = (torch.arange(side, device=device) for side in (height, width))
            inner = ((rows >= height // 8) & (rows < height - height // 8))[:, None]
            inner = inner & (columns >= width // 8) & (columns < width - width // 8)
            counts = torch.where(inner, 1.0, edge).flatten().repeat(len(small)).unsqueeze(1)
            row = features.mT.flatten(0, 1)
            row = torch.cat([row, torch.ones_like(row[:, :1])], 1).double()
            counted = row * counts
            normal += counted.mT @ row
            right += counted.mT @ wanted.mT.flatten(0, 1).double()
    finally:
        hook.remove()
    return normal, right
