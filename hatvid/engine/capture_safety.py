"""Could this be captured into a CUDA graph? Asked without a GPU.

The function runs once on fake CUDA tensors, which have shapes and a device but no
contents, and each operator is looked at. A CUDA graph repeats kernels on fixed
addresses: whatever comes from the host while it is captured is missing when it is
replayed, and whatever asks the GPU for a value makes the capture fail.

Not seen here: streams that are not joined, libraries that initialise themselves at their
first call, what the allocator and autotuning do during capture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hatvid.errors import EngineError

__all__ = ["check_capturable", "fake_cuda"]

MEMORY_ONLY = {"empty", "empty_strided", "new_empty", "new_empty_strided", "empty_like"}
"""They compute nothing: the graph's own pool serves them."""

READS_VALUES = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)


class _Hazard(Exception):  # noqa: N818 - a finding, turned into an EngineError
    pass


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            if tensor.device.type != "cuda":
                raise _Hazard(f"{name} reads a tensor on the {tensor.device.type}")
        if any(tag in func.tags for tag in READS_VALUES) or _picks(name, args):
            raise _Hazard(f"{name} reads values of a tensor")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _Hazard(f"{name} draws random numbers")
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if made and not tensors and name not in MEMORY_ONLY:
            raise _Hazard(f"{name} makes a tensor out of numbers of the host")
        for tensor in made:
            if tensor.device.type != "cuda":
                raise _Hazard(f"{name} copies to the {tensor.device.type}")
        return result


class _WholeAttention(TorchFunctionMode):
    """Keeps PyTorch from asking the GPU which attention kernel it has."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v, *rest = args
        mask = kwargs.get("attn_mask", rest[0] if rest else None)
        scores = q @ k.transpose(-1, -2)
        return (scores if mask is None else scores + mask).softmax(-1) @ v


def check_capturable(
    function: Callable[..., object], inputs: tuple[Tensor, ...], *modules: nn.Module
) -> None:
    """Refuse what a CUDA graph could not repeat.

    Args:
        function: called with fake copies of the modules, then of the inputs.
        inputs: of the shapes and dtypes to capture; where they are does not matter.
        modules: what the function calls, prepared for the shape.

    Raises:
        EngineError: names the first operator that is in the way.
    """
    mode = FakeTensorMode()
    fakes = [fake_cuda(module, mode) for module in modules]
    with mode, torch.no_grad():
        tensors = [_faked(tensor) for tensor in inputs]
        try:
            with _WholeAttention(), _Watch():  # type: ignore[no-untyped-call]
                function(*fakes, *tensors)
        except _Hazard as hazard:
            raise EngineError(
                f"this network cannot be captured into a CUDA graph: {hazard}; choose engine eager"
            ) from None
        except (RuntimeError, TypeError, AssertionError) as error:
            first = str(error).strip().partition("\n")[0]
            raise EngineError(
                f"this network cannot be captured into a CUDA graph: {first}; choose engine eager"
            ) from error


def fake_cuda(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy of a module whose parameters and buffers are on a GPU that need not exist."""
    memo: dict[int, Any] = {}
    with mode:
        for tensor in _held(module):
            fake = _faked(tensor)
            memo[id(tensor)] = (
                nn.Parameter(fake, requires_grad=False)
                if isinstance(tensor, nn.Parameter)
                else fake
            )
    return copy.deepcopy(module, memo)


def _held(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _faked(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cuda")


def _picks(name: str, args: tuple[Any, ...]) -> bool:
    """Indexing by true and false, whose result is as long as there are trues."""
    if not name.startswith("index") or len(args) < 2:
        return False
    return any(
        isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8)
        for leaf in tree_leaves(args[1])
    )
