"""A HAT whose attention is computed in another form: the same function, up to rounding.

``triton``: the published network writes a shifted and partitioned copy of the map before
attention, and puts it back together behind it; for OCAB it unfolds keys and values to 2.25
times their size. With the operators of :mod:`hatvid.model.window_ops` none of these is
written. They have no gradient, and no compiler and no exporter knows them.

``split_qkv``: as published, one projection makes queries, keys and values, side by side.
Compilers for CPUs then copy each of them out of the rows before attention; from three
projections they come as attention reads them. The products are the same ones, in the same
order.
"""

from __future__ import annotations

import copy

from torch import nn

from hatvid.model.attention import AttentionForm, BiasedAttention
from hatvid.model.hat import HAT

__all__ = ["with_attention"]


def with_attention(model: HAT, attention: AttentionForm) -> HAT:
    """A HAT with another form of attention.

    It comes last, after padding and after precision.

    Args:
        model: with attention ``sdpa``, of any precision; for ``split_qkv`` float32 or
            float64. It is not changed. All parameters are shared: those of three
            projections are views of what ``qkv`` has.
        attention: of all its blocks.

    Returns:
        A HAT in eval mode: for running. One with ``split_qkv`` is not for saving, as its
        state dict has other names.
    """
    other = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    other.drop_tables()
    for module in other.modules():
        if isinstance(module, BiasedAttention):
            module.attention = attention
            if attention == "split_qkv":
                module.projections = nn.ModuleList(_thirds(module.qkv))
                del module.qkv
    return other


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
