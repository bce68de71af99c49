"""Attention in windows as operators: from the map of the qkv projection to that of the result.

``torch.ops.hatvid.window_attention`` and ``torch.ops.hatvid.overlap_attention``: on a GPU
Triton's kernels (:mod:`hatvid.model.window_kernels`), on a CPU plain PyTorch, on fake
tensors shapes alone. They have no gradient.

The kernels know shapes, and no strides: they read each operand from its first number on,
as if it were contiguous. One that is laid out otherwise would give a picture that is wrong
and looks nearly right. So the same checks stand before the kernels, the CPU's reference and
fake tensors; and the reference reads memory as the kernels do, so that what the checks let
through by mistake is wrong on a CPU too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hatvid.errors import EngineError

__all__ = ["overlap_attention", "window_attention"]

ALIGNED = 16
"""Bytes that a GPU loads at once; operands begin at a multiple."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""That the kernels compute with; the reference takes float64 too."""


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

    Raises:
        EngineError: an operand is not what is said above.
    """
    _check_windows(qkv, bias, height, width, window, shift, heads)
    batch, _, channels = qkv.shape
    rows, columns = height // window, width // window
    bias = _from_memory(bias, 4 if shift else 1, heads, window**2, window**2)
    grid = _from_memory(qkv, batch, height, width, channels).roll((-shift, -shift), (1, 2))
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
    above: int = 0,
    below: int = 0,
) -> Tensor:
    """Overlapping cross-attention between its two projections (paper, section 3.2.3).

    Args:
        qkv: as :func:`window_attention`.
        bias: (1, heads, M*M, Mo*Mo), contiguous.
        height: H; without ``above`` and ``below`` a multiple of the window.
        width: W, a multiple of the window.
        window: M, side of a window of queries.
        overlap: Mo, side of a window of keys, which are zero outside of the map.
        scale: factor of q k^T.
        heads: number of heads.
        above: rows of the map before the first window of queries: a map may be a band of rows
            of a higher one, with the rows around it that its windows of keys look at.
        below: rows of the map behind the last window of queries.

    Returns:
        (N, (H - above - below) * W, heads * D).

    Raises:
        EngineError: an operand is not what is said above.
    """
    _check_overlap(qkv, bias, height, width, window, overlap, heads, above, below)
    batch, _, channels = qkv.shape
    own = height - above - below
    rows, columns, margin = own // window, width // window, (overlap - window) // 2
    bias = _from_memory(bias, 1, heads, window**2, overlap**2)
    grid = _from_memory(qkv, batch, height, width, channels)
    q, kv = grid[:, above : above + own, :, : channels // 3], grid[..., channels // 3 :]
    q = q.reshape(batch, rows, window, columns, window, -1).transpose(2, 3)
    seen = F.pad(kv, (0, 0, margin, margin, margin - above, margin - below))
    seen = seen.unfold(1, overlap, window).unfold(2, overlap, window)
    keys = seen.permute(0, 1, 2, 4, 5, 3).reshape(-1, overlap**2, channels // 3 * 2)
    tokens = q.reshape(-1, window**2, channels // 3)
    k, v = keys.chunk(2, -1)
    out = _attention(tokens, k, v, bias[0], scale, heads)
    out = out.view(batch, rows, columns, window, window, -1).transpose(2, 3)
    return out.reshape(batch, own * width, -1)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, heads: int) -> Tensor:
    """(windows, tokens, heads * D) each -> that of q."""
    q, k, v = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=scale)
    return out.transpose(1, 2).flatten(2)


def _from_memory(operand: Tensor, *shape: int) -> Tensor:
    """What the kernels read: by shape alone, from the first number on."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return operand.as_strided(shape, strides, operand.storage_offset())


@window_attention.register_fake
def _window_of_fakes(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    shift: int,
    scale: float,
    heads: int,
) -> Tensor:
    _check_windows(qkv, bias, height, width, window, shift, heads, addresses=False)
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


