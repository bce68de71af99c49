"""A HAT whose graph serves inputs of any size, for exporting.

:class:`~hatvid.model.attention.WindowTables` holds positions of tokens, good for one
size. Here nothing is kept that depends on the size: rolls, reshapes and a few short
ranges make the same windows from whatever height and width the graph is given.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatvid.model.attention import (
    BiasedAttention,
    WindowAttention,
    WindowTables,
    shift_masks,
)
from hatvid.model.blocks import OCAB, to_map
from hatvid.model.hat import HAT

__all__ = ["DynamicHAT"]


class WindowGrid:
    """The windows of an H x W map, in place of WindowTables; numbers may be symbolic.

    Args:
        batch: N.
        rows: of windows.
        columns: of windows.
        window_size: M.
        masks: (4, 1, M*M, M*M), as :func:`~hatvid.model.attention.shift_masks`.

    Attributes:
        height: H.
        width: W.
        mask: (N * rows * columns, 1, M*M, M*M): of each window the mask of its kind. All
            shifted blocks share it.
    """

    def __init__(
        self, batch: int, rows: int, columns: int, window_size: int, masks: Tensor
    ) -> None:
        self.batch, self.rows, self.columns = batch, rows, columns
        self.window_size = window_size
        self.height, self.width = rows * window_size, columns * window_size
        bottom = (torch.arange(rows) == rows - 1).long()
        right = (torch.arange(columns) == columns - 1).long()
        kinds = 2 * bottom[:, None] + right
        self.mask = masks.index_select(0, kinds.expand(batch, rows, columns).flatten())

    def partition(self, x: Tensor, shift_size: int = 0) -> Tensor:
        """(N, H*W, C), row by row -> (N * windows, M*M, C)."""
        size, dim = self.window_size, x.shape[-1]
        grid = x.reshape(self.batch, self.height, self.width, dim)
        if shift_size:
            grid = torch.cat((grid[:, shift_size:], grid[:, :shift_size]), 1)
            grid = torch.cat((grid[:, :, shift_size:], grid[:, :, :shift_size]), 2)
        grid = grid.reshape(self.batch, self.rows, size, self.columns, size, dim)
        return grid.transpose(2, 3).reshape(-1, size * size, dim)

    def merge(self, x: Tensor, shift_size: int = 0) -> Tensor:
        """The inverse of :meth:`partition`."""
        size, dim = self.window_size, x.shape[-1]
        grid = x.reshape(self.batch, self.rows, self.columns, size, size, dim).transpose(2, 3)
        grid = grid.reshape(self.batch, self.height, self.width, dim)
        if shift_size:
            grid = torch.cat((grid[:, -shift_size:], grid[:, :-shift_size]), 1)
            grid = torch.cat((grid[:, :, -shift_size:], grid[:, :, :-shift_size]), 2)
        return grid.reshape(self.batch, self.height * self.width, dim)

    def overlapping(self, x: Tensor, overlap_size: int) -> Tensor:
        """(N, H*W, C), row by row -> (N * windows, Mo*Mo, C), zeros around the map."""
        margin, dim = (overlap_size - self.window_size) // 2, x.shape[-1]
        grid = x.reshape(self.batch, self.height, self.width, dim)
        grid = F.pad(grid, (0, 0, margin, margin, margin, margin))
        for axis, count in ((1, self.rows), (2, self.columns)):
            starts = self.window_size * torch.arange(count)
            places = starts[:, None] + torch.arange(overlap_size)
            grid = grid.index_select(axis, places.flatten())
        grid = grid.reshape(self.batch, self.rows, overlap_size, self.columns, overlap_size, dim)
        return grid.transpose(2, 3).reshape(-1, overlap_size**2, dim)


class _PlainAttention(nn.Module):
    """The two matrix products and the softmax, with the gathered bias as a buffer."""

    bias: Tensor

    def __init__(self, attention: BiasedAttention, tables: WindowTables) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.scale = attention.scale
        self.qkv = attention.qkv
        bias = attention._lookup(self.index(tables))
        self.register_buffer("bias", bias.detach().contiguous(), persistent=False)

    @staticmethod
    def index(tables: WindowTables) -> Tensor:
        """Which row of the bias table each pair of tokens takes."""
        raise NotImplementedError

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """As BiasedAttention.attend, with a mask (windows, 1, queries, keys) or none."""
        heads, dim = self.num_heads, q.shape[-1]
        q, k, v = (
            t.reshape(-1, t.shape[1], heads, dim // heads).transpose(1, 2) for t in (q, k, v)
        )
        scores = (q * self.scale) @ k.transpose(2, 3) + self.bias
        if mask is not None:
            scores = scores + mask.to(scores.dtype)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class _DynamicWindowAttention(_PlainAttention):
    """In the place of WindowAttention."""

    def __init__(self, attention: WindowAttention, tables: WindowTables) -> None:
        super().__init__(attention, tables)
        self.shift_size = attention.shift_size
        self.proj = attention.proj

    @staticmethod
    def index(tables: WindowTables) -> Tensor:
        return tables.index_sa

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        windows = grid.partition(x, self.shift_size)
        q, k, v = self.qkv(windows).chunk(3, dim=-1)
        out = self.attend(q, k, v, grid.mask if self.shift_size else None)
        return grid.merge(self.proj(out), self.shift_size)


class _DynamicOCAB(_PlainAttention):
    """In the place of OCAB."""

    def __init__(self, block: OCAB, tables: WindowTables) -> None:
        super().__init__(block, tables)
        self.overlap_size = block.overlap_size
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.proj, self.mlp = block.proj, block.mlp

    @staticmethod
    def index(tables: WindowTables) -> Tensor:
        return tables.index_oca

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        dim = x.shape[-1]
        # Zeros around the keys and values, not around what they are computed from.
        q, kv = self.qkv(self.norm1(x)).split((dim, 2 * dim), dim=-1)
        k, v = grid.overlapping(kv, self.overlap_size).chunk(2, dim=-1)
        out = grid.merge(self.attend(grid.partition(q), k, v, None))
        x = x + self.proj(out)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class DynamicHAT(nn.Module):
    """Equal to a built HAT, in a graph that serves any height, width and batch.

    Args:
        model: a HAT as it was built, or rewritten. It is not changed; its parameters are
            shared.
    """

    masks: Tensor

    def __init__(self, model: HAT) -> None:
        super().__init__()
        self.model = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
        self.model.drop_tables()
        config = model.config
        size = config.window_size
        tables = WindowTables(
            size,
            size,
            size,
            config.overlap_size,
            model.relative_position_index_SA,
            model.relative_position_index_OCA,
        )
        _replace_attention(self.model, tables)
        self.register_buffer("masks", shift_masks(size, size // 2), persistent=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """As :meth:`HAT.forward`: (N, 3, H, W) -> (N, 3, sH, sW)."""
        model, config = self.model, self.model.config
        size = config.window_size
        batch, _, height, width = x.shape
        rows, columns = (height + size - 1) // size, (width + size - 1) // size
        grid = WindowGrid(batch, rows, columns, size, self.masks)
        x = (x - model.mean) * config.img_range
        x = x.index_select(2, _reflection(height, grid.height))
        x = x.index_select(3, _reflection(width, grid.width))

        shallow = model.conv_first(x)
        deep = model.patch_embed(shallow)
        for layer in model.layers:
            deep = layer(deep, grid)
        deep = to_map(model.norm(deep), grid)  # type: ignore[arg-type]
        x = model.conv_after_body(deep) + shallow
        x = model.conv_last(model.upsample(model.conv_before_upsample(x)))

        x = x / config.img_range + model.mean
        return x[:, :, : height * config.upscale, : width * config.upscale]


def _reflection(size: int, padded: int) -> Tensor:
    """As :func:`~hatvid.model.hat.reflection_index`, without a branch on the size."""
    period = torch.full((1,), 2 * (size - 1)).clamp(min=1)  # an axis of one pixel repeats it
    place = torch.arange(padded) % period
    return torch.minimum(place, period - place)


def _replace_attention(module: nn.Module, tables: WindowTables) -> None:
    for name, child in module.named_children():
        if isinstance(child, WindowAttention):
            setattr(module, name, _DynamicWindowAttention(child, tables))
        elif isinstance(child, OCAB):
            setattr(module, name, _DynamicOCAB(child, tables))
        else:
            _replace_attention(child, tables)
