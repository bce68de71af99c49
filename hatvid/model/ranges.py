"""How large the numbers inside a HAT become on given pictures.

fp16 ends at 65,504, and nothing in the network keeps its residual stream, or what the
layers compute beside it, under that (arXiv 2504.06629). What is measured here decides
how a network is rescaled (:mod:`hatvid.model.precision`), and what rescaling cannot help.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hatvid.model.attention import OverlapAttention, WindowAttention, WindowTables
from hatvid.model.blocks import HAB, OCAB, RHAG
from hatvid.model.hat import HAT, Upsample

__all__ = ["BlockRange", "GroupRange", "Ranges", "measure_ranges"]

WINDOWS = 8
"""Windows whose attention logits are in memory at once: 28 MB for a HAT's OCAB."""


@dataclass(frozen=True, kw_only=True)
class BlockRange:
    """Largest magnitudes in one HAB or OCAB."""

    name: str
    """The block's, as in the state dict: ``layers.0.residual_group.blocks.0``."""

    residual: float
    """Of the residual stream that enters and leaves, and of all that is added to it."""

    qkv: float
    """Queries, keys and values."""

    logits: float
    """What goes into the softmax: scale * q k^T + bias, without the shift mask's -100."""

    attention: float
    """What the attention adds to the stream."""

    mlp_hidden: float
    """Between the MLP's linear layers, before the GELU."""

    mlp: float
    """What the MLP adds to the stream."""

    cab_hidden: float | None = None
    """CAB's first convolution, before the GELU; None without a CAB, as in an OCAB."""

    cab: float | None = None
    """CAB's second convolution, before the channel attention; None without a CAB, as in an OCAB."""


@dataclass(frozen=True, kw_only=True)
class GroupRange:
    """Largest magnitudes in one RHAG."""

    name: str
    blocks: tuple[BlockRange, ...]

    overlap: BlockRange | None
    """Of the OCAB; None without one."""

    conv: float
    """The convolution that closes the group."""

    residual: float
    """Of the stream anywhere in the group, ``conv`` included."""

    @property
    def all_blocks(self) -> tuple[BlockRange, ...]:
        """HABs and OCAB, in order."""
        return self.blocks if self.overlap is None else (*self.blocks, self.overlap)


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Largest magnitudes in a HAT, from its first convolution to its last but one."""

    shallow: float
    """The first convolution's output."""

    groups: tuple[GroupRange, ...]

    body: float
    """After the convolution that closes the body, before the shallow feature is added."""

    tail: float
    """Between that and the last convolution."""

    @property
    def blocks(self) -> tuple[BlockRange, ...]:
        """All HABs and OCABs, in order."""
        return tuple(block for group in self.groups for block in group.all_blocks)


def measure_ranges(model: HAT, pictures: Tensor) -> Ranges:
    """Run a network over pictures and note the largest magnitude at each place.

    Args:
        model: also one whose tail is collapsed. It is not changed.
        pictures: (N, 3, H, W), RGB in [0, 1], of any one size.

    Returns:
        What the model's dtype could hold; NaN where something was no number.
    """
    # A copy with the same parameters: running may build tables, and hooks are its own.
    twin = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    peaks = _Peaks()
    with torch.no_grad(), _watched(twin, peaks):
        twin(pictures.to(twin.mean.device, twin.mean.dtype))
    groups = []
    for at, layer in enumerate(twin.layers):
        name = f"layers.{at}"
        assert isinstance(layer, RHAG)
        inside = layer.residual_group
        blocks = tuple(
            _block_range(peaks, block, f"{name}.residual_group.blocks.{i}")
            for i, block in enumerate(inside.blocks)
        )
        overlap = None
        if (last := inside.overlap_attn) is not None:
            overlap = _block_range(peaks, last, f"{name}.residual_group.overlap_attn")
        conv = peaks[layer.conv]
        stream = [block.residual for block in (*blocks, *filter(None, [overlap]))]
        groups.append(
            GroupRange(
                name=name,
                blocks=blocks,
                overlap=overlap,
                conv=conv,
                residual=_largest(*stream, conv, peaks[layer]),
            )
        )
    return Ranges(
        shallow=peaks[twin.conv_first],
        groups=tuple(groups),
        body=peaks[twin.conv_after_body],
        tail=_largest(*(peaks[part] for part in _tail(twin))),
    )


class _Peaks:
    """The largest magnitude seen at each module, under the module or a name beside it."""

    def __init__(self) -> None:
        self._seen: dict[tuple[nn.Module, str], float] = {}

    def note(self, module: nn.Module, values: Tensor, what: str = "") -> None:
        key = (module, what)
        self._seen[key] = _largest(self._seen.get(key, 0.0), float(values.abs().amax()))

    def __getitem__(self, key: nn.Module | tuple[nn.Module, str]) -> float:
        return self._seen[key if isinstance(key, tuple) else (key, "")]


