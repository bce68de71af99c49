"""Bring a built HAT to fp16 or bf16 without running out of fp16's range.

What adds to the residual stream of a HAT also decides how large it gets, and nothing
bounds it; fp16 ends at 65,504. But up to the last LayerNorm the stack is homogeneous: if
all that is added to the stream is divided by s, the stream is divided by s, and a
LayerNorm whose eps is divided by s^2 gives the same as before. For a power of two this
changes exponents only, so in fp32 not one bit of the output differs.

Divided by s are: the affine of ``patch_embed.norm``; weight and bias of each HAB's
``attn.proj`` and ``mlp.fc2``; each ``conv_scale``; weight and bias of each OCAB's ``proj``
and ``mlp.fc2``; the bias (the input is divided already) of each RHAG's ``conv``. What
CAB computes beside the stream is divided by t: weight and bias of its second convolution
by t, and the weight that reads the pooled mean and ``conv_scale`` times t.

All functions here take a built HAT and return another one that shares every parameter
it does not change. Its forward, and that of its blocks, is the published one; what
differs stands in submodules.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hatvid.errors import CheckpointError
from hatvid.model.blocks import HAB, OCAB, RHAG, ChannelAttention
from hatvid.model.hat import HAT, Upsample
from hatvid.model.ranges import Ranges, measure_ranges
from hatvid.model.scaled import (
    Cast,
    CastingConv2d,
    LayerNorm32,
    MeanPool32,
    Multiply,
    RescaledRHAG,
    WideConv2d,
    WideLinear,
    divide,
    divided,
)

__all__ = ["RescalePlan", "lower_precision", "plan_rescale", "rescale"]

FP16_MAX = 65_504.0
FP16_SMALLEST_NORMAL = 2.0**-14
"""About 6.1e-5: below it, fp16 has fewer than 11 significant bits."""

PEAK_EXPONENT = 13
"""Peaks are kept under 2^13: a picture may reach eight times what calibration saw."""

MOST_SUBNORMAL = 0.01
"""Share of weights that s may push below fp16's normal numbers."""


@dataclass(frozen=True, kw_only=True)
class RescalePlan:
    """By what a HAT is divided for fp16; made by :func:`plan_rescale`."""

    s: tuple[float, ...]
    """For each RHAG, a power of two; never less than that of the RHAG before."""

    t: tuple[tuple[float, ...], ...]
    """For each HAB of each RHAG, a power of two."""

    subnormal: float
    """Share of the weights divided by s, those that are zero apart, that are normal numbers in
    fp16 before, and below 6.1e-5 after: what s costs, not what the checkpoint had."""

    residual_fp32: bool
    """s would cost too much: the stream stays in fp32 and is not divided."""

    ranges: Ranges
    """What was measured, before rescaling."""

    @property
    def uncovered(self) -> dict[str, float]:
        """Largest magnitudes of what neither s nor t divides, by name."""
        blocks = self.ranges.blocks
        return {
            "qkv": max(block.qkv for block in blocks),
            "mlp_hidden": max(block.mlp_hidden for block in blocks),
            "cab_hidden": max(block.cab_hidden or 0.0 for block in blocks),
            "body": self.ranges.body,
            "tail": self.ranges.tail,
        }

    @property
    def margin(self) -> float:
        """How often the largest of :attr:`uncovered` fits into fp16's range."""
        return FP16_MAX / max(*self.uncovered.values(), 2.0**-24)


def plan_rescale(model: HAT, pictures: Tensor) -> RescalePlan:
    """Choose s and t by what a network does with some pictures.

    s is the smallest power of two that keeps the residual stream under 2^13. If that
    makes more than 1 % of the weights subnormal, each RHAG gets the smallest of its own
    that is not below its predecessor's; if that is still too many, the stream is to stay
    in fp32. t is the smallest that keeps the CAB's second convolution under 2^13.

    Args:
        model: float32. It is not changed.
        pictures: (N, 3, H, W), RGB in [0, 1].

    Raises:
        CheckpointError: not even fp32 holds what the network computes.
    """
    ranges = measure_ranges(model, pictures)
    peaks = [peak for group in ranges.groups for peak in (group.residual, group.conv)]
    peaks += [block.cab or 0.0 for block in ranges.blocks]
    if not all(math.isfinite(peak) for peak in (*peaks, ranges.body, ranges.tail)):
        raise CheckpointError(
            "the network runs out of range even in fp32; its weights are damaged, "
            "or of another kind of HAT (compare conv_scale)"
        )
    own: list[float] = []
    for group in ranges.groups:
        own.append(max(_divisor(group.residual), *own[-1:], 1.0))
    chosen, cost = own, 0.0
    for chosen in ([own[-1]] * len(own), own):
        cost = _share_subnormal(model, chosen)
        if cost <= MOST_SUBNORMAL:
            break
    return RescalePlan(
        s=tuple(chosen),
        t=tuple(
            tuple(_divisor(block.cab or 0.0) for block in group.blocks) for group in ranges.groups
        ),
        subnormal=cost,
        residual_fp32=cost > MOST_SUBNORMAL,
        ranges=ranges,
    )


