"""The blocks of a HAT on a whole frame, in pieces, in place.

What a block computes is what :mod:`hatvid.model.blocks` computes, by the same
submodules; only the order differs. A residual stream is changed where it lies, so each
function says what it reads before it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hatvid.model.attention import WindowTables
from hatvid.model.blocks import CAB, HAB, OCAB

__all__ = ["CAB_HALO", "around", "hab_in_place", "ocab_in_place", "parts"]

CAB_HALO = 2
"""Rows beside a strip that CAB's two 3x3 convolutions look at."""


def parts(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut ``range(count)`` into pieces of at most ``most``, as even as possible."""
    pieces = -(-count // most)
    for i in range(pieces):
        yield count * i // pieces, count * (i + 1) // pieces


def around(start: int, stop: int, halo: int, height: int) -> tuple[int, int]:
    """A strip with the rows beside it.

    Where the map ends the strip ends with it, so that a convolution's own zeros lie
    where they lie for the whole map, and nowhere within ``halo`` rows elsewhere.
    """
    return max(start - halo, 0), min(stop + halo, height)


def hab_in_place(
    block: HAB, x: Tensor, local: Tensor | None, tables: WindowTables, *, chunk: int, strip: int
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

    Returns:
        ``local``, for the next block.
    """
    gate: Tensor | None = None
    if block.conv_block is not None:
        local, gate = _cab(block.conv_block, block.norm1, x, local, tables, strip)
    order = tables.shifted if block.attn.shift_size else tables.regular
    bias = block.attn.current_bias(tables)
    area = block.attn.window_size**2
    first = 0
    for kind, count in enumerate(order.counts):
        for start, stop in parts(count, max(chunk // x.shape[0], 1)):
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
    qkv = block.attn.qkv(block.norm1(tokens))
    q, k, v = qkv.view(-1, block.attn.window_size**2, qkv.shape[-1]).chunk(3, dim=-1)
    out: Tensor = block.attn.proj(block.attn.attend(q, k, v, bias).view(*tokens.shape[:2], -1))
    return out


def _cab(
    block: CAB,
    norm: nn.Module,
    x: Tensor,
    local: Tensor | None,
    tables: WindowTables,
    strip: int,
) -> tuple[Tensor, Tensor]:
    """CAB up to its gate: (N, H*W, C), and the gate, (N, 1, C), of the mean over the map."""
    cab: Any = block.cab
    pool, *squeeze = cab[-1].attention
    grid = _grid(x, tables)
    height = tables.height
    total: Tensor | None = None
    for start, stop in parts(height, strip):
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


def ocab_in_place(block: OCAB, x: Tensor, tables: WindowTables, *, chunk: int) -> None:
    """x <- OCAB(x).

    Keys and values of a row of windows reach into the rows above and below. Going from
    top to bottom, queries, keys and values are kept for the Mo rows that one row of windows
    looks at: those below it are computed before anything there is written, and the lowest
    2 * margin rows serve the next row of windows too. So each token goes through the
    linear layer once, and no second map is needed.

    Args:
        block: its submodules may be of any dtypes.
        x: (N, H*W, C), contiguous.
        tables: of the map.
        chunk: windows at a time; never more than lie beside each other.
    """
    window, margin = block.window_size, tables.margin
    grid = _grid(x, tables)
    bias = block.current_bias(tables)
    columns = tables.width // window
    band: Tensor | None = None
    done = 0  # rows of the map that went through the linear layer
    for row in range(tables.height // window):
        until = min((row + 1) * window + margin, tables.height)
        fresh = block.qkv(block.norm1(grid[:, done:until]))
        if band is None:
            # Zeros stand around the map where keys and values are: no bias there.
            band = fresh.new_zeros(
                x.shape[0], block.overlap_size, tables.width + 2 * margin, fresh.shape[-1]
            )
            top = margin
        else:
            top = 2 * margin
            band[:, :top] = band[:, window:].clone()
        bottom = top + until - done
        band[:, top:bottom, margin : margin + tables.width] = fresh
        band[:, bottom:].zero_()
        done = until
        del fresh
        own = grid[:, row * window : (row + 1) * window]
        for start, stop in parts(columns, max(chunk // x.shape[0], 1)):
            tokens = own[:, :, start * window : stop * window]
            seen = band[:, :, start * window : stop * window + 2 * margin]
            tokens = tokens + block.proj(_cross_attention(block, seen, margin, bias))
            tokens = tokens + block.mlp(block.norm2(tokens))
            own[:, :, start * window : stop * window] = tokens


def _cross_attention(block: OCAB, seen: Tensor, margin: int, bias: Tensor) -> Tensor:
    """Windows beside each other: (N, Mo, n*M + 2*margin, 3C) -> (N, M, n*M, C)."""
    window, overlap = block.window_size, block.overlap_size
    batch, _, wide, dim = *seen.shape[:3], seen.shape[3] // 3
    count = (wide - 2 * margin) // window
    q = seen[:, margin : margin + window, margin : wide - margin, :dim]
    q = q.reshape(batch, window, count, window, dim).transpose(1, 2).reshape(-1, window**2, dim)
    kv = seen[..., dim:].unfold(2, overlap, window)  # (N, Mo, n, 2C, Mo)
    k, v = kv.permute(0, 2, 1, 4, 3).reshape(-1, overlap**2, 2 * dim).chunk(2, dim=-1)
    out = block.attend(q, k, v, bias).view(batch, count, window, window, dim)
    return out.transpose(1, 2).flatten(2, 3)


def _grid(x: Tensor, tables: WindowTables) -> Tensor:
    """(N, H*W, C) -> (N, H, W, C), a view."""
    return x.view(x.shape[0], tables.height, tables.width, x.shape[2])
