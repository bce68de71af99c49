"""Windows, relative position, and the two attentions of HAT.

The paper (arXiv 2205.04437, section 3) attends in three ways: W-MSA in windows of
M x M pixels, SW-MSA in windows shifted by M/2, and overlapping cross-attention, in
which a window of M x M queries looks at a larger window of keys and values. Feature
maps travel as tokens, (N, H*W, C), row by row.

How tokens fall into windows depends on H and W only, so it is worked out once per
shape, in :class:`WindowTables`, and applied by ``index_select``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatvid.model.window_ops import overlap_attention, window_attention

__all__ = [
    "AttentionForm",
    "BiasedAttention",
    "OverlapAttention",
    "WindowAttention",
    "WindowOrder",
    "WindowTables",
    "overlap_position_index",
    "relative_position_index",
    "shift_masks",
]

AttentionForm = Literal["sdpa", "triton", "split_qkv"]
"""How attention is computed: by PyTorch's ``scaled_dot_product_attention`` on windows that
were cut out of the map; by this project's operators, which read them where they lie; or as
the first, from three projections in place of one (:mod:`hatvid.model.attention_form`)."""

MASKED = -100.0
"""Added to the score of a pair of tokens that are neighbours only because the
shifted map wraps around; the published network's value."""


def _positions(size: int) -> Tensor:
    """(2, size*size): row and column of each token of a window."""
    axis = torch.arange(size)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)


def relative_position_index(window_size: int) -> Tensor:
    """Which row of the bias table belongs to a (query, key) pair of one window.

    Returns:
        (M*M, M*M) int64 in [0, (2M-1)^2).
    """
    where = _positions(window_size)
    offset: Tensor = where[:, :, None] - where[:, None, :] + window_size - 1
    return offset[0] * (2 * window_size - 1) + offset[1]


def overlap_position_index(window_size: int, overlap_size: int) -> Tensor:
    """The same for M x M queries and Mo x Mo keys, as published.

    Part of the published numbers are negative and reach their row by wrapping
    around: modulo (M+Mo-1)^2 each is a row of the table, and only so.

    Returns:
        (M*M, Mo*Mo) int64.
    """
    queries, keys = _positions(window_size), _positions(overlap_size)
    offset: Tensor = keys[:, None, :] - queries[:, :, None] + window_size - overlap_size + 1
    return offset[0] * (window_size + overlap_size - 1) + offset[1]


def shift_masks(window_size: int, shift_size: int) -> Tensor:
    """What is added to the scores of SW-MSA, for the four kinds of window.

    After the cyclic shift only the last column and the last row of windows hold
    tokens from opposite edges of the map. The kinds, in order: interior, right,
    bottom, corner.

    Returns:
        (4, 1, M*M, M*M) float32, 0 or -100.
    """
    rows, columns = (_positions(window_size) >= window_size - shift_size).long()
    none = torch.zeros_like(rows)
    parts = torch.stack((none, columns, rows, 2 * rows + columns))
    apart = parts[:, :, None] != parts[:, None, :]
    return torch.zeros(apart.shape).masked_fill(apart, MASKED).unsqueeze(1)


