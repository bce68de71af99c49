"""What one operator of PyTorch does on an NVIDIA GPU: arithmetic, bytes, kernels.

Rules, from the sources of PyTorch 2.14 (``aten/src/ATen/native``):

- A view costs nothing. Every other operator is one kernel, with the exceptions below.
- An operator reads each byte of its inputs once and writes each byte of its outputs once,
  however often its threads ask: what caches give back is not traffic. Of a broadcast input
  count the bytes that exist; of a gather, no more than comes out of it.
- cuDNN's convolutions add the bias in a kernel of its own, over the written output, and
  first turn input and weights into the layout of the output if they lie in another.
- ``constant_pad_nd`` fills, then copies. ``roll`` over n axes rolls n times.
- Tensors on the CPU are not the GPU's traffic. What is copied from there is counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from hatvid.errors import EngineError

__all__ = ["Operator", "attention_cost", "operator_cost", "tensors", "touched"]

aten = torch.ops.aten

FREE = {
    aten._unsafe_view.default,  # a view; autograd alone is not told so
    aten.as_strided_.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.lift_fresh.default,
}
"""Operators that run no kernel."""

OVERWRITING = {aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default}
"""Operators that write their first argument without reading it."""

GATHERS = {aten.index_select.default, aten.index.Tensor}
"""Operators that read of their first argument what they give back."""

MOVES = GATHERS | {
    aten._to_copy.default,
    aten.arange.start_step,
    aten.cat.default,
    aten.clone.default,
    aten.constant_pad_nd.default,
    aten.copy_.default,
    aten.fill_.Scalar,
    aten.fill_.Tensor,
    aten.im2col.default,
    aten.pixel_shuffle.default,
    aten.reflection_pad2d.default,
    aten.roll.default,
    aten.scalar_tensor.default,
    aten.zero_.default,
    aten.zeros.default,
    aten.zeros_like.default,
}
"""Operators that compute nothing."""

LEFT_MATRIX = {
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.addmm.default: 1,
    aten.baddbmm.default: 1,
}
"""Matrix products, and which argument is the left matrix."""

OWN_ATTENTION = {"window_attention", "overlap_attention"}
"""Of ``torch.ops.hatvid``: one kernel each, which reads qkv and bias."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """What one operator does."""

    name: str

    dtype: torch.dtype
    """What it multiplies in."""

    flops: int = 0
    """Of matrix products and convolutions: two for each multiply-add."""

    elements: int = 0
    """Elements that it computes or reduces, where it is neither."""

    read: int = 0
    """Bytes read from the GPU's memory."""

    written: int = 0
    """Bytes written to the GPU's memory."""

    uploaded: int = 0
    """Bytes copied from the CPU's memory."""

    launches: int = 1
    """Kernels and copies started."""


def tensors(tree: Any) -> list[Tensor]:
    """The tensors on the GPU among arguments or results, in order."""
    leaves = (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))
    return [leaf for leaf in leaves if leaf.device.type == "cuda"]


