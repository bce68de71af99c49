"""A HAT whose queries, keys and values come from projections of their own.

As published one projection makes all three, side by side. Compilers for CPUs then copy
each of them out of the rows before attention; from three projections they come as
attention reads them. The products are the same ones, in the same order.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hatvid.model.attention import WindowAttention, WindowTables
from hatvid.model.blocks import OCAB
from hatvid.model.hat import HAT

__all__ = ["separate_projections"]


class SeparateWindowAttention(WindowAttention):
    """(S)W-MSA with three projections in place of ``qkv``."""

    projections: nn.ModuleList

    def forward(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        order = tables.shifted if self.shift_size else tables.regular
        batch, area = x.shape[0], self.window_size**2
        bias = self.current_bias(tables)
        windows = order.partition(x)
        q, k, v = (project(windows) for project in self.projections)
        wide = q.shape[-1]
        by_kind = (t.view(batch, -1, area, wide).split(order.counts, dim=1) for t in (q, k, v))
        parts = []
        for kind, qkv in enumerate(zip(*by_kind, strict=True)):
            if order.counts[kind]:
                q, k, v = (part.reshape(-1, area, wide) for part in qkv)
                out = self.attend(q, k, v, bias[kind : kind + 1])
                parts.append(out.view(batch, -1, wide))
        return order.merge(self.proj(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]))


class SeparateOCAB(OCAB):
    """OCAB with three projections in place of ``qkv``."""

    projections: nn.ModuleList

    def cross_attention(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C), before the output projection."""
        q, k, v = (project(x) for project in self.projections)
        batch, wide = q.shape[0], q.shape[-1]
        out = self.attend(
            tables.regular.partition(q).view(-1, self.window_size**2, wide),
            tables.overlapping(k).view(-1, self.overlap_size**2, wide),
            tables.overlapping(v).view(-1, self.overlap_size**2, wide),
            self.current_bias(tables),
        )
        return tables.regular.merge(out.view(batch, -1, wide))


def separate_projections(model: HAT) -> HAT:
    """A HAT that gives the same with three projections in place of each ``qkv``.

    Args:
        model: float32 or float64; it is not changed. All parameters are shared: those of
            the three are views of what ``qkv`` has.

    Returns:
        A HAT in eval mode: for running, not for saving, as its state dict has other names.
    """
    separate = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    separate.drop_tables()
    for module in separate.modules():
        if type(module) is WindowAttention or type(module) is OCAB:
            module.projections = nn.ModuleList(_thirds(module.qkv))
            del module.qkv
            module.__class__ = SeparateOCAB if isinstance(module, OCAB) else SeparateWindowAttention
    return separate


def _thirds(packed: nn.Linear) -> list[nn.Linear]:
    """The projections to queries, to keys and to values."""
    thirds = []
    for part in range(3):
        # Without memory of its own: what it gets are views.
        third = nn.Linear(
            packed.in_features, packed.out_features // 3, packed.bias is not None, device="meta"
        )
        for name, parameter in packed.named_parameters():
            view = parameter.detach().chunk(3)[part]
            setattr(third, name, nn.Parameter(view, requires_grad=False))
        thirds.append(third)
    return thirds
