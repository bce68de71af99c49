"""Does an engine give the same bits for the same tile, whenever and beside whatever it comes?"""

from __future__ import annotations

import torch

from hatvid.engine.base import Engine
from hatvid.engine.fidelity import probe

__all__ = ["is_repeatable"]


def is_repeatable(engine: Engine) -> bool:
    """Run full batches in which one half of the tiles stays where it is and the other half
    is exchanged, then the other way round; a batch of one runs the same twice.

    Whether bits depend on the slot in the batch is not asked: they do in common networks.

    Returns:
        Whether what stayed came out with the same bytes each time.
    """
    tiles = probe(engine.spec)
    first = engine.run(tiles).view(torch.int32).clone()
    for start in range(min(2, engine.spec.batch)):
        others = 1 - tiles.flip(-2 + start)  # other means, too
        others[start::2] = tiles[start::2]
        again = engine.run(others).view(torch.int32)
        if not torch.equal(first[start::2], again[start::2]):
            return False
    return True
