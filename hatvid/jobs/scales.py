"""How many times larger a network is to make a picture, where nobody said."""

from __future__ import annotations

from hatvid.model.catalog import EMBEDDED
from hatvid.model.zoo import resolve_model
from hatvid.options import SizeOptions
from hatvid.video.resize import target_size

__all__ = ["own_scale", "scale_reaching"]


def own_scale(model: str) -> int:
    """What a model gives if nothing else is asked for.

    Raises:
        CheckpointError: it cannot be found, read, or trusted.
    """
    found = resolve_model(model)
    if found.scale is not None:
        return found.scale
    from hatvid.model.zoo import load_model  # torch, which only the file needs

    return load_model(model).scale


def scale_reaching(size: SizeOptions, width: int, height: int) -> int:
    """The smallest embedded scale that reaches a size, else the largest there is.

    Args:
        size: what is asked for.
        width: of the input, in pixels.
        height: likewise.
    """
    wide, high = target_size(width, height, 1, size)
    scales = sorted(model.scale for model in EMBEDDED)
    reach = [scale for scale in scales if scale * width >= wide and scale * height >= high]
    return reach[0] if reach else scales[-1]