def rescale(model: HAT, plan: RescalePlan) -> HAT:
    """Divide by s and t what a plan says; in fp32 the output stays the same, bit by bit.

    ``plan.residual_fp32`` is not looked at: that is a matter of fp16.

    Args:
        model: float32 or float64. It is not changed.
        plan: for a model of these depths.
    """
    with torch.no_grad():
        return _rescaled_stream(_rescaled_cabs(_twin(model), plan), plan)


def lower_precision(model: HAT, dtype: torch.dtype, plan: RescalePlan) -> HAT:
    """Let a HAT compute in 16 bits what is safe in 16 bits.

    In 16 bits are tokens, attention, MLPs and convolutions. In fp32 stay input and output,
    the mean, the first and the last convolution (also a collapsed one), the statistics
    of every LayerNorm (eps / s^2 is 0 in fp16), CAB's pooled mean and the gate made of it,
    and the sum with the shallow feature. In bf16, whose range is that of fp32, the
    plan is not needed and not used; but it has eight significant bits, so the residual
    stream, which is rounded after each sum, stays in fp32 too.

    On a GPU, PyTorch may add up products in fp16 unless
    ``torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction`` is False: that
    is for whoever runs the model.

    Args:
        model: float32. It is not changed.
        dtype: ``torch.float16`` or ``torch.bfloat16``.
        plan: for this model; see :func:`plan_rescale`.

    Returns:
        (N, 3, H, W) float32 -> (N, 3, sH, sW) float32.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"{dtype} is not a 16-bit precision")
    low = _twin(model)
    wide = dtype == torch.bfloat16 or plan.residual_fp32
    with torch.no_grad():
        if dtype == torch.float16:
            low = _rescaled_cabs(low, plan)
        if dtype == torch.bfloat16:
            _cast_to_convolutions(low)
        elif wide:
            _widen_stream(low, plan)
        else:
            low = _rescaled_stream(low, plan)
        _lower(low, dtype, wide_stream=wide)
    return low


def _divisor(peak: float) -> float:
    """The smallest power of two, from 1 on, that brings a magnitude under 2^13."""
    return 2.0 ** max(math.frexp(peak)[1] - PEAK_EXPONENT, 0)


def _twin(model: HAT) -> HAT:
    """A copy in eval mode that shares the parameters and has no tables."""
    twin = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    twin.drop_tables()
    return twin


def _adding_to_stream(group: RHAG) -> Iterator[nn.Linear]:
    """What is divided by s whole: the last layers of all that adds to the stream."""
    for module in group.residual_group.modules():
        if isinstance(module, HAB):
            yield module.attn.proj
            yield module.mlp.fc2
        elif isinstance(module, OCAB):
            yield module.proj
            yield module.mlp.fc2


def _share_subnormal(model: HAT, s: list[float]) -> float:
    lost = total = 0
    for group, by in zip(model.layers, s, strict=True):
        assert isinstance(group, RHAG)
        for linear in _adding_to_stream(group):
            size = linear.weight.detach().abs()
            normal = size >= FP16_SMALLEST_NORMAL
            lost += int((normal & (size / by < FP16_SMALLEST_NORMAL)).sum())
            total += int((size > 0).sum())  # what pads channels is zero, and no weight
    return lost / max(total, 1)


def _rescaled_cabs(model: HAT, plan: RescalePlan) -> HAT:
    for group, divisors in zip(model.layers, plan.t, strict=True):
        assert isinstance(group, RHAG)
        for block, t in zip(group.residual_group.blocks, divisors, strict=True):
            assert isinstance(block, HAB)
            if block.conv_block is None:
                continue
            cab: Any = block.conv_block.cab
            divide(cab[2], t)
            squeeze = cab[3].attention[1]
            squeeze.register_parameter("weight", divided(squeeze.weight, 1 / t))
            block.conv_scale *= t
    return model


def _rescaled_stream(model: HAT, plan: RescalePlan) -> HAT:
    first = plan.s[0]
    embed: Any = model.patch_embed
    if embed.norm is None:
        embed.norm = Multiply(1 / first)
    else:
        divide(embed.norm, first)
    before = first
    for at, (group, s) in enumerate(zip(model.layers, plan.s, strict=True)):
        assert isinstance(group, RHAG)
        for linear in _adding_to_stream(group):
            divide(linear, s)
        for module in group.residual_group.modules():
            if isinstance(module, HAB):
                module.conv_scale /= s
            elif isinstance(module, nn.LayerNorm):
                module.eps /= s**2
        if isinstance(group.conv, nn.Conv2d):
            group.conv.bias = divided(group.conv.bias, s)
        if s != before:
            model.layers[at] = RescaledRHAG(group, before / s)
        before = s
    model.norm.eps /= before**2
    return model


def _cast_to_convolutions(model: HAT) -> None:
    """What closes an RHAG reads an fp32 stream in 16 bits."""
    for group in model.layers:
        if isinstance(group.conv, nn.Conv2d):
            group.conv = CastingConv2d(group.conv)


def _widen_stream(model: HAT, plan: RescalePlan) -> None:
    """Make all that adds to an fp32 stream fit into fp16, or leave in fp32."""
    for group, s, measured in zip(model.layers, plan.s, plan.ranges.groups, strict=True):
        assert isinstance(group, RHAG)
        inside = group.residual_group
        blocks = [*inside.blocks, *filter(None, [inside.overlap_attn])]
        for block, of in zip(blocks, measured.all_blocks, strict=True):
            assert isinstance(block, HAB | OCAB)
            attention = block.attn if isinstance(block, HAB) else block
            for parent, name, peak in (
                (attention, "proj", of.attention),
                (block.mlp, "fc2", of.mlp),
            ):
                if (by := _divisor(peak)) > 1:
                    parent.register_module(name, WideLinear(getattr(parent, name), by))
        if isinstance(group.conv, nn.Conv2d):
            group.conv = WideConv2d(group.conv, s)


def _lower(model: HAT, dtype: torch.dtype, *, wide_stream: bool) -> None:
    """Change dtypes, in place.

    Args:
        wide_stream: the residual stream stays in fp32. What is added to it may be in
            either; the sum of an fp32 and a 16-bit tensor is fp32.
    """
    if not wide_stream:
        embed: Any = model.patch_embed
        embed.norm = nn.Sequential(*filter(None, [embed.norm]), Cast(dtype))
    _low_parameters(model.layers, dtype)
    for block in [module for module in model.layers.modules() if isinstance(module, HAB | OCAB)]:
        block.norm1, block.norm2 = LayerNorm32(block.norm1, dtype), LayerNorm32(block.norm2, dtype)
        if isinstance(block, HAB) and block.conv_block is not None:
            gate: Any = block.conv_block.cab[3].attention
            gate[0] = MeanPool32()
            if not wide_stream:
                gate.append(Cast(dtype))
    model.norm = LayerNorm32(model.norm, dtype)
    _low_parameters(model.conv_after_body, dtype)
    before: Any = model.conv_before_upsample
    before[0] = CastingConv2d(before[0])
    _low_parameters(before, dtype)
    upsample: Any = model.upsample  # a collapsed tail is no Upsample
    if isinstance(upsample, Upsample):
        _low_parameters(upsample, dtype)
        last: Any = model.conv_last
        model.conv_last = CastingConv2d(last)
    else:
        before.append(Cast(torch.float32))


def _low_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Those of all layers but LayerNorms and CAB's gates; shared originals stay."""
    if isinstance(module, nn.LayerNorm | ChannelAttention):
        return
    for name, value in list(module.named_parameters(recurse=False)):
        module.register_parameter(name, nn.Parameter(value.to(dtype), requires_grad=False))
    for child in module.children():
        _low_parameters(child, dtype)
