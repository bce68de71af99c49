"""A new tail in closed form: what a body gives is brought to the large patches by least squares.

Behind the LeakyReLU of ``conv_before_upsample`` a HAT is linear, so that the best tail for
the sum of squares is the solution of some systems of linear equations, where descent would
take thousands of steps to find it.

With one pixel shuffle by s, a large pixel is a sum over the 3x3 taps of ``conv_last``; a tap
that reaches into a neighbour's s x s large pixels sees the 3x3 features around that neighbour.
So the pixels at a corner of their s x s may hang on 4x4 features, those at an edge on 3x4, those
inside on 3x3. If each tap of each colour has a channel of the shuffled map for itself, which
takes 27 of them, every such sum can be had, and each of the s x s places is solved alone.

Features that two taps see may be shared between them at will. Where a picture ends, the taps
that reach beyond it meet zeros, so the others alone make its outermost pixels: they are shared
so that these are right too.
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

EDGE = 0.3
"""What a small pixel counts that is nearer to the edge than an eighth of the side, for places
whose taps all stay inside. Features end in zeros there, which nothing else prepares them for;
but patches have far more edge than pictures."""

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
    assert convolution.bias is not None
    assert last.bias is not None
    scale, channels = net.scale, convolution.in_channels
    normal, right = map(together, _equations(net, channels, pairs))
    reach = (-1, 0, 1) if last.in_channels >= 27 else (0,)
    taps = {tap: n for n, tap in enumerate((down, across) for down in reach for across in reach)}

    # By channel of the shuffled map, place in the s x s, feature, and row and column of the tap.
    weight = convolution.weight.view(-1, scale, scale, channels, 3, 3)
    bias = convolution.bias.view(-1, scale, scale)
    weight[: 3 * len(taps)] = 0
    bias[: 3 * len(taps)] = 0
    last.weight.zero_()
    last.bias.zero_()
    for colour in range(3):
        for (down, across), number in taps.items():
            last.weight[colour, colour * len(taps) + number, 1 + down, 1 + across] = 1
    for y in range(scale):
        for x in range(scale):
            down, across = (_beyond(place, scale) if len(taps) > 1 else 0 for place in (y, x))
            wanted = torch.arange(3) * scale**2 + y * scale + x
            place = _Place(normal, right[..., wanted], channels, down, across, ridge)
            for tap, (kernel, constant) in place.shares(edge if 0 in (down, across) else 0).items():
                rows, columns = (slice(1 + step, 4 + step) for step in tap)
                at = (y + tap[0]) % scale, (x + tap[1]) % scale
                for colour in range(3):
                    channel = colour * len(taps) + taps[tap]
                    weight[channel, *at] = kernel[colour, :, rows, columns]
                    bias[channel, *at] += constant[colour]


def _beyond(place: int, scale: int) -> int:
    """The tap that reaches beyond the s large pixels of a small one, from one of them; 0: none."""
    return -1 if place == 0 else 1 if place == scale - 1 else 0


class _Place:
    """One of the s x s places, solved.

    Args:
        normal: of :func:`_equations`.
        right: the columns of the place, one for each colour.
        channels: of the features.
        down: the tap of ``conv_last`` that leaves the small pixel, in rows; 0: none does.
        across: in columns.
        ridge: see :func:`fit_tail`.
    """

    def __init__(
        self, normal: Tensor, right: Tensor, channels: int, down: int, across: int, ridge: float
    ) -> None:
        self._normal, self._right, self._ridge = normal, right, ridge
        self._down, self._across = down, across
        self._numbers = torch.arange(normal.shape[-1] - 1).view(channels, _SEEN, _SEEN)
        self._constant = self._numbers.new_tensor([normal.shape[-1] - 1])
        self._middle = _SEEN // 2

    def shares(self, edge: float) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """By tap: (colours, channels, 5, 5) around the small pixel, and (colours,) constants.

        A tap's are zero outside the 3x3 that it sees.
        """
        down, across, m = self._down, self._across, self._middle
        sees = torch.zeros_like(self._numbers, dtype=torch.bool)
        rows, columns = (slice(m - 1 + min(s, 0), m + 2 + max(s, 0)) for s in (down, across))
        sees[:, rows, columns] = True
        whole, constant = self._solved(sees, edge)
        given = {(0, 0): (whole, constant)}
        # What the taps beyond an edge have to bring so that without them the edge is right.
        lower = self._missing(0 if down < 0 else 1, sees, whole, constant, row=True)
        beside = self._missing(2 if across < 0 else 3, sees, whole, constant, row=False)
        corner = torch.zeros_like(whole)
        far_row, far_column = m + 2 * down, m + 2 * across
        if down and across:
            corner[..., far_row, far_column] = whole[..., far_row, far_column]
            corner[..., far_row, m] = beside[0][..., far_row, m]
            corner[..., m, far_column] = lower[0][..., m, far_column]
            given[down, across] = corner, torch.zeros_like(constant)
        rest = whole - corner
        if down:
            given[down, 0] = _reaching(rest, lower[0], far_row), lower[1]
        if across:
            given[0, across] = _reaching(rest.mT, beside[0].mT, far_column).mT, beside[1]
        others = [share for tap, share in given.items() if tap != (0, 0)]
        given[0, 0] = (
            whole - sum((kernel for kernel, _ in others), torch.zeros_like(whole)),
            constant - sum((more for _, more in others), torch.zeros_like(constant)),
        )
        return given

    def _solved(self, sees: Tensor, edge: float) -> tuple[Tensor, Tensor]:
        """Inside pictures, all taps together."""
        chosen = torch.cat([self._numbers[sees], self._constant])
        normal, right = (own[_INNER] + edge * own[_RIM] for own in (self._normal, self._right))
        found = self._least(normal[chosen][:, chosen], right[chosen])
        kernel = found.new_zeros(found.shape[1], *self._numbers.shape)
        kernel[:, sees] = found[:-1].mT
        return kernel, found[-1]

    def _missing(
        self, side: int, sees: Tensor, whole: Tensor, constant: Tensor, *, row: bool
    ) -> tuple[Tensor, Tensor]:
        """What of ``whole`` is too much at one side of pictures, where some taps are missing.

        Of the features there, those of the middle row (column) may be weighed anew; those
        one further inside are seen by the taps that are left alone, and stay.
        """
        step, m = (self._down if row else self._across), self._middle
        if not step:
            return torch.zeros_like(whole), torch.zeros_like(constant)
        line = (slice(None), m) if row else (slice(None), slice(None), m)
        free, fixed = torch.zeros_like(sees), torch.zeros_like(sees)
        free[line] = sees[line]
        inside = (*line[:-1], m - step)
        fixed[inside] = sees[inside]
        chosen = torch.cat([self._numbers[free], self._constant])
        kept = self._numbers[fixed]
        normal, right = self._normal[_SIDES + side], self._right[_SIDES + side]
        rest = right[chosen] - normal[chosen][:, kept] @ whole[:, fixed].mT
        found = self._least(normal[chosen][:, chosen], rest)
        too_much = torch.zeros_like(whole)
        too_much[:, free] = whole[:, free] - found[:-1].mT
        return too_much, constant - found[-1]

    def _least(self, normal: Tensor, right: Tensor) -> Tensor:
        ridged = normal + self._ridge * normal.diagonal().mean() * torch.eye(
            len(normal), dtype=normal.dtype, device=normal.device
        )
        found: Tensor = torch.linalg.solve(ridged, right)
        return found


def _reaching(rest: Tensor, too_much: Tensor, far: int) -> Tensor:
    """The share of a tap that reaches beyond an edge in rows: all of the row that it alone
    sees, and what the middle one has too much there."""
    middle = _SEEN // 2
    near = slice(middle - 1, middle + 2)
    share = torch.zeros_like(rest)
    share[..., far, near] = rest[..., far, near]
    share[..., middle, near] = too_much[..., middle, near]
    return share


_INNER, _RIM, _SIDES = 0, 1, 2
"""Of the equations: small pixels well inside, those nearer to the edge, and those at the very
edge, above, below, left and right, without the corners."""


def _equations(
    net: HAT, channels: int, pairs: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """The normal equations: (6, n, n), and (6, n, 3 s s) for all places and colours.

    n counts the features of a window by channel, row and column, and a constant.
    """
    size, scale, device = channels * _SEEN**2 + 1, net.scale, net.mean.device
    normal = torch.zeros(6, size, size, dtype=torch.float64, device=device)
    right = torch.zeros(6, size, 3 * scale**2, dtype=torch.float64, device=device)
    found: list[Tensor] = []
    hook = net.conv_before_upsample.register_forward_hook(lambda *told: found.append(told[2]))
    net.eval()
    try:
        for small, large in pairs:
            net(small.to(device) / 255)
            features = F.unfold(found.pop(), _SEEN, padding=_SEEN // 2)
            shifted = (large.to(device) / 255 - net.mean) * net.config.img_range
            wanted = F.pixel_unshuffle(shifted, scale).flatten(2)
            for number, mask in enumerate(_masks(*small.shape[-2:])):
                chosen = mask.flatten().to(device)
                row = features[:, :, chosen].mT.flatten(0, 1)
                row = torch.cat([row, torch.ones_like(row[:, :1])], 1).double()
                normal[number] += row.mT @ row
                right[number] += row.mT @ wanted[:, :, chosen].mT.flatten(0, 1).double()
    finally:
        hook.remove()
    return normal, right


def _masks(height: int, width: int) -> list[Tensor]:
    """(height, width) each, of what the equations are of."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    inner = (rows >= height // 8) & (rows < height - height // 8)
    inner = inner & (columns >= width // 8) & (columns < width - width // 8)
    across = (columns > 0) & (columns < width - 1)
    down = (rows > 0) & (rows < height - 1)
    sides = [(rows == 0) & across, (rows == height - 1) & across]
    sides += [(columns == 0) & down, (columns == width - 1) & down]
    return [inner, ~inner, *sides]
