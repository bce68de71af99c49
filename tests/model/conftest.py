"""Networks to compare: ours and spandrel's copy of the published HAT, same weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
from redrawn import redraw
from spandrel.architectures.HAT import HAT as PublishedHAT
from torch import nn

from hatvid.model.hat import HAT, HATConfig

Pair = tuple[HAT, nn.Module]


def published(config: HATConfig) -> nn.Module:
    """The published network, fresh, in eval mode."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid")
        return PublishedHAT(
            in_chans=config.num_in_ch,
            embed_dim=config.embed_dim,
            depths=config.depths,
            num_heads=config.num_heads,
            window_size=config.window_size,
            compress_ratio=config.compress_ratio,
            squeeze_factor=config.squeeze_factor,
            conv_scale=config.conv_scale,
            overlap_ratio=config.overlap_ratio,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=config.qkv_bias,
            qk_scale=config.qk_scale,
            patch_norm=config.patch_norm,
            upscale=config.upscale,
            img_range=config.img_range,
            resi_connection=config.resi_connection,
            num_feat=config.num_feat,
        ).eval()


@pytest.fixture(scope="session")
def pair() -> Callable[[HATConfig], Pair]:
    """``pair(config)``: our network and the published one with redrawn weights, float64."""
    last: dict[HATConfig, Pair] = {}

    def make(config: HATConfig) -> Pair:
        if config not in last:
            last.clear()  # one pair at a time: a HAT-L in float64 is large
            theirs = published(config).double()
            redraw(theirs, seed=1)
            ours = HAT(config).double().eval()
            ours.load_state_dict(theirs.state_dict(), strict=True)
            last[config] = ours, theirs
        return last[config]

    return make


@pytest.fixture(scope="session")
def tiny() -> HATConfig:
    """A HAT with every part, small enough for any test."""
    return HATConfig(
        embed_dim=12,
        depths=(2, 2),
        num_heads=(2, 3),
        compress_ratio=3,
        squeeze_factor=4,
        num_feat=8,
        upscale=2,
    )
