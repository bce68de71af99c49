"""Weights of convolutions in channels-last order, as cuDNN reads them without a copy."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["channels_last_weights"]


def channels_last_weights[Network: nn.Module](network: Network) -> Network:
    """A copy whose convolutions have their weights in channels-last order.

    Weights alone: ``Module.to(memory_format=...)`` also reorders every other parameter and
    buffer of four dimensions, for example an attention's bias, which kernels index as it was.

    Args:
        network: it is not changed; all other parameters are shared.
    """
    shared: dict[int, object] = {id(p): p for p in network.parameters()}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            shared[id(module.weight)] = nn.Parameter(weight, requires_grad=False)
    return copy.deepcopy(network, shared)
