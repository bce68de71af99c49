"""Frames on their way through a device, several at once.

While one frame is computed the next is uploaded and the one before downloaded, each on a
stream of its own; events hold them in order, and the host waits for finished frames
only::

    upload    │ 1 │ 2 │ 3 │
    compute       │  1  │  2  │  3  │
    download            │ 1 │ │ 2 │ │ 3 │
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hatvid.engine.runtime import Event, Recording, Runtime, Stream

__all__ = ["Landed", "Lanes"]


@dataclass(frozen=True)
class Landed[T]:
    """What has come out."""

    item: T
    """As submitted."""

    outputs: tuple[Tensor, ...]
    """Valid until :attr:`release` is called."""

    release: Callable[[], None]
    """Give the buffers back; from any thread, once."""


class _Slot:
    """The buffers of one frame on its way, on both sides."""

    def __init__(
        self, runtime: Runtime, like: Recording, upload: Stream, *, download: bool
    ) -> None:
        self.host_inputs = tuple(runtime.staging(tensor) for tensor in like.inputs)
        # Allocated, not cloned, and on the stream that writes first: work of another stream
        # is not ordered before the first upload, neither a clone's copy nor what is still
        # running there on memory that the allocator hands out again. Every row is written
        # before it is read.
        with runtime.on(upload):
            self.inputs = tuple(torch.empty_like(tensor) for tensor in like.inputs)
            self.outputs = tuple(torch.empty_like(tensor) for tensor in like.outputs)
        host = tuple(runtime.staging(tensor) for tensor in like.outputs) if download else None
        self.host_outputs = host
        self.uploaded, self.computed = runtime.event(), runtime.event()
        self.downloaded = runtime.event()

    @property
    def done(self) -> Event:
        return self.computed if self.host_outputs is None else self.downloaded


class Lanes[T]:
    """Runs recordings, with uploads and downloads beside them.

    Args:
        runtime: whose streams are used.
        programs: of equal shapes, one for each stream that computes; they take turns.
        held: how many that have landed may wait to be released before another is
            submitted; with the encoder's queue in mind.
        download: bring the outputs to the host; else they stay on the device.
    """

    def __init__(
        self,
        runtime: Runtime,
        programs: Sequence[Recording],
        *,
        held: int,
        download: bool = True,
    ) -> None:
        self._runtime = runtime
        self._programs = tuple(programs)
        self._upload, self._download = runtime.stream(), runtime.stream()
        self._compute: tuple[Stream, ...] = tuple(runtime.stream() for _ in programs)
        # One computing on each stream, one behind it that is ready, one being downloaded.
        self.depth = len(self._programs) + 2
        like = self._programs[0]
        self._free = deque(
            _Slot(runtime, like, self._upload, download=download) for _ in range(self.depth + held)
        )
        self._flying: deque[tuple[_Slot, T]] = deque()
        self._submitted = 0

    def __len__(self) -> int:
        """Submitted and not collected."""
        return len(self._flying)

    @property
    def full(self) -> bool:
        """Whether one must be collected before another is submitted."""
        return len(self._flying) >= self.depth

    def submit(self, inputs: Sequence[Tensor], item: T) -> None:
        """Start one on its way; returns before it is computed.

        Args:
            inputs: as many as the programs have, on the host or on the device; fewer rows
                than theirs are filled up with the last row.
            item: comes back with the outputs. Inputs on the device must live until then,
                and be complete already.
        """
        assert not self.full
        slot = self._free.popleft()
        which = self._submitted % len(self._programs)
        self._submitted += 1
        program, compute = self._programs[which], self._compute[which]
        runtime = self._runtime
        # A slot that is free has landed: nothing on the device reads or writes it any more.
        sources = []
        for given, staged in zip(inputs, slot.host_inputs, strict=True):
            if given.device.type == "cpu":
                _fill(staged, given)
            sources.append(staged if given.device.type == "cpu" else given)
        with runtime.on(self._upload):
            for source, target in zip(sources, slot.inputs, strict=True):
                _fill(target, source)
            slot.uploaded.record(self._upload)
        with runtime.on(compute):
            slot.uploaded.wait(compute)
            _copy(slot.inputs, program.inputs)
            program.replay()
            _copy(program.outputs, slot.outputs)
            slot.computed.record(compute)
        if slot.host_outputs is not None:
            with runtime.on(self._download):
                slot.computed.wait(self._download)
                _copy(slot.outputs, slot.host_outputs)
                slot.downloaded.record(self._download)
        self._flying.append((slot, item))

    def collect(self) -> Landed[T]:
        """Wait for the one that was submitted first."""
        slot, item = self._flying.popleft()
        slot.done.synchronize()
        outputs = slot.outputs if slot.host_outputs is None else slot.host_outputs

        def release() -> None:
            self._free.append(slot)

        return Landed(item, outputs, release)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)


def _fill(target: Tensor, source: Tensor) -> None:
    """Copy rows; those that are missing repeat the last."""
    count = len(source)
    target[:count].copy_(source, non_blocking=True)
    if count < len(target):
        target[count:].copy_(source[-1:].expand_as(target[count:]), non_blocking=True)
