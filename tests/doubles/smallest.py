"""The smallest HATs there can be."""

from __future__ import annotations

from hatvid.model.hat import HATConfig

__all__ = ["smallest"]


def smallest(scale: int = 2, *, depths: tuple[int, ...] = (1,)) -> HATConfig:
    """With as many groups as there are depths."""
    return HATConfig(
        embed_dim=12,
        depths=depths,
        num_heads=(2,) * len(depths),
        num_feat=8,
        compress_ratio=3,
        squeeze_factor=12,
        upscale=scale,
    )
