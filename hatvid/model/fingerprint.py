"""Tell one network from another."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

__all__ = ["state_dict_hash"]


def state_dict_hash(module: nn.Module) -> str:
    """Tell one network from another, for the keys of caches.

    Covers each tensor of the state dict (name, dtype, shape, bytes), the config if it
    has one, and each submodule's class and plain numbers that shape its result, which
    a rewrite of a built model may change.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    digest = hashlib.sha256(repr(getattr(module, "config", None)).encode())
    for name, part in module.named_modules():
        if name.split(".")[0] == "tables":  # depends on the input's size, not on the network
            continue
        numbers = {
            key: getattr(part, key)
            for key in ("conv_scale", "eps", "negative_slope", "scale", "shift_size")
            if hasattr(part, key)
        }
        digest.update(f"{name} {type(part).__qualname__} {numbers}\n".encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()
