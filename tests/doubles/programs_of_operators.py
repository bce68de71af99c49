"""What a function runs, operator by operator: names, and shapes, strides and dtypes of all
tensors that go in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Line = tuple[str, tuple[tuple[tuple[int, ...], tuple[int, ...], str], ...]]

ATTENTION = "scaled_dot_product_attention"
NO_WORK = ("detach", "empty", "empty_like", "new_empty", "promote_types")

OF_A_CPU = "_scaled_dot_product_flash_attention_for_cpu"
"""One kernel, as a GPU's are: the same operator."""


def program(function: Callable[[], object]) -> list[Line]:
    """The operators that a function runs; views are none."""
    lines: list[Line] = []
    with torch.no_grad(), _Attention(lines), _Operators(lines):
        function()
    return lines


def _line(name: str, leaves: list[Any]) -> Line:
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return name, tuple((tuple(t.shape), _strides(t), str(t.dtype)) for t in tensors)


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Of an axis of one number the stride means nothing."""
    return tuple(
        step if size > 1 else 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    )


class _Operators(TorchDispatchMode):
    def __init__(self, lines: list[Line]) -> None:
        super().__init__()
        self.lines = lines

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        works = func.namespace != "prim" and not func.is_view and name not in NO_WORK
        if works:
            known = ATTENTION if name == OF_A_CPU else name
            self.lines.append(_line(known, tree_leaves((args, kwargs))))
        result = func(*args, **kwargs)
        # On a CPU it keeps channels-last order, on a GPU it does not: the same values, and no
        # other operator differs so.
        return result.contiguous() if name == "pixel_shuffle" else result


class _Attention(TorchFunctionMode):
    """Takes attention as one operator where it is not one kernel yet."""

    def __init__(self, lines: list[Line]) -> None:
        super().__init__()
        self.lines = lines

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, _, v = args
        self.lines.append(_line(ATTENTION, [*args, kwargs["attn_mask"]]))
        # As kernels lay it out: (N, queries, heads, D).
        heads, queries = q.shape[-3:-1]
        return q.new_empty((*q.shape[:-3], queries, heads, v.shape[-1])).transpose(-3, -2)
