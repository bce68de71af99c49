"""CUDA graphs: a network's kernels, captured once and started by one call.

A frame of a transformer is some thousands of small kernels; started one by one from Python, the GPU
waits for the next more often than it computes. Captured, they follow each other without
the host. A graph reads and writes the addresses that it was captured with: hence static
inputs and outputs (PyTorch's notes on CUDA graphs, "CUDA semantics").
"""

from __future__ import annotations

import threading
import weakref
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hatvid.engine.runtime import Event, Function, Recording, Stream
from hatvid.engine.settings import full_precision, ran_out
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = ["CudaRuntime"]

WARM_UPS = 3
"""Runs before capture: libraries choose their algorithms and allocate their workspaces
in the first, and neither may happen while a graph is captured."""

_ATTENTION = {
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}

POOL = 32
"""Streams that PyTorch has of one priority on one device (c10/cuda/CUDAStream.cpp): it hands
them out in turn, so that the 33rd is the first again."""

_CAPTURING = threading.RLock()
"""Held while a graph is warmed up and captured: PyTorch allows one capture at a time in a
process (torch/cuda/graphs.py), and the device cannot be waited for meanwhile."""


class _CaptureStreams:
    """Streams of one device to capture on, each with one graph that lives.

    PyTorch gives each stream one cuBLAS workspace, whose address is captured. Two graphs of
    one stream would write to the same workspace where they are replayed side by side; and a
    graph that goes frees the workspace of its stream, which the other still writes to.

    They are of high priority only because that pool is another than the one from which all
    others draw: what a thread that decodes did on a stream that captures would be captured.
    Streams of graphs that are gone are taken again, as workspaces are kept for each.
    """

    def __init__(self, cuda: Any, device: torch.device) -> None:
        self._cuda, self._device = cuda, device
        self._drawn: list[Stream] = []
        self._free: list[Stream] = []

    def take(self) -> Stream:
        """One that no graph has.

        Raises:
            EngineError: there is none.
        """
        if self._free:
            return self._free.pop()
        for _ in range(POOL):
            stream = self._cuda.Stream(self._device, priority=-1)
            if stream not in self._drawn:
                self._drawn.append(stream)
                return stream
        raise EngineError(
            f"{len(self._drawn)} CUDA graphs are kept on {self._device}, and there is no stream "
            "for another; close upscalers that are not used, or choose engine eager"
        )

    def give_back(self, graph: Any, stream: Stream) -> None:
        """Free a graph, and then, as it takes its workspace with it, its stream."""
        graph.reset()
        self._free.append(stream)


_streams: dict[tuple[Any, torch.device], _CaptureStreams] = {}


def _streams_of(cuda: Any, device: torch.device) -> _CaptureStreams:
    return _streams.setdefault((cuda, device), _CaptureStreams(cuda, device))


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
        with _CAPTURING, self._cuda.device(self._device), torch.no_grad(), full_precision():
            return _Graph(self._cuda, self._device, function, inputs)

    def attention(self, kernel: str) -> AbstractContextManager[object]:
        """See :meth:`hatvid.engine.runtime.Runtime.attention`."""
        backend = _ATTENTION.get(kernel)
        # One backend and no other: what cannot run must fail, and not become the slow one
        # that writes its scores.
        return nullcontext() if backend is None else sdpa_kernel([backend])

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
        with _CAPTURING:
            self._cuda.synchronize(self._device)

    def empty_cache(self) -> None:
        """See :meth:`hatvid.engine.runtime.Runtime.empty_cache`."""
        with _CAPTURING:
            self._cuda.empty_cache()

    def staging(self, like: Tensor) -> Tensor:
        """Page-locked, so that copies run beside the host and beside kernels."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=self._cuda.is_available())


class _Graph:
    """One captured function; its memory lies in a pool of its own."""

    def __init__(
        self, cuda: Any, device: torch.device, function: Function, inputs: tuple[Tensor, ...]
    ) -> None:
        self.inputs = inputs
        streams = _streams_of(cuda, device)
        stream, graph = streams.take(), cuda.CUDAGraph()
        try:
            # The graph that had this stream may still run, in its workspace.
            cuda.synchronize(device)
            # On the stream that will capture: workspaces belong to streams.
            stream.wait_stream(cuda.current_stream(device))
            with cuda.stream(stream):
                for _ in range(WARM_UPS):
                    function(*inputs)
            cuda.current_stream(device).wait_stream(stream)
            # Threads that decode and encode may allocate meanwhile; only what this one
            # does is captured, and only this one has to keep the rules.
            with cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self.outputs = tuple(function(*inputs))
        except BaseException as error:
            with suppress(RuntimeError):  # a capture that broke; what broke it is raised below
                streams.give_back(graph, stream)
            if not isinstance(error, RuntimeError):
                raise
            first = str(error).strip().partition("\n")[0]
            # Ending a capture that failed may fail in turn.
            before = error.__context__
            if ran_out(error) or (isinstance(before, RuntimeError) and ran_out(before)):
                raise OutOfMemoryError(
                    f"memory ran out while the network was captured ({first}); "
                    "choose a smaller tile"
                ) from error
            raise EngineError(
                f"the network cannot be captured ({first}); choose engine eager"
            ) from error
        self._graph = graph
        weakref.finalize(self, streams.give_back, graph, stream).atexit = False

    def replay(self) -> None:
        """See :meth:`hatvid.engine.runtime.Recording.replay`."""
        self._graph.replay()
