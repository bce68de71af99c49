"""What a device can do beside computing: record work once, and do several things at a time.

A runtime hides whether there are streams at all. :class:`HostRuntime` is the CPU, where
everything happens at once and in order; :class:`hatvid.engine.cudagraph.CudaRuntime` is
a GPU. What is built on a runtime (:mod:`hatvid.engine.recorded`,
:mod:`hatvid.engine.lanes`) runs on both, so that all but the GPU's own calls is
exercised without one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from hatvid.engine.base import CPU

__all__ = ["Event", "Function", "HostRuntime", "Recording", "Runtime", "Stream"]

Function = Callable[..., tuple[Tensor, ...]]
"""Of tensors of fixed shapes; it reads no values, and draws no random numbers."""

Stream = Any
"""A queue of work on the device."""


class Recording(Protocol):
    """Work of one shape that is repeated without its Python.

    Attributes:
        inputs: read by each replay: fill them before, in place.
        outputs: written by each replay; copy what must outlive the next.
    """

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...

    @property
    def outputs(self) -> tuple[Tensor, ...]: ...

    def replay(self) -> None:
        """Do the work again, on what the inputs hold now, in the current stream."""
        ...


class Event(Protocol):
    """A point in a stream that others can wait for."""

    def record(self, stream: Stream) -> None: ...

    def wait(self, stream: Stream) -> None:
        """Let a stream wait for the point, not the host; nothing if it was never set."""
        ...

    def synchronize(self) -> None:
        """Let the host wait for the point."""
        ...


class Runtime(Protocol):
    """A device, as those see it that record work and keep several streams busy."""

    @property
    def device(self) -> torch.device: ...

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> Recording:
        """Record a function.

        Args:
            function: of as many tensors as there are inputs.
            inputs: on the device; they become the recording's own.

        Raises:
            OutOfMemoryError: there is no room for it.
            EngineError: it cannot be recorded, or fails.
        """
        ...

    def attention(self, kernel: str) -> AbstractContextManager[object]:
        """Within it, ``scaled_dot_product_attention`` runs on one kernel.

        Args:
            kernel: ``efficient`` or ``cudnn``, and where the kernel fails, so does the function
                that is recorded; any other leaves the choice to PyTorch.
        """
        ...

    def stream(self) -> Stream:
        """A new one."""
        ...

    def event(self) -> Event:
        """A new one, not set."""
        ...

    def on(self, stream: Stream) -> AbstractContextManager[object]:
        """Within it, work goes to the stream."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        ...

    def empty_cache(self) -> None:
        """Give memory that is kept for later, and that nothing uses, back to the device."""
        ...

    def staging(self, like: Tensor) -> Tensor:
        """Host memory of the same shape and dtype, from which copying is fastest."""
        ...


class _Now:
    """An event where everything has happened already."""

    def record(self, stream: Stream) -> None:
        pass

    def wait(self, stream: Stream) -> None:
        pass

    def synchronize(self) -> None:
        pass


class HostRuntime:
    """The CPU: no streams; recordings are lists of operators."""

    device = CPU

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> Recording:
        """See :meth:`Runtime.record`."""
        from hatvid.engine.replay import Replay

        return Replay(function, inputs)

    def attention(self, kernel: str) -> AbstractContextManager[object]:
        """Nothing changes: PyTorch has one kernel for attention on a CPU."""
        return nullcontext()

    def stream(self) -> Stream:
        """None: there is one queue, and it is never named."""
        return None

    def event(self) -> Event:
        """One that is always set."""
        return _Now()

    def on(self, stream: Stream) -> AbstractContextManager[object]:
        """Nothing changes."""
        return nullcontext()

    def synchronize(self) -> None:
        """Everything is done already."""

    def empty_cache(self) -> None:
        """Nothing is kept."""

    def staging(self, like: Tensor) -> Tensor:
        """Ordinary memory."""
        return torch.empty(like.shape, dtype=like.dtype)
