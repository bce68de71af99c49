"""The tail of a HAT as one convolution.

Behind the LeakyReLU of ``conv_before_upsample`` a HAT is linear: convolutions and pixel
shuffles (one pair for x2 and x3, two for x4), then ``conv_last``. Together they are one
convolution from num_feat to 3 s^2 channels and one pixel shuffle by s, but for a ring at
the border: there each of the layers sees zeros of its own around its own map, which no
single convolution can imitate. The ring is computed by the layers themselves.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hatvid.model.hat import HAT, HATConfig, Upsample

__all__ = ["CollapsedTail", "collapse_tail", "tail_multiply_adds"]


class CollapsedTail(nn.Module):
    """Pixel shuffles and convolutions as one of each: (N, F, H, W) -> (N, 3, sH, sW).

    Args:
        upsample: the network's own.
        last: its last convolution.
        scale: s.

    Attributes:
        original: the layers one by one, which compute the ring.
        conv: the one convolution.
        ring: width of the ring in input pixels.
    """

    def __init__(self, upsample: Upsample, last: nn.Conv2d, scale: int) -> None:
        super().__init__()
        self.original = nn.Sequential(*upsample, last)
        self.ring = _reach(scale)
        kernel, bias = _collapsed(self.original, last.in_channels, scale, self.ring)
        weight = last.weight
        self.conv = nn.Conv2d(
            kernel.shape[1],
            kernel.shape[0],
            kernel.shape[2],
            padding=self.ring,
            dtype=weight.dtype,
            device=weight.device,
        )
        with torch.no_grad():
            self.conv.weight.copy_(kernel)
            self.conv.bias.copy_(bias)  # type: ignore[union-attr]
        self.conv.train(last.training).requires_grad_(weight.requires_grad)
        self.shuffle = nn.PixelShuffle(scale)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, F, H, W), H and W more than three rings wide -> (N, 3, sH, sW)."""
        ring, edge = self.ring, self.ring * self.scale
        # Each strip is a ring wider than what is kept of it: there it ends where the map
        # does not, and is wrong.
        top = self.original(x[:, :, : 2 * ring])[:, :, :edge]
        bottom = self.original(x[:, :, -2 * ring :])[:, :, edge:]
        left = self.original(x[:, :, :, : 2 * ring])[:, :, edge:-edge, :edge]
        right = self.original(x[:, :, :, -2 * ring :])[:, :, edge:-edge, edge:]
        inside = self.shuffle(self.conv(x))[:, :, edge:-edge, edge:-edge]
        return torch.cat((top, torch.cat((left, inside, right), 3), bottom), 2)


def collapse_tail(model: HAT) -> HAT:
    """A HAT that gives the same (up to rounding) in a tenth of the tail's arithmetic.

    Args:
        model: of any scale; it is not changed, and its parameters are shared. One of
            scale 1, or collapsed before, has nothing to collapse and is given back.

    Returns:
        A HAT whose ``upsample`` is a :class:`CollapsedTail` and whose ``conv_last`` does
        nothing.
    """
    upsample, last = model.upsample, model.conv_last
    if not isinstance(upsample, Upsample) or model.scale == 1:
        return model
    assert isinstance(last, nn.Conv2d)  # as long as the layers before it are there
    tail = CollapsedTail(upsample, last, model.scale)
    memo: dict[int, object] = {id(p): p for p in model.parameters()}
    collapsed = copy.deepcopy(model, memo)
    collapsed.upsample = tail
    collapsed.conv_last = nn.Identity()
    return collapsed


def tail_multiply_adds(config: HATConfig) -> tuple[int, int]:
    """Multiply-adds of the tail for one input pixel, away from the border.

    Returns:
        Those of the layers as published, and of the one convolution.
    """
    features, scale = config.num_feat, config.upscale
    stages = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    side, before = 1, 0
    for stage in stages:
        before += 9 * features * stage**2 * features * side**2
        side *= stage
    before += 9 * features * config.num_in_ch * side**2
    after = (2 * _reach(scale) + 1) ** 2 * features * config.num_in_ch * scale**2
    return before, after


def _reach(scale: int) -> int:
    """How many input pixels away from its own an output pixel looks."""
    stages = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    # From the last convolution back: a pixel more on each side, then coarser pixels.
    low, high, side = -1, scale, scale
    for stage in reversed(stages):
        side //= stage
        low, high = low // stage - 1, high // stage + 1
    return max(-low, high)


def _collapsed(
    layers: nn.Sequential, features: int, scale: int, reach: int
) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the one convolution, in float64, from what impulses become."""
    exact = copy.deepcopy(layers).double()
    side = 4 * reach + 1
    with torch.no_grad():
        silent = torch.zeros(1, features, side, side, dtype=torch.float64, device=_device(layers))
        rest = exact(silent)
        at = 2 * reach
        middle = slice(at * scale, (at + 1) * scale)
        bias = rest[0, :, middle, middle]
        kernel = silent.new_empty(bias.numel(), features, 2 * reach + 1, 2 * reach + 1)
        for channel in range(features):
            impulse = silent.clone()
            impulse[0, channel, at, at] = 1
            answer = (exact(impulse) - rest)[0]
            # (3, cells, scale, cells, scale): what each cell about the impulse sees of it.
            cells = answer.view(-1, side, scale, side, scale)[:, reach:-reach, :, reach:-reach]
            seen = cells.permute(0, 2, 4, 1, 3).reshape(bias.numel(), 2 * reach + 1, -1)
            kernel[:, channel] = seen.flip(1, 2)
    return kernel, bias.reshape(-1)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