def touched(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor: an axis of stride 0 counts once, an overlap once."""
    axes = [(size, abs(step)) for size, step in zip(tensor.shape, tensor.stride(), strict=True)]
    if tensor.numel() == 0:
        return 0
    apart = math.prod(size for size, step in axes if step)
    span = 1 + sum((size - 1) * step for size, step in axes)
    return min(apart, span) * tensor.element_size()


def operator_cost(
    func: OpOverload[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> Operator | None:
    """What a call of an operator cost.

    Args:
        func: of ``torch.ops``, as a ``TorchDispatchMode`` meets it.
        args: its arguments; tensors, real or fake, on a CUDA device or the CPU.
        kwargs: the same.
        out: what it returned.

    Returns:
        None if it ran nothing on the GPU.

    Raises:
        EngineError: it multiplies matrices in a way that is not known here.
    """
    results = tensors(out)
    if func.is_view or func in FREE or not results:
        return None
    own = func.namespace == "hatvid"
    if (own and func._opname not in OWN_ATTENTION) or (
        func.overloadpacket in flop_registry
        and func not in LEFT_MATRIX
        and func != aten.convolution.default
    ):
        raise EngineError(f"what {func} costs is not known; please report it")
    inputs = tensors((args, kwargs))
    changed = [
        value
        for value, argument in zip(args, func._schema.arguments, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    reading = inputs[1:] if func in OVERWRITING else inputs
    base = Operator(
        name=str(func),
        dtype=(inputs or results)[0].dtype,
        elements=0 if func in MOVES else max(t.numel() for t in (*inputs, *results)),
        read=_bytes(reading),
        written=_bytes([*results, *tensors(changed)]),
        uploaded=_uploaded(func, args, results),
    )
    if func in LEFT_MATRIX:
        left: Tensor = args[LEFT_MATRIX[func]]
        flops = 2 * results[0].numel() * left.shape[-1]
        return replace(base, flops=flops, elements=0, dtype=left.dtype)
    if func == aten.convolution.default:
        return _convolution(base, args[0], args[1], args[2], results[0])
    if own:
        # (N, tokens, C) and (kinds, heads, queries, keys): each token has so many keys.
        qkv, bias = args[:2]
        scores = results[0].shape[0] * results[0].shape[1] * bias.shape[1] * bias.shape[3]
        head = qkv.shape[2] // (3 * bias.shape[1])
        return replace(base, flops=4 * scores * head, elements=scores)
    if func in GATHERS:
        source = touched(inputs[0])
        return replace(base, read=base.read - source + min(source, touched(results[0])))
    if func == aten.constant_pad_nd.default:
        return replace(base, written=base.written + touched(inputs[0]), launches=2)
    if func == aten.roll.default:
        axes = max(len(args[2]), 1) if len(args) > 2 else 1
        return replace(base, read=base.read * axes, written=base.written * axes, launches=axes)
    return base


def attention_cost(
    name: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, out: Tensor
) -> Operator:
    """softmax(q k^T + bias) v in one kernel, whose scores stay on the chip.

    Args:
        name: of the operator.
        q: (..., queries, D).
        k: (..., keys, D).
        v: (..., keys, D).
        bias: broadcasts to (..., queries, keys).
        out: (..., queries, D).
    """
    scores = q.numel() // q.shape[-1] * k.shape[-2]
    return Operator(
        name=name,
        dtype=q.dtype,
        flops=2 * scores * (q.shape[-1] + v.shape[-1]),
        elements=scores,
        read=_bytes([t for t in (q, k, v, bias) if t is not None]),
        written=_bytes([out]),
    )


def _bytes(of: Iterable[Tensor]) -> int:
    """Of all of them; the same view given twice counts once."""
    apart = {(t.untyped_storage()._cdata, t.storage_offset(), t.shape, t.stride()): t for t in of}
    return sum(touched(tensor) for tensor in apart.values())


def _uploaded(func: OpOverload[Any, Any], args: tuple[Any, ...], results: list[Tensor]) -> int:
    if func not in (aten._to_copy.default, aten.copy_.default):
        return 0
    source: Tensor = args[0] if func == aten._to_copy.default else args[1]
    return touched(results[0]) if source.device.type == "cpu" else 0


def _convolution(
    base: Operator, given: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor
) -> Operator:
    # The layout that cuDNN is given; a map of one pixel or channel has both.
    turned = min(
        (
            [t for t in (given, weight) if not t.is_contiguous(memory_format=layout)]
            for layout in (torch.contiguous_format, torch.channels_last)
            if out.is_contiguous(memory_format=layout)
        ),
        key=_bytes,
        default=[],
    )
    added = 0 if bias is None else touched(out)
    return replace(
        base,
        flops=2 * out.numel() * weight[0].numel(),
        elements=0,
        read=base.read + _bytes(turned) + added,
        written=base.written + _bytes(turned) + added,
        launches=1 + len(turned) + (bias is not None),
    )
