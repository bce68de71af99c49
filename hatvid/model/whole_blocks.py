"""The blocks of a HAT on a whole frame, in pieces, in place.

What a block computes is what :mod:`hatvid.model.blocks` computes, by the same
submodules; only the order differs. A residual stream is changed where it lies, so each
function says what it reads before it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatvid.model.attention import WindowTables
from hatvid.model.blocks import CAB, HAB, OCAB
from hatvid.model.window_ops import overlap_attention, window_attention

__all__ = ["CAB_HALO", "around", "hab_in_place", "ocab_in_place", "parts"]

CAB_HALO = 2
"""Rows beside a strip that CAB's two 3x3 convolutions look at."""


def parts(count: int, most: int, few: int | None = None) -> Iterator[tuple[int, int]]:
    """Cut ``range(count)`` into pieces of at most ``most``, as even as possible.

    Args:
        few: give so many of them alone, the first ones: no picture comes of it, but the
            memory that it takes can be counted by it.
    """
    pieces = -(-count // most)
    for i in range(pieces if few is None else min(pieces, few)):
        yield count * i // pieces, count * (i + 1) // pieces


def around(start: int, stop: int, halo: int, height: int) -> tuple[int, int]:
    """A strip with the rows beside it.

    Where the map ends the strip ends with it, so that a convolution's own zeros lie
    where they lie for the whole map, and nowhere within ``halo`` rows elsewhere.
    """
    return max(start - halo, 0), min(stop + halo, height)


def hab_in_place(
    block: HAB,
    x: Tensor,
    local: Tensor | None,
    tables: WindowTables,
    *,
    chunk: int,
    strip: int,
    few: int | None = None,
) -> Tensor | None:
    """x <- HAB(x).

    CAB reads all of x, in strips, before the first window is written. Each token lies in
    one window, so from there on a chunk of windows reads and writes its own tokens only.

    Args:
        block: its submodules may be of any dtypes; what they return is what is kept.
        x: (N, H*W, C), contiguous.
        local: (N, H*W, C), a map to overwrite, or None for a new one.
        tables: of the map.
        chunk: windows at a time.
        strip: rows at a time.
        few: as of :func:`parts`.

    Returns:
        ``local``, for the next block.
    """
    gate: Tensor | None = None
    if block.conv_block is not None:
        local, gate = _cab(block.conv_block, block.norm1, x, local, tables, strip, few)
    order = tables.shifted if block.attn.shift_size else tables.regular
    bias = block.attn.current_bias(tables)
    area = block.attn.window_size**2
    first = 0
    for kind, count in enumerate(order.counts):
        for start, stop in parts(count, max(chunk // x.shape[0], 1), few):
            index = order.gather[(first + start) * area : (first + stop) * area]
            tokens = x.index_select(1, index)
            attended = _self_attention(block, tokens, bias[kind : kind + 1])
            tokens = tokens + attended
            if local is not None and gate is not None:
                tokens = tokens + local.index_select(1, index) * gate * block.conv_scale
            del attended
            tokens = tokens + block.mlp(block.norm2(tokens))
            x.index_copy_(1, index.long(), tokens)
        first += count
    return local


def _self_attention(block: HAB, tokens: Tensor, bias: Tensor) -> Tensor:
    """(N, windows * M*M, C) -> the same, for windows of one kind."""
    attention, window = block.attn, block.attn.window_size
    qkv = attention.qkv(block.norm1(tokens))
    windows = qkv.view(-1, window**2, qkv.shape[-1])
    if attention.attention == "triton":
        # Each window is a map of its own: it was gathered in its order, shift and all.
        size = (window, window, window, 0)
        out = window_attention(windows, bias, *size, attention.scale, attention.num_heads)
    else:
        q, k, v = windows.chunk(3, dim=-1)
        out = attention.attend(q, k, v, bias)
    projected: Tensor = attention.proj(out.view(*tokens.shape[:2], -1))
    return projected


def _cab(
    block: CAB,
    norm: nn.Module,
    x: Tensor,
    local: Tensor | None,
    tables: WindowTables,
    strip: int,
    few: int | None,
) -> tuple[Tensor, Tensor]:
    """CAB up to its gate: (N, H*W, C), and the gate, (N, 1, C), of the mean over the map."""
    cab: Any = block.cab
    pool, *squeeze = cab[-1].attention
    grid = _grid(x, tables)
    height = tables.height
    total: Tensor | None = None
    for start, stop in parts(height, strip, few):
        low, high = around(start, stop, CAB_HALO, height)
        y = norm(grid[:, low:high]).permute(0, 3, 1, 2)
        for layer in cab[:-1]:
            y = layer(y)
        y = y[:, :, start - low : stop - low]
        if local is None:
            local = y.new_empty(x.shape[0], x.shape[1], y.shape[1])
        _grid(local, tables)[:, start:stop] = y.permute(0, 2, 3, 1)
        mean = pool(y)
        # A sum of many parts: never in 16 bits.
        part = mean.to(torch.promote_types(mean.dtype, torch.float32)) * ((stop - start) / height)
        total = part if total is None else total + part
    assert local is not None
    assert total is not None
    gate = total.to(mean.dtype)
    for layer in squeeze:
        gate = layer(gate)
    return local, gate.flatten(1).unsqueeze(1)


def ocab_in_place(
    block: OCAB, x: Tensor, tables: WindowTables, *, chunk: int, few: int | None = None
) -> None:
    """x <- OCAB(x).

    Keys and values of a window reach into the rows above and below it. Going from top to
    bottom, queries, keys and values are kept for a band of rows: some rows of windows, with
    the rows around them that they look at. Those below are computed before anything there is
    written, and the last of a band serve the next band too. So each token goes through the
    linear layer once, and no second map is needed.

    Args:
        block: its submodules may be of any dtypes.
        x: (N, H*W, C), contiguous.
        tables: of the map.
        chunk: windows at a time: whole rows of them, or, if it is less, a part of one row.
        few: as of :func:`parts`.
    """
    window, margin = block.window_size, tables.margin
    grid = _grid(x, tables)
    bias = block.current_bias(tables)
    columns = tables.width // window
    most = max(chunk // x.shape[0], 1)
    kept: Tensor | None = None
    start = done = 0  # rows of the map: the band's first, and those behind the linear layer
    for first, last in parts(tables.height // window, max(most // columns, 1), few):
        top, bottom = first * window, last * window
        until = max(min(bottom + margin, tables.height), done)
        band = block.qkv(block.norm1(grid[:, done:until]))
        if kept is not None:
            band = torch.cat((kept, band), dim=1)
        done = until
        beyond = top - start, until - bottom
        own = grid[:, top:bottom]
        attended = _attended(block, band, *beyond, bias) if block.attention == "triton" else None
        for left, right in parts(columns, most, few):
            across = slice(left * window, right * window)
            out = (
                _cross_attention(block, band, *beyond, left, right, margin, bias)
                if attended is None
                else attended[:, :, across]
            )
            tokens = own[:, :, across]
            tokens = tokens + block.proj(out)
            tokens = tokens + block.mlp(block.norm2(tokens))
            own[:, :, across] = tokens
        if bottom < tables.height:
            next_start = max(bottom - margin, 0)
            kept = band[:, next_start - start :].clone()
            start = next_start
        del band, attended, out


def _attended(block: OCAB, band: Tensor, above: int, below: int, bias: Tensor) -> Tensor:
    """Rows of windows, by the operator: (N, rows, W, 3C) -> (N, rows - above - below, W, C)."""
    batch, height, width = band.shape[:3]
    size = (height, width, block.window_size, block.overlap_size)
    tokens: Tensor = overlap_attention(
        band.flatten(1, 2), bias, *size, block.scale, block.num_heads, above, below
    )
    return tokens.view(batch, height - above - below, width, -1)


def _cross_attention(
    block: OCAB,
    band: Tensor,
    above: int,
    below: int,
    left: int,
    right: int,
    margin: int,
    bias: Tensor,
) -> Tensor:
    """Some columns of windows: (N, rows, W, 3C) -> (N, rows - above - below, n*M, C).

    Args:
        band: rows of windows, with rows around them.
        above: rows of the band before the first window.
        below: rows of the band behind the last window.
        left: the first column of windows.
        right: behind the last.
        margin: how far keys and values reach beyond a window, into zeros where the band ends.
        bias: as of ``attend``.
    """
    window, overlap = block.window_size, block.overlap_size
    batch, high, wide, dim = *band.shape[:3], band.shape[3] // 3
    own, count = high - above - below, right - left
    q = band[:, above : above + own, left * window : right * window, :dim]
    q = q.reshape(batch, own // window, window, count, window, dim).transpose(2, 3)
    west, east = left * window - margin, right * window + margin
    # Zeros stand around the map where keys and values are: no bias there.
    seen = F.pad(
        band[:, :, max(west, 0) : min(east, wide), dim:],
        (0, 0, max(-west, 0), max(east - wide, 0), margin - above, margin - below),
    )
    kv = seen.unfold(1, overlap, window).unfold(2, overlap, window)  # (N, rows, n, 2C, Mo, Mo)
    k, v = kv.permute(0, 1, 2, 4, 5, 3).reshape(-1, overlap**2, 2 * dim).chunk(2, dim=-1)
    out = block.attend(q.reshape(-1, window**2, dim), k, v, bias)
    out = out.view(batch, own // window, count, window, window, dim).transpose(2, 3)
    return out.flatten(3, 4).flatten(1, 2)


def _grid(x: Tensor, tables: WindowTables) -> Tensor:
    """(N, H*W, C) -> (N, H, W, C), a view."""
    return x.view(x.shape[0], tables.height, tables.width, x.shape[2])