class WindowOrder(nn.Module):
    """The tokens of an H x W map in the order of its windows, and back.

    Cyclic shift, partition into windows, and putting windows of one kind beside
    each other are one permutation of the tokens.

    Args:
        height: of the map, a multiple of ``window_size``.
        width: of the map, a multiple of ``window_size``.
        window_size: M.
        shift_size: how far the map is rolled up and left; 0 for W-MSA.

    Attributes:
        counts: windows of each kind: one number without a shift, else four, in the
            order of :func:`shift_masks`; a kind may have none.
    """

    gather: Tensor
    scatter: Tensor

    def __init__(self, height: int, width: int, window_size: int, shift_size: int) -> None:
        super().__init__()
        rows, columns = height // window_size, width // window_size
        tokens = torch.arange(height * width, dtype=torch.int32)
        grid = tokens.view(height, width).roll((-shift_size, -shift_size), (0, 1))
        windows = grid.view(rows, window_size, columns, window_size).transpose(1, 2)
        if shift_size:
            kinds = (windows[:-1, :-1], windows[:-1, -1:], windows[-1:, :-1], windows[-1:, -1:])
            self.counts = [(rows - 1) * (columns - 1), rows - 1, columns - 1, 1]
            order = torch.cat([kind.flatten() for kind in kinds])
        else:
            self.counts = [rows * columns]
            order = windows.flatten()
        back = torch.empty_like(order).scatter_(0, order.long(), tokens)
        self.register_buffer("gather", order, persistent=False)
        self.register_buffer("scatter", back, persistent=False)

    def partition(self, x: Tensor) -> Tensor:
        """(N, H*W, C), row by row -> (N, H*W, C), window by window."""
        return x.index_select(1, self.gather)

    def merge(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`partition`."""
        return x.index_select(1, self.scatter)


class WindowTables(nn.Module):
    """All that attention needs to know about one H x W map; shared by all blocks.

    Args:
        height: H of the map, a multiple of ``window_size``.
        width: W of the map, a multiple of ``window_size``.
        window_size: M, side of a window of queries.
        overlap_size: Mo, side of a window of keys and values in OCAB.
        index_sa: (M*M, M*M), as :func:`relative_position_index` (the default).
        index_oca: (M*M, Mo*Mo), as :func:`overlap_position_index` (the default).

    Raises:
        ValueError: H or W is no multiple of the window, or Mo - M is odd or negative.
    """

    overlap: Tensor
    index_sa: Tensor
    index_oca: Tensor
    masks: Tensor

    def __init__(
        self,
        height: int,
        width: int,
        window_size: int = 16,
        overlap_size: int = 24,
        index_sa: Tensor | None = None,
        index_oca: Tensor | None = None,
    ) -> None:
        super().__init__()
        if min(height, width) < 1 or height % window_size or width % window_size:
            raise ValueError(f"a map of {height}x{width} is no grid of windows of {window_size}")
        self.margin, odd = divmod(overlap_size - window_size, 2)
        if self.margin < 0 or odd:
            raise ValueError(f"overlap windows of {overlap_size} do not surround {window_size}")
        self.height, self.width = height, width
        self.regular = WindowOrder(height, width, window_size, 0)
        self.shifted = WindowOrder(height, width, window_size, window_size // 2)

        # Tokens of the map with its zero border, window by window, windows overlapping.
        tall, wide = height + 2 * self.margin, width + 2 * self.margin
        grid = torch.arange(tall * wide, dtype=torch.int32).view(tall, wide)
        grid = grid.unfold(0, overlap_size, window_size).unfold(1, overlap_size, window_size)
        self.register_buffer("overlap", grid.flatten(), persistent=False)

        if index_sa is None:
            index_sa = relative_position_index(window_size)
        if index_oca is None:
            index_oca = overlap_position_index(window_size, overlap_size)
        rows = (window_size + overlap_size - 1) ** 2
        self.register_buffer("index_sa", index_sa, persistent=False)
        self.register_buffer("index_oca", index_oca % rows, persistent=False)
        masks = shift_masks(window_size, window_size // 2)
        self.register_buffer("masks", masks, persistent=False)

    def overlapping(self, x: Tensor) -> Tensor:
        """Cut overlapping windows out of a map with zeros around it.

        Args:
            x: (N, H*W, C), row by row.

        Returns:
            (N, windows * Mo*Mo, C); neighbouring windows share tokens.
        """
        margin = self.margin
        grid = x.reshape(x.shape[0], self.height, self.width, x.shape[2])
        grid = F.pad(grid, (0, 0, margin, margin, margin, margin))
        return grid.flatten(1, 2).index_select(1, self.overlap)


class BiasedAttention(nn.Module):
    """What both attentions share: heads, scale, and the relative position bias.

    Attributes:
        attention: how it is computed; see
            :func:`hatvid.model.attention_form.with_attention`, which sets it.
        projections: to queries, keys and values, in place of ``qkv``; there with
            ``split_qkv`` only.
    """

    bias: Tensor | None
    attention: AttentionForm = "sdpa"
    projections: nn.ModuleList

    def __init__(
        self, dim: int, num_heads: int, table_rows: int, qk_scale: float | None, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty(table_rows, num_heads))
        nn.init.normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.register_buffer("bias", None, persistent=False)

    def gather_bias(self, tables: WindowTables) -> Tensor:
        """Look the bias up in the table: (kinds, heads, queries, keys)."""
        raise NotImplementedError

    def prepare(self, tables: WindowTables) -> None:
        """Keep the gathered bias; it is used outside training until :meth:`drop`."""
        with torch.no_grad():
            self.bias = self.gather_bias(tables)

    def drop(self) -> None:
        """Forget the kept bias, as the table is about to change."""
        self.bias = None

    def current_bias(self, tables: WindowTables) -> Tensor:
        """The kept bias; in training, or without one, the bias gathered anew."""
        return self.gather_bias(tables) if self.training or self.bias is None else self.bias

    def _linears(self) -> list[Any]:
        """The projection to queries, keys and values side by side; or one to each."""
        return list(self.projections) if self.attention == "split_qkv" else [self.qkv]

    def _lookup(self, index: Tensor) -> Tensor:
        return self.relative_position_bias_table[index].permute(2, 0, 1).unsqueeze(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """softmax(scale * q k^T + bias) v, for each window and head.

        Args:
            q: (windows, queries, C).
            k: (windows, keys, C).
            v: (windows, keys, C).
            bias: (1, heads, queries, keys): one for all windows, never one each.

        Returns:
            (windows, queries, C).
        """
        heads = (self.num_heads, q.shape[-1] // self.num_heads)
        q, k, v = (t.reshape(*t.shape[:2], *heads).transpose(1, 2) for t in (q, k, v))
        if bias.requires_grad and bias.device.type == "cpu":
            # No fused kernel learns a bias there, and what stands in for it asks each row
            # of scores whether all of it is -inf: a tenth of a training step.
            scores = (q * self.scale @ k.transpose(-2, -1)).add_(bias)
            out = scores.softmax(-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return out.transpose(1, 2).flatten(2)


class WindowAttention(BiasedAttention):
    """(S)W-MSA: self-attention inside windows (section 3.2.2 of the paper, from Swin).

    Args:
        dim: C, channels of a token.
        num_heads: divides ``dim``.
        window_size: M.
        shift_size: 0 for W-MSA, M // 2 for SW-MSA.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        qk_scale: factor of q k^T; None takes head_dim ** -0.5.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 16,
        shift_size: int = 0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__(dim, num_heads, (2 * window_size - 1) ** 2, qk_scale, qkv_bias)
        self.window_size = window_size
        self.shift_size = shift_size
        self.proj = nn.Linear(dim, dim)

    def gather_bias(self, tables: WindowTables) -> Tensor:
        """Relative position bias, plus the shift mask of each kind of window.

        Returns:
            (1, heads, M*M, M*M), or (4, heads, M*M, M*M) if shifted.
        """
        bias = self._lookup(tables.index_sa)
        if self.shift_size:
            bias = bias + tables.masks.to(bias.dtype)
        # Fused kernels take a bias whose last axis is dense, and the lookup's is not.
        return bias.contiguous()

    def forward(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        bias = self.current_bias(tables)
        if self.attention == "triton":
            size = tables.height, tables.width, self.window_size, self.shift_size
            out = window_attention(self.qkv(x), bias, *size, self.scale, self.num_heads)
            projected: Tensor = self.proj(out)
            return projected
        order = tables.shifted if self.shift_size else tables.regular
        batch, area = x.shape[0], self.window_size**2
        tokens, linears = order.partition(x), self._linears()
        wide = linears[0].out_features  # 3C, or more if heads are padded; or C of each
        packed = [
            linear(tokens).view(batch, -1, area, wide).split(order.counts, dim=1)
            for linear in linears
        ]
        parts = []
        for kind, count in enumerate(order.counts):
            if count:
                windows = [t[kind].reshape(-1, area, wide) for t in packed]
                q, k, v = windows if len(windows) == 3 else windows[0].chunk(3, dim=-1)
                out = self.attend(q, k, v, bias[kind : kind + 1])
                parts.append(out.view(batch, -1, wide * len(linears) // 3))
        return order.merge(self.proj(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]))


class OverlapAttention(BiasedAttention):
    """Overlapping cross-attention (section 3.2.3): M x M queries, Mo x Mo keys.

    There is no mask: zeros around the map take part in the softmax. The output
    projection belongs to the block, as in the published state dict.

    Args:
        dim: C, channels of a token.
        num_heads: divides ``dim``.
        window_size: M.
        overlap_size: Mo.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        qk_scale: factor of q k^T; None takes head_dim ** -0.5.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 16,
        overlap_size: int = 24,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__(dim, num_heads, (window_size + overlap_size - 1) ** 2, qk_scale, qkv_bias)
        self.window_size = window_size
        self.overlap_size = overlap_size

    def gather_bias(self, tables: WindowTables) -> Tensor:
        """(1, heads, M*M, Mo*Mo)."""
        return self._lookup(tables.index_oca).contiguous()

    def cross_attention(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C), before the output projection."""
        bias = self.current_bias(tables)
        if self.attention == "triton":
            size = tables.height, tables.width, self.window_size, self.overlap_size
            out: Tensor = overlap_attention(self.qkv(x), bias, *size, self.scale, self.num_heads)
            return out
        batch, linears = x.shape[0], self._linears()
        dim = linears[0].out_features * len(linears) // 3
        if len(linears) == 3:
            q, *kv = (linear(x) for linear in linears)
        else:
            q, *kv = linears[0](x).split((dim, 2 * dim), dim=-1)
        q = tables.regular.partition(q).view(-1, self.window_size**2, dim)
        seen = [tables.overlapping(t).view(-1, self.overlap_size**2, t.shape[-1]) for t in kv]
        k, v = seen if len(seen) == 2 else seen[0].chunk(2, dim=-1)
        return tables.regular.merge(self.attend(q, k, v, bias).view(batch, -1, dim))
