"""Layers that a HAT in 16 bits, or one that is rescaled or padded, has in place of its own.

Each takes over the parameters of the layer it replaces, under the same names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatvid.model.attention import WindowTables
from hatvid.model.blocks import RHAG

__all__ = [
    "Cast",
    "CastingConv2d",
    "LayerNorm32",
    "MeanPool32",
    "Multiply",
    "PaddedLayerNorm",
    "RescaledRHAG",
    "WideConv2d",
    "WideLinear",
    "divide",
    "divided",
]


def divided(value: Tensor | None, by: float) -> nn.Parameter | None:
    """A parameter divided, as one of its own; None stays None."""
    return None if value is None else nn.Parameter(value / by, requires_grad=False)


def divide(module: nn.Module, by: float) -> None:
    """Give a module divided parameters; the ones it had, which others share, stay."""
    for name, value in list(module.named_parameters(recurse=False)):
        module.register_parameter(name, divided(value, by))


class RescaledRHAG(RHAG):
    """An RHAG whose stream is divided by more than that of the RHAG before it.

    Attributes:
        factor: what enters is multiplied by it; a power of two.
    """

    def __init__(self, group: RHAG, factor: float) -> None:
        nn.Module.__init__(self)
        self.residual_group = group.residual_group
        self.conv = group.conv
        self.factor = factor

    def forward(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        return super().forward(x * self.factor, tables)


class Multiply(nn.Module):
    """Takes the place of the LayerNorm that a network without patch_norm lacks."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Cast(nn.Module):
    """To another dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


class MeanPool32(nn.Module):
    """The mean over the map, in fp32 whatever the map is in: (N, C, H, W) -> (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True, dtype=torch.float32)


class PaddedLayerNorm(nn.LayerNorm):
    """Of the first channels: those after them are zeros, and stay so.

    Attributes:
        padding: how many channels those are.
    """

    def __init__(self, norm: nn.LayerNorm, padding: int) -> None:
        super().__init__(norm.normalized_shape, norm.eps, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(super().forward(x[..., : self.normalized_shape[0]]), (0, self.padding))


class LayerNorm32(nn.LayerNorm):
    """In fp32, from any dtype, to ``dtype``; of the first channels only, if ``norm`` is."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__(norm.normalized_shape, norm.eps, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.dtype = dtype
        self.padding = norm.padding if isinstance(norm, PaddedLayerNorm) else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.padding:
            x = x[..., : self.normalized_shape[0]]
        normal = F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps)
        low = normal.to(self.dtype)
        return F.pad(low, (0, self.padding)) if self.padding else low


class CastingConv2d(nn.Conv2d):
    """Takes any dtype, and computes in that of its weights."""

    def __init__(self, conv: nn.Conv2d) -> None:
        size = (conv.in_channels, conv.out_channels, conv.kernel_size)
        super().__init__(*size, padding=conv.padding, device="meta")  # type: ignore[arg-type]
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class WideConv2d(CastingConv2d):
    """In 16 bits on an fp32 stream: what enters is divided by s, what leaves multiplied."""

    def __init__(self, conv: nn.Conv2d, s: float) -> None:
        super().__init__(conv)
        self.bias = divided(conv.bias, s)
        self.s = s

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / self.s).float() * self.s


class WideLinear(nn.Linear):
    """In 16 bits, divided by s; what leaves is multiplied by s in fp32."""

    def __init__(self, linear: nn.Linear, s: float) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.register_parameter("weight", divided(linear.weight, s))
        self.register_parameter("bias", divided(linear.bias, s))
        self.s = s

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float() * self.s
