"""Zeros beside the channels of a HAT, so that a GPU's fast kernels take them.

In 16 bits, fused attention kernels need head sizes that are multiples of 8, and they and
tensor cores read 16 bytes at once: rows of tensors have to begin at multiples of 16 bytes.
The published HAT has heads of 30 channels in a stream of 180, CABs of 60, gates of 6.

Weights that make a padded channel are zero, and so are weights that read one; a
LayerNorm takes its statistics over the real channels. So padded channels are exactly
zero wherever they could be added to others, and the network is the same function.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatvid.model.blocks import HAB, OCAB, RHAG
from hatvid.model.hat import HAT
from hatvid.model.scaled import PaddedLayerNorm

__all__ = ["pad_channels", "padded_stream"]

ALIGNED = 8
"""Channels of 2 bytes in 16 bytes; also what head sizes must be multiples of."""

TENSOR_CORE_DEPTH = 16
"""Channels that one fp16 instruction of a tensor core sums over (PTX: mma.m16n8k16)."""

MOST_ADDED = 0.25
"""Share of multiply-adds that a padded stream may cost."""


class _Channels(NamedTuple):
    """The channels along one side of a weight."""

    size: int
    """How many a group has."""

    padded: int
    """How many it is to have; the zeros come last."""

    groups: int = 1
    """Heads, or three times the heads for packed queries, keys and values."""


def padded_stream(channels: int) -> int:
    """How many channels the residual stream is to have, so that it is read fast.

    Where rows of the stream begin at multiples of 16 bytes there is nothing to gain.
    Elsewhere no matrix product that reads or writes it can load 16 bytes at once, and
    cuDNN copies the map of every convolution into one that is padded, and back. HAT's 180
    channels are 360 bytes, 22.5 times 16.

    It is padded to a multiple of 16, not of 8: tensor cores sum over 16 channels at a
    time, so that 184 would cost them what 192 costs. Matrix products with the stream on one
    side grow by the quotient, convolutions from stream to stream by its square: 192 / 180 is
    6.7 % and 13.8 %. Where the square adds more than a quarter, as it may under 130 channels,
    the stream stays as it is: that limit is a choice, not a measurement.

    Args:
        channels: of the stream as published.

    Returns:
        ``channels`` itself if padding does not pay.
    """
    if channels % ALIGNED == 0:
        return channels
    wide = _multiple(channels, TENSOR_CORE_DEPTH)
    return wide if wide**2 <= (1 + MOST_ADDED) * channels**2 else channels


def pad_channels(model: HAT) -> HAT:
    """A HAT that gives the same (up to rounding), with channels in multiples of 8.

    Padded is what is no multiple: each head inside the weights of ``qkv`` and ``proj``
    (attention keeps its scale), the hidden channels of CABs, of their gates and of MLPs,
    and, where :func:`padded_stream` finds that it pays, the residual stream.

    It comes after :func:`~hatvid.model.tail.collapse_tail` and before
    :func:`~hatvid.model.precision.lower_precision`.

    Args:
        model: float32 or float64. It is not changed, and parameters that need no
            padding are shared. One that was padded before has nothing to pad.

    Returns:
        A HAT in eval mode whose ``config`` is that of ``model``, though its weights have
        other shapes: for running, not for saving.
    """
    padded = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    padded.drop_tables()
    first: Any = padded.conv_first
    stream = _Channels(first.out_channels, padded_stream(padded.norm.normalized_shape[0]))
    with torch.no_grad():
        _pad(first, stream, _as_is(first.in_channels))
        if padded.patch_embed.norm is not None:
            padded.patch_embed.norm = _norm(padded.patch_embed.norm, stream)
        for group in padded.layers:
            assert isinstance(group, RHAG)
            for block in group.residual_group.modules():
                if isinstance(block, HAB | OCAB):
                    _pad_block(block, stream)
            _pad(group.conv, stream, stream)
        padded.norm = _norm(padded.norm, stream)
        _pad(padded.conv_after_body, stream, stream)
        before: Any = padded.conv_before_upsample
        _pad(before[0], _as_is(before[0].out_channels), stream)
    return padded


def _multiple(channels: int, of: int) -> int:
    return -(-channels // of) * of


def _as_is(channels: int) -> _Channels:
    return _Channels(channels, channels)


def _hidden(channels: int) -> _Channels:
    return _Channels(channels, _multiple(channels, ALIGNED))


def _pad_block(block: HAB | OCAB, stream: _Channels) -> None:
    block.norm1, block.norm2 = _norm(block.norm1, stream), _norm(block.norm2, stream)
    attention = block.attn if isinstance(block, HAB) else block
    heads = attention.num_heads
    size = attention.qkv.out_features // (3 * heads)
    head = _Channels(size, _multiple(size, ALIGNED), heads)
    _pad(attention.qkv, head._replace(groups=3 * heads), stream)
    _pad(attention.proj, stream, head)
    _pad_pair(block.mlp.fc1, block.mlp.fc2, block.mlp.fc1.out_features, stream)
    if isinstance(block, HAB) and block.conv_block is not None:
        cab: Any = block.conv_block.cab
        _pad_pair(cab[0], cab[2], cab[0].out_channels, stream)
        gate = cab[3].attention
        _pad_pair(gate[1], gate[3], gate[1].out_channels, stream)


def _pad_pair(first: nn.Module, second: nn.Module, hidden: int, stream: _Channels) -> None:
    """Two layers that lead out of the stream and back."""
    _pad(first, _hidden(hidden), stream)
    _pad(second, stream, _hidden(hidden))


def _norm(norm: nn.LayerNorm, stream: _Channels) -> nn.LayerNorm:
    padding = stream.padded - stream.size
    return PaddedLayerNorm(norm, padding) if padding else norm


def _pad(layer: nn.Module, out: _Channels, into: _Channels) -> None:
    """Put zeros around a layer's weight, in place; the parameters it had stay.

    Args:
        layer: an ``nn.Linear`` or ``nn.Conv2d``, or what stands for none.
        out: the channels that it makes.
        into: the channels that it reads.
    """
    if isinstance(layer, nn.Identity) or (out.size, into.size) == (out.padded, into.padded):
        return
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight, bias = layer.weight, layer.bias
    kernel = weight.shape[2:]
    rows, columns = out.groups * out.padded, into.groups * into.padded
    wide = F.pad(
        weight.reshape(out.groups, out.size, into.groups, into.size, *kernel),
        (0, 0) * len(kernel) + (0, into.padded - into.size, 0, 0, 0, out.padded - out.size),
    )
    layer.weight = _parameter(wide.reshape(rows, columns, *kernel))
    if bias is not None and out.padded > out.size:
        wide = F.pad(bias.reshape(out.groups, out.size), (0, out.padded - out.size))
        layer.bias = _parameter(wide.flatten())
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = rows, columns
    else:
        layer.out_channels, layer.in_channels = rows, columns


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
