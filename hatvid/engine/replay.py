"""Record a function's operators once, replay them without its Python: what a CUDA graph
does, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hatvid.engine.runtime import Function
from hatvid.engine.settings import ran_out
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = ["Replay"]


class Replay:
    """A function of tensors, recorded as a graph of ATen operators.

    Like a CUDA graph it keeps what Python decided while it was recorded: branches,
    loops, numbers read from attributes. Weights are held by the recording.

    Args:
        function: see :data:`~hatvid.engine.runtime.Function`.
        inputs: they become the recording's static inputs.

    Raises:
        EngineError: the function reads values of tensors, or fails.
    """

    def __init__(self, function: Function, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = inputs
        try:
            with torch.no_grad():
                self._graph: Callable[..., Any] = make_fx(function)(*inputs)
                results = self._graph(*inputs)
        except RuntimeError as error:
            first = str(error).strip().partition("\n")[0]
            if ran_out(error):
                raise OutOfMemoryError(
                    f"memory ran out while the network was recorded ({first}); "
                    "choose a smaller tile"
                ) from error
            raise EngineError(f"the network failed while it was recorded: {first}") from error
        if not isinstance(results, tuple | list) or not all(
            isinstance(result, Tensor) for result in results
        ):
            raise EngineError("only functions that return tensors can be recorded")
        # Memory of their own: a result may be a view of an input, or of another result.
        self.outputs = tuple(result.clone() for result in results)

    def replay(self) -> None:
        """See :meth:`hatvid.engine.runtime.Recording.replay`."""
        with torch.no_grad():
            for output, result in zip(self.outputs, self._graph(*self.inputs), strict=True):
                output.copy_(result)
