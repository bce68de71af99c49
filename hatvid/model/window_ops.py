"""Attention in windows as operators: from the map of the qkv projection to that of the result.

``torch.ops.hatvid.window_attention`` and ``torch.ops.hatvid.overlap_attention``: on a GPU
Triton's kernels (:mod:`hatvid.model.window_kernels`), on a CPU plain PyTorch, on fake
tensors shapes alone. They have no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["overlap_attention", "window_attention"]


@torch.library.custom_op("hatvid::window_attention", mutates_args=(), device_types="cpu")
def window_attention(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    shift: int,
    scale: float,
    heads: int,
) -> Tensor:
    """(S)W-MSA between its two projections (paper, section 3.2.2).

    Args:
        qkv: (N, H*W, 3 * heads * D), row by row, contiguous: all queries of a token, head by
            head, then keys, then values.
        bias: (kinds, heads, M*M, M*M), contiguous: one kind without a shift, else four, as
            :meth:`hatvid.model.attention.WindowAttention.gather_bias`.
        height: H, a multiple of the window.
        width: W, likewise.
        window: M.
        shift: how far the map is rolled up and left; 0 for W-MSA.
        scale: factor of q k^T.
        heads: number of heads.

    Returns:
        (N, H*W, heads * D).
    """
    batch, _, channels = qkv.shape
    rows, columns = height // window, width // window
    grid = qkv.view(batch, height, width, channels).roll((-shift, -shift), (1, 2))
    windows = grid.view(batch, rows, window, columns, window, channels).transpose(2, 3)
    out = qkv.new_empty(batch, rows, columns, window, window, channels // 3)
    # The windows of one kind lie beside each other: all but the last, or the last.
    ends = ((slice(None, -1), slice(-1, None)),) * 2 if shift else ((slice(None),),) * 2
    for kind, (down, across) in enumerate((d, a) for d in ends[0] for a in ends[1]):
        part = windows[:, down, across]
        tokens = part.reshape(-1, window**2, channels)
        if len(tokens):
            q, k, v = tokens.chunk(3, -1)
            attended = _attention(q, k, v, bias[kind], scale, heads)
            out[:, down, across] = attended.view(*part.shape[:-1], -1)
    merged = out.transpose(2, 3).reshape(batch, height, width, -1)
    return merged.roll((shift, shift), (1, 2)).flatten(1, 2).contiguous()


@torch.library.custom_op("hatvid::overlap_attention", mutates_args=(), device_types="cpu")
def overlap_attention(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    overlap: int,
    scale: float,
    heads: int,
) -> Tensor:
    """Overlapping cross-attention between its two projections (paper, section 3.2.3).

    Args:
        qkv: as :func:`window_attention`.
        bias: (1, heads, M*M, Mo*Mo), contiguous.
        height: H, a multiple of the window.
        width: W, likewise.
        window: M, side of a window of queries.
        overlap: Mo, side of a window of keys, which are zero outside of the map.
        scale: factor of q k^T.
        heads: number of heads.

    Returns:
        (N, H*W, heads * D).
    """
    batch, _, channels = qkv.shape
    rows, columns, margin = height // window, width // window, (overlap - window) // 2
    grid = qkv.view(batch, height, width, channels)
    q, kv = grid[..., : channels // 3], grid[..., channels // 3 :]
    q = q.reshape(batch, rows, window, columns, window, -1).transpose(2, 3)
    seen = F.pad(kv, (0, 0, margin, margin, margin, margin))
    seen = seen.unfold(1, overlap, window).unfold(2, overlap, window)
    keys = seen.permute(0, 1, 2, 4, 5, 3).reshape(-1, overlap**2, channels // 3 * 2)
    tokens = q.reshape(-1, window**2, channels // 3)
    k, v = keys.chunk(2, -1)
    out = _attention(tokens, k, v, bias[0], scale, heads)
    out = out.view(batch, rows, columns, window, window, -1).transpose(2, 3)
    return out.reshape(batch, height * width, -1)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, heads: int) -> Tensor:
    """(windows, tokens, heads * D) each -> that of q."""
    q, k, v = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=scale)
    return out.transpose(1, 2).flatten(2)


@window_attention.register_fake
@overlap_attention.register_fake
def _shape(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    other: int,
    scale: float,
    heads: int,
) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


@window_attention.register_kernel("cuda")
def _window_on_cuda(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    shift: int,
    scale: float,
    heads: int,
) -> Tensor:
    from hatvid.model.window_kernels import run_window  # Triton is not everywhere

    return run_window(qkv, bias, height, width, window, shift, scale, heads)


@overlap_attention.register_kernel("cuda")
def _overlap_on_cuda(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    overlap: int,
    scale: float,
    heads: int,
) -> Tensor:
    from hatvid.model.window_kernels import run_overlap

    return run_overlap(qkv, bias, height, width, window, overlap, scale, heads)
