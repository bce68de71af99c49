"""The module as it is, in plain PyTorch. In fp32 it is the reference."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from hatvid.engine.base import TileSpec
from hatvid.engine.prepare import Shrinkable, check_input, check_output, prepared
from hatvid.engine.settings import cpu_threads, full_precision, ran_out
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = ["EagerEngine"]


class EagerEngine:
    """Runs a module with plain PyTorch.

    A module that can do with less memory (:class:`~hatvid.engine.prepare.Shrinkable`)
    is asked to when memory runs out, and the batch is run again.

    Args:
        module: maps ``spec.input_shape`` to ``spec.output_shape``. It is not
            changed; see :func:`~hatvid.engine.prepare.prepared`.
        spec: the one shape to run, float32.
        precision: what the module computes in. It must have been brought to it;
            this is where its parameters' dtypes are checked.
        threads: of the CPU while it runs; None leaves PyTorch's setting alone.

    Raises:
        EngineError: the module's parameters are neither float32 nor of the precision.
    """

    name = "eager"

    def __init__(
        self,
        module: nn.Module,
        spec: TileSpec,
        *,
        precision: str = "fp32",
        threads: int | None = None,
    ) -> None:
        self.spec = spec
        self.precision: str = precision
        self._threads = threads
        self._module: nn.Module | None = prepared(module, spec, precision)

    def run(self, tiles: Tensor) -> Tensor:
        """See :meth:`hatvid.engine.base.Engine.run`."""
        if self._module is None:
            raise EngineError("the engine was closed; build a new one")
        check_input(self.spec, tiles)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.spec.device.type == "cuda":
                stack.enter_context(full_precision())
            elif self._threads is not None:
                stack.enter_context(cpu_threads(self._threads))
            output = self._result(self._module, tiles)
        if not isinstance(output, Tensor):
            raise EngineError(f"the module returned {type(output).__name__}, not a tensor")
        check_output(self.spec, tuple(output.shape))
        return output

    def _result(self, module: nn.Module, tiles: Tensor) -> object:
        while True:
            try:
                return module(tiles)
            except RuntimeError as error:
                first = str(error).strip().partition("\n")[0]
                if not ran_out(error):
                    raise EngineError(f"the network failed: {first}") from error
                if not (isinstance(module, Shrinkable) and module.shrink()):
                    raise OutOfMemoryError(
                        f"memory ran out while upscaling ({first}); choose a smaller tile"
                    ) from error
            # Outside the except clause, whose traceback keeps the maps alive.
            if self.spec.device.type == "cuda":
                torch.cuda.empty_cache()

    def close(self) -> None:
        """Let the module go."""
        self._module = None