def _largest(*values: float) -> float:
    """As max(), but NaN if one is."""
    return float(torch.tensor(values, dtype=torch.float64).amax())


def _tail(model: HAT) -> Iterator[nn.Module]:
    yield model.conv_before_upsample
    # Another module in its place is the last convolution itself, collapsed.
    if isinstance(model.upsample, Upsample):
        yield from model.upsample


def _block_range(peaks: _Peaks, block: nn.Module, name: str) -> BlockRange:
    assert isinstance(block, HAB | OCAB)
    attention = block.attn if isinstance(block, HAB) else block
    proj = peaks[attention.proj]
    mlp = peaks[block.mlp.fc2]
    added = [proj, mlp]
    cab = block.conv_block if isinstance(block, HAB) else None
    if isinstance(block, HAB) and cab is not None:
        added.append(peaks[cab] * abs(block.conv_scale))
    return BlockRange(
        name=name,
        residual=_largest(peaks[block.norm1, "in"], peaks[block.norm2, "in"], peaks[block], *added),
        qkv=peaks[attention.qkv],
        logits=peaks[attention, "logits"],
        attention=proj,
        mlp_hidden=peaks[block.mlp.fc1],
        mlp=mlp,
        cab_hidden=None if cab is None else peaks[cab.cab[0]],
        cab=None if cab is None else peaks[cab.cab[2]],
    )


@contextmanager
def _watched(model: HAT, peaks: _Peaks) -> Iterator[None]:
    """Note the output of every layer that matters, while the model runs."""
    hooks = []

    def output(module: nn.Module, _: Any, result: Tensor) -> None:
        peaks.note(module, result)

    def entering(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        peaks.note(module, arguments[0], "in")

    for module in (model.conv_first, model.conv_after_body, *_tail(model)):
        hooks.append(module.register_forward_hook(output))
    for layer in model.modules():
        watched: list[nn.Module] = []
        if isinstance(layer, RHAG):
            watched = [layer, layer.conv]
        if isinstance(layer, HAB | OCAB):
            attention = layer.attn if isinstance(layer, HAB) else layer
            watched = [layer, attention.qkv, attention.proj, layer.mlp.fc1, layer.mlp.fc2]
            for norm in (layer.norm1, layer.norm2):
                hooks.append(norm.register_forward_pre_hook(entering))
            hooks += _watch_logits(attention, peaks)
        if isinstance(layer, HAB) and layer.conv_block is not None:
            watched += [layer.conv_block, layer.conv_block.cab[0], layer.conv_block.cab[2]]
        hooks += [module.register_forward_hook(output) for module in watched]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _watch_logits(attention: WindowAttention | OCAB, peaks: _Peaks) -> list[Any]:
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, qkv: Tensor) -> None:
        kept.append(qkv)

    def note(_: nn.Module, arguments: tuple[Any, ...], __: Any) -> None:
        for logits in _logits(attention, kept.pop(), arguments[1]):
            peaks.note(attention, logits, "logits")

    return [attention.qkv.register_forward_hook(keep), attention.register_forward_hook(note)]


def _logits(
    attention: WindowAttention | OverlapAttention, qkv: Tensor, tables: WindowTables
) -> Iterator[Tensor]:
    """scale * q k^T + bias, a few windows at a time, 0 where the shift mask stands.

    Args:
        qkv: (N, H*W, 3C); by windows for a WindowAttention, by rows for an OCAB.

    Yields:
        (windows, heads, queries, keys).
    """
    dim = qkv.shape[-1] // 3
    bias = attention.current_bias(tables)
    q, k, _ = qkv.chunk(3, dim=-1)
    kinds: list[tuple[Tensor, Tensor, Tensor, Tensor | None]]
    if isinstance(attention, OverlapAttention):
        kinds = [(tables.regular.partition(q), tables.overlapping(k), bias, None)]
        keys = attention.overlap_size**2
    else:
        order = tables.shifted if attention.shift_size else tables.regular
        keys = attention.window_size**2
        counts = [count * keys for count in order.counts]
        kinds = [
            (part, of, bias[kind : kind + 1], tables.masks[kind] if attention.shift_size else None)
            for kind, (part, of) in enumerate(
                zip(torch.split(q, counts, dim=1), torch.split(k, counts, dim=1), strict=True)
            )
            if counts[kind]
        ]
    heads = (attention.num_heads, dim // attention.num_heads)
    for queries, of, added, mask in kinds:
        left = queries.reshape(-1, attention.window_size**2, *heads).transpose(1, 2)
        right = of.reshape(-1, keys, *heads).transpose(1, 2)
        for some, others in zip(
            torch.split(left, WINDOWS), torch.split(right, WINDOWS), strict=True
        ):
            scores = attention.scale * (some @ others.transpose(-1, -2)) + added
            yield scores if mask is None else scores.masked_fill(mask != 0, 0)
