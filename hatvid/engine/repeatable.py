"""Does an engine give the same bits for the same tile, whenever and beside whatever it comes?"""

from __future__ import annotations

import torch

from hatvid.engine.base import Engine
from hatvid.engine.fidelity import probe

__all__ = ["is_repeatable"]


def is_repeatable(engine: Engine, slots: int) -> bool:
    """Run full batches of a test picture: one half of the tiles is exchanged, then the other;
    a batch of one runs the same twice.

    Args:
        slots: places in the batch at which a tile may get bits of its own; one says that
            it may in none, so tiles change places, too.

    Returns:
        Whether what was not exchanged came out with the same bytes each time.
    """
    tiles = probe(engine.spec)
    first = engine.run(tiles).view(torch.int32).clone()
    shift = 1 if slots == 1 else 0
    for start in range(min(2, engine.spec.batch)):
        others = 1 - tiles.flip(-2 + start)  # other means, too
        others[start::2] = tiles[start::2]
        again = engine.run(others.roll(shift, 0)).roll(-shift, 0).view(torch.int32)
        if not torch.equal(first[start::2], again[start::2]):
            return False
    return True