@overlap_attention.register_fake
def _overlap_of_fakes(
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
    _check_overlap(qkv, bias, height, width, window, overlap, heads, above, below, addresses=False)
    return qkv.new_empty(len(qkv), (height - above - below) * width, qkv.shape[2] // 3)


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

    _check_windows(qkv, bias, height, width, window, shift, heads)
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
    above: int = 0,
    below: int = 0,
) -> Tensor:
    from hatvid.model.window_kernels import run_overlap

    _check_overlap(qkv, bias, height, width, window, overlap, heads, above, below)
    return run_overlap(qkv, bias, height, width, window, overlap, scale, heads, above, below)


def _check_windows(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    shift: int,
    heads: int,
    *,
    addresses: bool = True,
) -> None:
    """Raise EngineError unless :func:`window_attention` reads the right memory.

    Args:
        addresses: the operands have memory; fake ones have offsets in it only.
    """
    operator = "window_attention"
    _check_map(operator, qkv, (height, height), width, window, heads, addresses)
    _need(0 <= shift < window, operator, "shift", shift, f"0 to {window - 1}")
    kinds = 4 if shift else 1
    _check_bias(operator, bias, qkv, (kinds, heads, window**2, window**2), addresses)


def _check_overlap(
    qkv: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    window: int,
    overlap: int,
    heads: int,
    above: int,
    below: int,
    *,
    addresses: bool = True,
) -> None:
    """Raise EngineError unless :func:`overlap_attention` reads the right memory."""
    operator = "overlap_attention"
    for name, value in (("above", above), ("below", below)):
        _need(value >= 0, operator, name, value, "at least 0")
    own = height - above - below
    _check_map(operator, qkv, (height, own), width, window, heads, addresses)
    surrounds = overlap >= window and (overlap - window) % 2 == 0
    _need(surrounds, operator, "overlap", overlap, f"{window} and an even number more")
    _check_bias(operator, bias, qkv, (1, heads, window**2, overlap**2), addresses)


def _check_map(
    operator: str,
    qkv: Tensor,
    rows: tuple[int, int],
    width: int,
    window: int,
    heads: int,
    addresses: bool,
) -> None:
    """``rows``: of the map, and of its windows of queries."""
    height, own = rows
    for name, value in (("window", window), ("heads", heads)):
        _need(value >= 1, operator, name, value, "at least 1")
    kind = "height" if own == height else "height without the rows above and below"
    for name, value in ((kind, own), ("width", width)):
        fits = value >= 1 and value % window == 0
        _need(fits, operator, name, value, f"a multiple of the window, {window}")
    shape = tuple(qkv.shape)
    fits = len(shape) == 3 and shape[1] == height * width and shape[2] % (3 * heads) == 0
    expected = f"(N, {height * width}, a multiple of {3 * heads})"
    _need(fits and shape[2] > 0, operator, "the shape of qkv", shape, expected)
    known = qkv.dtype in DTYPES or (qkv.dtype == torch.float64 and qkv.device.type == "cpu")
    names = ", ".join(str(dtype) for dtype in DTYPES)
    _need(known, operator, "the dtype of qkv", qkv.dtype, f"one of {names}")
    _check_memory(operator, "qkv", qkv, addresses)


def _check_bias(
    operator: str, bias: Tensor, qkv: Tensor, shape: tuple[int, ...], addresses: bool
) -> None:
    has = tuple(bias.shape)
    _need(has == shape, operator, "the shape of bias", has, str(shape))
    _need(bias.dtype == qkv.dtype, operator, "the dtype of bias", bias.dtype, f"{qkv.dtype}")
    here = bias.device == qkv.device
    _need(here, operator, "the device of bias", bias.device, f"{qkv.device}, as qkv's")
    _check_memory(operator, "bias", bias, addresses)


def _check_memory(operator: str, name: str, operand: Tensor, addresses: bool) -> None:
    shape = operand.shape
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    flat = bool(operand.is_contiguous())
    _need(flat, operator, f"the stride of {name}", operand.stride(), str(strides))
    start = operand.storage_offset() * operand.element_size()
    start = operand.data_ptr() if addresses else start
    off = int(start) % ALIGNED
    _need(off == 0, operator, f"the address of {name}", off, f"0, modulo {ALIGNED} bytes")


def _need(fits: bool, operator: str, what: str, has: object, must: str) -> None:
    if not fits:
        raise EngineError(
            f"hatvid::{operator} cannot read its operands: {what} is {has}, and must be {must}; "
            "please report it, and use engine eager"
        )
