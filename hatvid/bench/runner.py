"""What the process of a contestant runs: a task, and something that upscales frames.

Frames are NumPy arrays, so that a contestant loads no library that it does not use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import batched
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hatvid.options import WINDOW

__all__ = ["Array", "Frames", "Runner", "Sequential", "Task"]

Array = NDArray[np.float32]

STEP = 1e-6
"""What is added to every sample from one run to the next: far less than a step of 8 bits,
and enough that no pixel equals one that was computed before. Nothing can be reused."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all contestants of one race are given; plain values, for JSON."""

    model: str
    """For messages."""

    scale: int
    height: int
    width: int

    network: Mapping[str, Any]
    """The fields of a :class:`~hatvid.model.hat.HATConfig`."""

    weights: str
    """Path of the published network's state dict (safetensors)."""

    frames: str
    """Path of an array (N, 3, H, W) float32, RGB in [0, 1] (npy)."""

    threads: int

    onnx: str | None = None
    """Path of the published network as ONNX, for contestants that ask for it."""

    native_bf16: bool = False
    """Whether this CPU computes in bf16."""

    clip: bool = False
    """The frames are a clip's; else each is what an engine gets at once."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it back."""
        return asdict(self)

    @property
    def tile(self) -> int:
        """Side of the tile that one frame is; 0 for a clip's frames, which go through whole."""
        return 0 if self.clip else -(-max(self.height, self.width) // WINDOW) * WINDOW

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """As :meth:`as_dict` gave it."""
        network = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields["network"].items()
        }
        return cls(**{**fields, "network": network})


class Frames:
    """The frames of a task, one after the other without end, none like any before.

    Args:
        base: (N, 3, H, W), from which they are made.
    """

    def __init__(self, base: Array) -> None:
        self.base = base
        self._next = 0

    @classmethod
    def of(cls, task: Task) -> Self:
        """Those of a task."""
        return cls(np.load(Path(task.frames)))

    def number(self, n: int) -> Array:
        """Frame number ``n``, (1, 3, H, W); the first N are those given."""
        turn, index = divmod(n, len(self.base))
        return self.base[index : index + 1] + np.float32(turn * STEP)

    def take(self, count: int) -> Iterator[Array]:
        """The next ones."""
        for _ in range(count):
            self._next += 1
            # Behind those given, whose output is compared.
            yield self.number(len(self.base) + self._next)


class Runner(Protocol):
    """A contestant that is ready to run.

    Attributes:
        precision: what it computes in.
        settings: how it runs, for the record.
        step: frames that it must be given at least, to show what it can do.
        work: FLOPs of one frame, where it is not the network that is computed.
    """

    precision: str
    settings: Mapping[str, Any]
    step: int
    work: float | None

    def run(self, count: int) -> float:
        """Upscale the next ``count`` frames.

        Returns:
            The seconds that it took.
        """
        ...

    def output(self) -> Array | None:
        """The task's frames as given, upscaled: (N, 3, sH, sW); None if there is no picture."""
        ...


@dataclass
class Sequential:
    """A :class:`Runner` that takes one frame after the other, or a few at once.

    Args:
        frames: to upscale.
        upscale: maps (n, 3, H, W) to (n, 3, sH, sW), with n up to ``step``.
        step: frames at once.
    """

    frames: Frames
    upscale: Callable[[Array], Array]
    precision: str = "fp32"
    settings: Mapping[str, Any] = field(default_factory=dict)
    step: int = 1
    work: float | None = None

    def run(self, count: int) -> float:
        """See :class:`Runner`."""
        seconds = 0.0
        for few in batched(self.frames.take(count), self.step):
            together = np.concatenate(few)
            start = time.perf_counter()
            self.upscale(together)
            seconds += time.perf_counter() - start
        return seconds

    def output(self) -> Array:
        """See :class:`Runner`."""
        count = len(self.frames.base)
        # Copied: a result may be a buffer that the next one overwrites.
        return np.concatenate([self.upscale(self.frames.number(n)).copy() for n in range(count)])
