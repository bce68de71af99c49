"""A HAT whose attention reads its windows where they lie in the map.

The published network writes a shifted and partitioned copy of the map before attention,
and puts it back together behind it; for OCAB it unfolds keys and values to 2.25 times
their size. With the operators of :mod:`hatvid.model.window_ops` none of these is written.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

import hatvid.model.window_ops  # noqa: F401 - makes the operators known
from hatvid.model.attention import WindowAttention, WindowTables
from hatvid.model.blocks import OCAB
from hatvid.model.hat import HAT

__all__ = ["fuse_attention"]


class FusedWindowAttention(WindowAttention):
    """(S)W-MSA between its two projections as one operator."""

    def forward(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        out: Tensor = torch.ops.hatvid.window_attention(
            self.qkv(x),
            self.current_bias(tables),
            tables.height,
            tables.width,
            self.window_size,
            self.shift_size,
            self.scale,
            self.num_heads,
        )
        projected: Tensor = self.proj(out)
        return projected


class FusedOCAB(OCAB):
    """OCAB with its attention as one operator."""

    def cross_attention(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C), before the output projection."""
        out: Tensor = torch.ops.hatvid.overlap_attention(
            self.qkv(x),
            self.current_bias(tables),
            tables.height,
            tables.width,
            self.window_size,
            self.overlap_size,
            self.scale,
            self.num_heads,
        )
        return out


def fuse_attention(model: HAT) -> HAT:
    """A HAT that gives the same (up to rounding) with fewer and smaller passes over memory.

    It comes last, after padding and after precision. Not for training: the operators have
    no gradient; nor for export and compilers, who do not know them.

    Args:
        model: of any precision; it is not changed, and its parameters are shared.
    """
    fused = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    fused.drop_tables()
    for module in fused.modules():
        # A block keeps all that it has, whatever rewrites put there; only what it does between
        # its projections is another.
        if type(module) is WindowAttention:
            module.__class__ = FusedWindowAttention
        elif type(module) is OCAB:
            module.__class__ = FusedOCAB
    return fused
