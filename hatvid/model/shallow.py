"""A HAT that is as wide, and less deep: what is counted in place of the whole network."""

from __future__ import annotations

import copy

from torch import nn

from hatvid.model.blocks import RHAG
from hatvid.model.hat import HAT

__all__ = ["shallow"]


def shallow(model: HAT) -> HAT:
    """A HAT whose run takes as much memory for maps as that of ``model``, in fewer operators.

    Kept are, of the RHAGs of each kind (class, number of heads) the first, with its first two
    HABs (windows, and shifted windows) and its OCAB: what the others compute has the same
    shapes, and no map outlives them but the residuals that these have too.

    Args:
        model: as it was built, or rewritten. It is not changed, and all that is kept of it is
            shared: it is not for running.
    """
    memo: dict[int, object] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    kept: dict[tuple[type, int], RHAG] = {}
    for group in model.layers:
        assert isinstance(group, RHAG)
        blocks = group.residual_group.blocks
        memo[id(blocks)] = nn.ModuleList(list(blocks)[:2])
        kept.setdefault((type(group), blocks[0].attn.num_heads), group)  # type: ignore[union-attr,arg-type]
    memo[id(model.layers)] = nn.ModuleList(copy.deepcopy(group, memo) for group in kept.values())
    return copy.deepcopy(model, memo)
