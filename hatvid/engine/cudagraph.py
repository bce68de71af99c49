"""CUDA graphs: a network's kernels, captured once and started by one call.

A frame of a transformer is some thousands of small kernels; started one by one from Python, the GPU
waits for the next more often than it computes. Captured, they follow each other without
the host. A graph reads and writes the addresses that it was captured with: hence static
inputs and outputs (PyTorch's notes on CUDA graphs, "CUDA semantics").
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from hatvid.engine.runtime import Event, Function, Recording, Stream
from hatvid.engine.settings import full_precision, ran_out
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = ["CudaRuntime"]

WARM_UPS = 3
"""Runs before capture: libraries choose their algorithms and allocate their workspaces
in the first, and neither may happen while a graph is captured."""


class CudaRuntime:
    """An NVIDIA GPU.

    Args:
        device: ``cuda:N``.
        cuda: what to call in place of ``torch.cuda``, for tests.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device = device
        self._cuda = cuda

    @property
    def device(self) -> torch.device:
        """As given."""
        return self._device

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> Recording:
        """See :meth:`hatvid.engine.runtime.Runtime.record`."""
        with self._cuda.device(self._device), torch.no_grad(), full_precision():
            return _Graph(self._cuda, self._device, function, inputs)

    def stream(self) -> Stream:
        """See :meth:`hatvid.engine.runtime.Runtime.stream`."""
        return self._cuda.Stream(self._device)

    def event(self) -> Event:
        """See :meth:`hatvid.engine.runtime.Runtime.event`."""
        # A host that waits must not spin: decoder and encoder want its cores.
        event: Event = self._cuda.Event(blocking=True)
        return event

    def on(self, stream: Stream) -> AbstractContextManager[object]:
        """See :meth:`hatvid.engine.runtime.Runtime.on`."""
        context: AbstractContextManager[object] = self._cuda.stream(stream)
        return context

    def synchronize(self) -> None:
        """See :meth:`hatvid.engine.runtime.Runtime.synchronize`."""
        self._cuda.synchronize(self._device)

    def staging(self, like: Tensor) -> Tensor:
        """Page-locked, so that copies run beside the host and beside kernels."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=self._cuda.is_available())


class _Graph:
    """One captured function; its memory lies in a pool of its own."""

    def __init__(
        self, cuda: Any, device: torch.device, function: Function, inputs: tuple[Tensor, ...]
    ) -> None:
        self.inputs = inputs
        stream = cuda.Stream(device)
        try:
            # On the stream that will capture: workspaces belong to streams.
            stream.wait_stream(cuda.current_stream(device))
            with cuda.stream(stream):
                for _ in range(WARM_UPS):
                    function(*inputs)
            cuda.current_stream(device).wait_stream(stream)
            self._graph = cuda.CUDAGraph()
            # Threads that decode and encode may allocate meanwhile; only what this one
            # does is captured, and only this one has to keep the rules.
            with cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self.outputs = tuple(function(*inputs))
        except RuntimeError as error:
            first = str(error).strip().partition("\n")[0]
            if ran_out(error):
                cuda.empty_cache()
                raise OutOfMemoryError(
                    f"memory ran out while the network was captured ({first}); "
                    "choose a smaller tile"
                ) from error
            raise EngineError(
                f"the network cannot be captured ({first}); choose engine eager"
            ) from error

    def replay(self) -> None:
        """See :meth:`hatvid.engine.runtime.Recording.replay`."""
        self._graph.replay()
