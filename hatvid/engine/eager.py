"""The reference: the module as it is, in fp32."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from hatvid.engine.base import TileSpec
from hatvid.engine.prepare import check_input, check_output, prepared
from hatvid.errors import EngineError

__all__ = ["EagerEngine"]


class EagerEngine:
    """Runs a module with plain PyTorch.

    Args:
        module: maps ``spec.input_shape`` to ``spec.output_shape``. It is not
            changed; see :func:`~hatvid.engine.prepare.prepared`.
        spec: the one shape to run, float32.
        threads: of the CPU while it runs; None leaves PyTorch's setting alone.

    Raises:
        EngineError: the module's parameters are not float32.
    """

    name = "eager"
    precision = "fp32"

    def __init__(self, module: nn.Module, spec: TileSpec, *, threads: int | None = None) -> None:
        self.spec = spec
        self._threads = threads
        self._module: nn.Module | None = prepared(module, spec)

    def run(self, tiles: Tensor) -> Tensor:
        """See :meth:`hatvid.engine.base.Engine.run`."""
        if self._module is None:
            raise EngineError("the engine was closed; build a new one")
        check_input(self.spec, tiles)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.spec.device.type == "cuda":
                stack.enter_context(_true_fp32())
            elif self._threads is not None:
                stack.enter_context(_threads(self._threads))
            try:
                output = self._module(tiles)
            except RuntimeError as error:
                raise EngineError(_advice(error)) from error
        if not isinstance(output, Tensor):
            raise EngineError(f"the module returned {type(output).__name__}, not a tensor")
        check_output(self.spec, tuple(output.shape))
        return output

    def close(self) -> None:
        """Let the module go."""
        self._module = None


def _advice(error: RuntimeError) -> str:
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError) or re.search(
        "not enough memory|allocate memory", first
    ):
        return f"memory ran out while upscaling ({first}); choose a smaller tile"
    return f"the network failed: {first}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _true_fp32() -> Iterator[None]:
    """No TF32: cuDNN takes it for convolutions unless it is told not to."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
