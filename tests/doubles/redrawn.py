"""Networks with weights by which no part of them is too small to be seen in the output."""

from __future__ import annotations

import torch
from torch import nn

from hatvid.model.hat import HAT, HATConfig

__all__ = ["redraw", "redrawn"]


def redrawn(config: HATConfig, seed: int = 1) -> HAT:
    """A HAT for running, with weights from :func:`redraw`."""
    model = HAT(config).eval().requires_grad_(False)
    redraw(model, seed)
    return model


@torch.no_grad()
def redraw(module: nn.Module, seed: int) -> None:
    """Draw the weights of a HAT, ours or the published one, in place.

    Fresh weights would hide mistakes: bias tables near zero, LayerNorm gains of one and
    biases of zero let whole terms go missing without a trace in the output.
    """
    random = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        if name.endswith("relative_position_bias_table") or ".attention." in name:
            value.normal_(std=1.0, generator=random)
        elif "norm" in name and name.endswith("weight"):
            value.uniform_(0.5, 2.0, generator=random)
        elif name.endswith("bias"):
            value.normal_(std=0.3, generator=random)
        else:
            value.normal_(std=value[0].numel() ** -0.5, generator=random)
