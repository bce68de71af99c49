"""Does an engine give the same bits for the same tile, in whatever slot of a batch?"""

from __future__ import annotations

import torch

from hatvid.engine.base import Engine
from hatvid.engine.fidelity import probe

__all__ = ["is_repeatable"]


def is_repeatable(engine: Engine) -> bool:
    """Run one tile twice: in every second slot of a full batch, then in the others.

    Beside it lie others, each time different ones. A batch of one runs the same twice.

    Returns:
        Whether the results of all slots have the same bytes.
    """
    spec = engine.spec
    pictures = probe(spec)
    tile, first = pictures[0], None
    for turn in range(2):
        batch = pictures.roll(turn + 1, -1).flip(turn - 2)
        mine = slice(turn % min(2, spec.batch), None, 2)
        batch[mine] = tile
        for larger in engine.run(batch)[mine].view(torch.int32):
            if first is None:
                first = larger.clone()
            elif not torch.equal(first, larger):
                return False
    return True
