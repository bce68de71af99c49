"""A HAT whose graph serves inputs of any size, for exporting.

:class:`~hatvid.model.attention.WindowTables` are buffers, good for one size. Here the
graph works out the same orders of tokens from whatever height and width it is given,
once for all blocks, from a few ranges.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatvid.model.attention import BiasedAttention, WindowAttention, WindowTables, shift_masks
from hatvid.model.blocks import to_map
from hatvid.model.hat import HAT

__all__ = ["DynamicHAT"]


class DynamicHAT(nn.Module):
    """Equal to a built HAT, in a graph that serves any height, width and batch.

    Args:
        model: a HAT as it was built, or rewritten. It is not changed; its parameters are
            shared.
    """

    masks: Tensor

    def __init__(self, model: HAT) -> None:
        super().__init__()
        self.model = copy.deepcopy(model, {id(p): p for p in model.parameters()})
        self.model.drop_tables()
        window, overlap = model.config.window_size, model.config.overlap_size
        tables = WindowTables(
            window,
            window,
            window,
            overlap,
            model.relative_position_index_SA,
            model.relative_position_index_OCA,
        )
        _prepare_attention(self.model, tables)
        self.register_buffer("masks", shift_masks(window, window // 2), persistent=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """As :meth:`HAT.forward`: (N, 3, H, W) -> (N, 3, sH, sW)."""
        model, config = self.model, self.model.config
        batch, _, height, width = x.shape
        window = config.window_size
        rows, columns = (height + window - 1) // window, (width + window - 1) // window
        tables = _Tables(batch, rows, columns, window, config.overlap_size, self.masks)
        x = (x - model.mean) * config.img_range
        x = x.index_select(2, _reflection(height, tables.height))
        x = x.index_select(3, _reflection(width, tables.width))

        shallow = model.conv_first(x)
        deep = model.patch_embed(shallow)
        for layer in model.layers:
            deep = layer(deep, tables)
        deep = to_map(model.norm(deep), tables)  # type: ignore[arg-type]
        x = model.conv_after_body(deep) + shallow
        x = model.conv_last(model.upsample(model.conv_before_upsample(x)))

        x = x / config.img_range + model.mean
        return x[:, :, : height * config.upscale, : width * config.upscale]


class _Order:
    """In the place of WindowOrder; all windows are of one kind."""

    def __init__(self, rows: int, columns: int, window_size: int, shift_size: int) -> None:
        self.counts = [rows * columns]
        count = torch.arange(rows * window_size * columns * window_size)
        grid = _rolled(count.view(rows * window_size, columns * window_size), shift_size)
        windows = grid.view(rows, window_size, columns, window_size).transpose(1, 2)
        self.gather = windows.flatten()
        windows = count.view(rows, columns, window_size, window_size).transpose(1, 2)
        grid = windows.reshape(rows * window_size, columns * window_size)
        self.scatter = _rolled(grid, -shift_size).flatten()

    def partition(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.gather)

    def merge(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.scatter)


class _Tables:
    """In the place of WindowTables; numbers may be symbolic.

    Args:
        batch: N.
        rows: of windows.
        columns: of windows.
        window_size: M.
        overlap_size: Mo.
        masks: (4, 1, M*M, M*M), as :func:`~hatvid.model.attention.shift_masks`.

    Attributes:
        mask: (N * windows, 1, M*M, M*M): for each window the mask of its kind.
    """

    def __init__(
        self,
        batch: int,
        rows: int,
        columns: int,
        window_size: int,
        overlap_size: int,
        masks: Tensor,
    ) -> None:
        self.height, self.width = rows * window_size, columns * window_size
        self.regular = _Order(rows, columns, window_size, 0)
        self.shifted = _Order(rows, columns, window_size, window_size // 2)

        bottom = (torch.arange(rows) == rows - 1).long()
        right = (torch.arange(columns) == columns - 1).long()
        kinds = 2 * bottom[:, None] + right
        self.mask = masks.index_select(0, kinds.expand(batch, rows, columns).flatten())

        self._margin = (overlap_size - window_size) // 2
        inside = torch.arange(overlap_size)
        down = window_size * torch.arange(rows)[:, None] + inside
        across = window_size * torch.arange(columns)[:, None] + inside
        wide = self.width + 2 * self._margin
        self._overlap = (wide * down[:, None, :, None] + across[:, None, :]).flatten()

    def overlapping(self, x: Tensor) -> Tensor:
        """As :meth:`WindowTables.overlapping`."""
        margin = self._margin
        grid = x.reshape(x.shape[0], self.height, self.width, x.shape[2])
        grid = F.pad(grid, (0, 0, margin, margin, margin, margin))
        return grid.flatten(1, 2).index_select(1, self._overlap)


class _ShiftedAttention(nn.Module):
    """In the place of a WindowAttention that shifts.

    That one takes the windows kind by kind, as many as there are; here each window has
    its mask.
    """

    bias: Tensor

    def __init__(self, attention: WindowAttention, tables: WindowTables) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.area = attention.window_size**2
        self.qkv, self.proj = attention.qkv, attention.proj
        bias = attention._lookup(tables.index_sa).detach().contiguous()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor, tables: _Tables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        batch, _, dim = x.shape
        qkv = self.qkv(tables.shifted.partition(x))
        qkv = qkv.view(-1, self.area, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * self.scale) @ k.transpose(2, 3) + self.bias + tables.mask.to(q.dtype)
        windows = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, -1, dim)
        return tables.shifted.merge(self.proj(windows))


def _rolled(grid: Tensor, shift: int) -> Tensor:
    """``torch.roll`` up and left, which the exporter does not write for every size."""
    if shift == 0:
        return grid
    grid = torch.cat((grid[shift:], grid[:shift]), 0)
    return torch.cat((grid[:, shift:], grid[:, :shift]), 1)


def _reflection(size: int, padded: int) -> Tensor:
    """As :func:`~hatvid.model.hat.reflection_index`, without a branch on the size."""
    # An axis of one pixel repeats it.
    period = torch.maximum(torch.full((1,), 2 * (size - 1)), torch.ones(1, dtype=torch.int64))
    place = torch.arange(padded) % period
    return torch.minimum(place, period - place)


def _prepare_attention(module: nn.Module, tables: WindowTables) -> None:
    """Gather all biases, and replace what shifts."""
    for name, child in module.named_children():
        if isinstance(child, WindowAttention) and child.shift_size:
            setattr(module, name, _ShiftedAttention(child, tables))
            continue
        if isinstance(child, BiasedAttention):
            child.prepare(tables)
        _prepare_attention(child, tables)
