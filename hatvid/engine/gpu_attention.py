"""What ``scaled_dot_product_attention`` is on an NVIDIA GPU, told on tensors without contents."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["GpuAttention", "gpu_attention", "takes_fused"]

aten = torch.ops.aten


def takes_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    """Whether PyTorch has one kernel for an attention.

    Flash attention takes no bias. The memory-efficient kernel and cuDNN's take one, of q's
    dtype, if vectors of 16 bytes fit: head sizes of a multiple of 8 (fp32: 4), the last axis
    dense, each row and the beginning on 16 bytes (``sdp_utils.cpp``, PyTorch 2.14).

    Args:
        q: (N, heads, queries, D).
        k: (N, heads, keys, D).
        v: (N, heads, keys, D).
        bias: broadcasts to (N, heads, queries, keys).
    """
    given = [t for t in (q, k, v, bias) if t is not None]
    vector = 16 // q.element_size()
    return all(
        t.dtype == q.dtype
        and t.stride(-1) == 1
        and t.shape[-1] % vector == 0
        and t.storage_offset() % vector == 0
        and all(step % vector == 0 for step in t.stride()[:-1])
        for t in given
    )


def gpu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, bool]:
    """In place of ``scaled_dot_product_attention``, on fake tensors of any device.

    Returns:
        Its result, and whether one kernel makes it; else the operators of PyTorch's MATH path
        ran, with the scores as tensors.
    """
    if takes_fused(q, k, v, attn_mask):
        # The kernel writes (N, queries, heads, D).
        heads, queries = q.shape[-3:-1]
        out = q.new_empty((*q.shape[:-3], queries, heads, v.shape[-1])).transpose(-3, -2)
        return out, True
    math: Tensor = aten._scaled_dot_product_attention_math.default(
        q, k, v, attn_mask, dropout_p, is_causal, None, scale=scale
    )[0]
    return math, False


class GpuAttention(TorchFunctionMode):
    """Attention as on a GPU, whatever device fake tensors say that they are on."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return gpu_attention(*args, **(kwargs or {}))[0]
        return func(*args, **(kwargs or {}))
