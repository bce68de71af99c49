# mypy: disable-error-code="no-untyped-def"
"""Attention in windows as Triton kernels that read their tokens where they lie.

A window's tokens are found in the map by arithmetic on indices: no shifted, partitioned,
unfolded or padded map is ever written. Scores live in registers; the softmax is computed
block by block with a running maximum (Milakov and Gimelshein 2018, as in FlashAttention),
in fp32 whatever the map is in.

Both kernels are one program for a block of queries of one window and head. It differs where
keys come from:

- (shifted) windows: the same M x M tokens, of a map that wraps around; one of four biases
  by the window's place, as masked tokens are part of the bias
  (:meth:`hatvid.model.attention.WindowAttention.gather_bias`).
- overlapping windows: Mo x Mo tokens around it, zeros outside of the map.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

__all__ = ["Blocks", "blocks_for", "overlap_kernel", "run_overlap", "run_window", "window_kernel"]

Blocks = dict[str, int]
"""Sizes that a kernel is compiled with."""


def blocks_for(head_dim: int, itemsize: int) -> Blocks:
    """How much one program does at once.

    A block of 64 queries and 64 keys is 64 x 64 scores in fp32: 32 registers for each of 128
    threads, beside 16 of the result and the operands. A window of 16 x 16 is four
    such programs, so that a tile of 64 x 64 pixels is 384 of them for six heads. Larger blocks
    read keys less often, but those come from the L2 cache, and registers spill.

    Args:
        head_dim: channels of a head.
        itemsize: bytes of a number in the map.
    """
    return {
        "BLOCK_M": 64,
        "BLOCK_N": 64 if itemsize == 2 else 32,
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
    }


@triton.jit  # type: ignore[untyped-decorator]
def _attend(
    queries,  # first number of the queries of this picture and head
    keys,
    values,
    bias,
    out,
    query_tokens,  # (BLOCK_M,) where in the map
    query_numbers,  # (BLOCK_M,) in the window
    top,  # of the window of keys, may lie outside
    left,
    height,
    width,
    scale,
    stride,  # from token to token of the map
    out_stride,
    QUERIES: tl.constexpr,
    KEY_SIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WRAP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    KEYS: tl.constexpr = KEY_SIDE * KEY_SIDE
    channels = tl.arange(0, BLOCK_D)
    real = channels < HEAD_DIM
    asked = query_numbers < QUERIES
    at = query_tokens.to(tl.int64)
    q = tl.load(
        queries + at[:, None] * stride + channels[None, :],
        mask=asked[:, None] & real[None, :],
        other=0.0,
    )
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    result = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, KEYS, BLOCK_N):
        number = start + tl.arange(0, BLOCK_N)
        there = number < KEYS
        row = top + number // KEY_SIDE
        column = left + number % KEY_SIDE
        if WRAP:
            row = tl.where(row >= height, row - height, row)
            column = tl.where(column >= width, column - width, column)
            inside = there
        else:
            inside = there & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        token = (row * width + column).to(tl.int64)
        where = token[:, None] * stride + channels[None, :]
        known = inside[:, None] & real[None, :]
        k = tl.load(keys + where, mask=known, other=0.0)
        v = tl.load(values + where, mask=known, other=0.0)
        added = tl.load(
            bias + query_numbers[:, None] * KEYS + number[None, :],
            mask=asked[:, None] & there[None, :],
            other=0.0,
        ).to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale + added
        # In powers of two, which is what the hardware has: log2(e).
        scores = tl.where(there[None, :], scores * 1.4426950408889634, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        kept = tl.exp2(most - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * kept + tl.sum(weights, 1)
        result = result * kept[:, None]
        result += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = higher
    result = result / total[:, None]
    tl.store(
        out + at[:, None] * out_stride + channels[None, :],
        result.to(out.dtype.element_ty),
        mask=asked[:, None] & real[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def window_kernel(
    qkv,
    bias,
    out,
    height,
    width,
    scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(Shifted) window attention; a program for each window, head and block of queries."""
    AREA: tl.constexpr = WINDOW * WINDOW
    STRIDE: tl.constexpr = 3 * HEADS * HEAD_DIM
    rows, columns = height // WINDOW, width // WINDOW
    window = tl.program_id(0)
    head = tl.program_id(1)
    picture = (window // (rows * columns)).to(tl.int64)
    across = window % columns
    down = (window // columns) % rows
    kind = 0
    if SHIFT > 0:
        kind = (across == columns - 1).to(tl.int32) + 2 * (down == rows - 1).to(tl.int32)
    numbers = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    top, left = down * WINDOW + SHIFT, across * WINDOW + SHIFT
    row = top + numbers // WINDOW
    column = left + numbers % WINDOW
    row = tl.where(row >= height, row - height, row)
    column = tl.where(column >= width, column - width, column)
    first = qkv + picture * height * width * STRIDE + head * HEAD_DIM
    _attend(
        first,
        first + HEADS * HEAD_DIM,
        first + 2 * HEADS * HEAD_DIM,
        bias + (kind * HEADS + head) * AREA * AREA,
        out + picture * height * width * HEADS * HEAD_DIM + head * HEAD_DIM,
        row * width + column,
        numbers,
        top,
        left,
        height,
        width,
        scale,
        STRIDE,
        HEADS * HEAD_DIM,
        AREA,
        WINDOW,
        HEAD_DIM,
        True,
        BLOCK_M,
        BLOCK_N,
        BLOCK_D,
    )


@triton.jit  # type: ignore[untyped-decorator]
def overlap_kernel(
    qkv,
    bias,
    out,
    height,
    width,
    scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    OVERLAP: tl.constexpr,
    ABOVE: tl.constexpr,
    BELOW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Overlapping cross-attention; a program for each window, head and block of queries.

    Windows of queries leave out the first ABOVE rows of the map and the last BELOW, and so
    does what is written.
    """
    AREA: tl.constexpr = WINDOW * WINDOW
    MARGIN: tl.constexpr = (OVERLAP - WINDOW) // 2
    STRIDE: tl.constexpr = 3 * HEADS * HEAD_DIM
    rows, columns = (height - ABOVE - BELOW) // WINDOW, width // WINDOW
    window = tl.program_id(0)
    head = tl.program_id(1)
    picture = (window // (rows * columns)).to(tl.int64)
    top, left = ABOVE + ((window // columns) % rows) * WINDOW, (window % columns) * WINDOW
    numbers = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = qkv + picture * height * width * STRIDE + head * HEAD_DIM
    _attend(
        first,
        first + HEADS * HEAD_DIM,
        first + 2 * HEADS * HEAD_DIM,
        bias + head * AREA * OVERLAP * OVERLAP,
        # Tokens are counted from the map's first, which is not written: so this may lie before
        # the result, and what is added to it never does.
        out + (picture * rows * WINDOW - ABOVE) * width * HEADS * HEAD_DIM + head * HEAD_DIM,
        (top + numbers // WINDOW) * width + left + numbers % WINDOW,
        numbers,
        top - MARGIN,
        left - MARGIN,
        height,
        width,
        scale,
        STRIDE,
        HEADS * HEAD_DIM,
        AREA,
        OVERLAP,
        HEAD_DIM,
        False,
        BLOCK_M,
        BLOCK_N,
        BLOCK_D,
    )


def run_window(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    shift: int,
    scale: float,
    heads: int,
) -> Tensor:
    """See :func:`hatvid.model.window_ops.window_attention`."""
    return _run(window_kernel, qkv, bias, height, width, window, scale, heads, height, SHIFT=shift)


def run_overlap(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    overlap: int,
    scale: float,
    heads: int,
    above: int = 0,
    below: int = 0,
) -> Tensor:
    """See :func:`hatvid.model.window_ops.overlap_attention`."""
    sizes = {"OVERLAP": overlap, "ABOVE": above, "BELOW": below}
    rows = height - above - below
    return _run(overlap_kernel, qkv, bias, height, width, window, scale, heads, rows, **sizes)


def _run(
    kernel: Any,
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    scale: float,
    heads: int,
    rows: int,
    **sizes: int,
) -> Tensor:
    """Run a kernel; ``rows`` of the map are its windows of queries."""
    head_dim = qkv.shape[-1] // (3 * heads)
    out = qkv.new_empty(len(qkv), rows * width, heads * head_dim)
    blocks = blocks_for(head_dim, qkv.element_size())
    windows = len(qkv) * (rows // window) * (width // window)
    grid = (windows, heads, triton.cdiv(window**2, blocks["BLOCK_M"]))
    # Not the current device, if there are several GPUs, but that of the map.
    with torch.cuda.device_of(qkv):  # type: ignore[no-untyped-call]
        kernel[grid](
            qkv,
            bias,
            out,
            height,
            width,
            scale,
            HEADS=heads,
            HEAD_DIM=head_dim,
            WINDOW=window,
            **sizes,
            **blocks,
            num_warps=4,
        )
    return out
