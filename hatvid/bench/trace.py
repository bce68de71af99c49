"""What a network runs on an NVIDIA GPU, operator by operator, without one.

The network runs on fake CUDA tensors (``FakeTensorMode``): they have shapes, strides and
devices but no memory, so that a frame of any size takes seconds. Operators are met as
PyTorch dispatches them, with two exceptions. ``scaled_dot_product_attention`` is met
whole, one level higher: as one kernel where PyTorch's memory-efficient kernel takes it, else
as the operators of PyTorch's MATH path. And ``_safe_softmax``, which is met whole, is
counted as what it is made of.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hatvid.bench.costs import Operator, attention_cost, operator_cost, tensors, touched
from hatvid.engine import TileSpec
from hatvid.engine.gpu_attention import gpu_attention
from hatvid.engine.recorded import recordable

__all__ = ["Trace", "fake_gpu", "trace_engine", "trace_network"]

aten = torch.ops.aten

GPU = torch.device("cuda", 0)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one run of a network does."""

    operators: tuple[Operator, ...]

    fused: int
    """Attentions that were one kernel."""

    unfused: int
    """Attentions whose scores went through memory."""


def trace_engine(
    module: nn.Module, spec: TileSpec, precision: str = "fp32", *, keep_scores: bool = False
) -> Trace:
    """Note what a GPU's recording engine does for one batch.

    What is traced is what the engine records: the same function makes it
    (:func:`~hatvid.engine.recorded.recordable`), on fake tensors with the strides of the
    module's own.

    Args:
        module: on the CPU, in the form that the engine is given. It is not changed.
        spec: of the engine; its device does not matter.
        precision: of the engine.
        keep_scores: as :func:`trace_network`.

    Raises:
        EngineError: it multiplies matrices in a way that is not known.
    """
    spec = replace(spec, device=GPU)
    with FakeTensorMode(), torch.no_grad():
        ready = recordable(fake_gpu(module), spec, precision)
        return _traced(
            ready, torch.empty(spec.input_shape, dtype=spec.dtype, device=GPU), keep_scores
        )


def trace_network(
    network: nn.Module,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    keep_scores: bool = False,
) -> Trace:
    """Run a network as it is on fake CUDA tensors and note what it does.

    ``prepare(height, width)``, if the network has it, is called first and not counted.

    Args:
        network: on the CPU, in eval mode. It is not changed.
        shape: (N, C, H, W) of the input.
        dtype: of the input.
        keep_scores: count attention that is written out, as two products of batches of
            matrices with a softmax between them, as one kernel whose scores stay on the
            chip.

    Raises:
        EngineError: it multiplies matrices in a way that is not known.
    """
    with FakeTensorMode(), torch.no_grad():
        ready = fake_gpu(network)
        prepare = getattr(ready, "prepare", None)
        if prepare is not None:
            prepare(*shape[2:])
        return _traced(ready, torch.empty(tuple(shape), dtype=dtype, device=GPU), keep_scores)


def _traced(ready: nn.Module, x: Tensor, keep_scores: bool) -> Trace:
    recorder = _Recorder(keep_scores)
    with _WholeAttention(recorder), recorder:
        ready(x)
    return Trace(
        operators=tuple(recorder.operators), fused=recorder.fused, unfused=recorder.unfused
    )


class _WholeAttention(TorchFunctionMode):
    """Catches attention before PyTorch takes it apart."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._recorder.attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that runs something on the GPU."""

    def __init__(self, keep_scores: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self.fused = self.unfused = 0
        self._keep_scores = keep_scores
        # Which operator the scores in a storage belong to. The storage is held as well:
        # a new one could get the address of one that has gone.
        self._scores: dict[int, tuple[int, Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == aten._safe_softmax.default:
            with self:
                return _safe_softmax(*args, **kwargs)
        if func.namespace == "hatvid":
            self.fused += 1
        out = func(*args, **kwargs)
        cost = operator_cost(func, args, kwargs, out)
        if cost is not None and not (
            self._keep_scores and self._on_chip(func, cost, tensors((args, kwargs)), tensors(out))
        ):
            self.operators.append(cost)
        return out

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
    ) -> Tensor:
        """In place of ``scaled_dot_product_attention``."""
        out, fused = gpu_attention(q, k, v, attn_mask, dropout_p, is_causal, scale=scale)
        if fused:
            cost = attention_cost("scaled_dot_product_attention", q, k, v, attn_mask, out)
            self.operators.append(cost)
        self.fused += fused
        self.unfused += not fused
        return out

    def _on_chip(
        self, func: Any, cost: Operator, inputs: list[Tensor], outputs: list[Tensor]
    ) -> bool:
        """Follow scores from one product of batches to the next; count them as one kernel."""
        held = [t for t in inputs if _storage(t) in self._scores]
        if func == aten.bmm.default and not held:
            self.fused += 1
            self._hold(outputs, len(self.operators))
            self.operators.append(replace(cost, name="attention", written=0))
            return True
        if not held:
            return False
        at = self._scores[_storage(held[0])][0]
        whole = self.operators[at]
        written = cost.written
        if func != aten.bmm.default:
            self._hold(outputs, at)
            written = 0
        self.operators[at] = replace(
            whole,
            flops=whole.flops + cost.flops,
            elements=whole.elements + cost.elements,
            read=whole.read + cost.read - sum(touched(t) for t in held),
            written=whole.written + written,
        )
        return True

    def _hold(self, scores: list[Tensor], at: int) -> None:
        for tensor in scores:
            self._scores[_storage(tensor)] = (at, tensor.untyped_storage())


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _safe_softmax(scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """As ``_safe_softmax`` in ``aten/src/ATen/native/transformers/attention.cpp``."""
    out = torch.softmax(scores, dim, dtype)
    masked = torch.all(scores.eq(float("-inf")), dim, keepdim=True)
    zero = torch.scalar_tensor(0.0, dtype=out.dtype, device=out.device)
    return torch.where(masked, zero, out)


def fake_gpu(network: nn.Module) -> nn.Module:
    """A copy on a GPU that need not be there: its parameters and buffers have shapes, strides and
    dtypes, and no contents. For use in a ``FakeTensorMode``."""
    memo: dict[int, Any] = {}
    for value in [value for module in network.modules() for value in vars(module).values()]:
        if isinstance(value, Tensor):  # no buffer: it stays where it is, as with .to()
            memo[id(value)] = torch.empty(value.shape, dtype=value.dtype)
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(fake, requires_grad=False) if is_parameter else fake
    return copy.deepcopy(network, memo)
