"""What a job tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hatvid.reuse import Reused

__all__ = ["Progress", "Silent", "Started"]


@dataclass(frozen=True, kw_only=True)
class Started:
    """What is known when the first frame is about to be computed.

    Args:
        frames: how many there will be, None if the container does not say.
        tile: (height, width) in input pixels.
        kernel: that computes attention; ``default`` is PyTorch's choice.
        snr: in dB, of what the engine makes of a test picture, against the network itself; None
            where nothing differs, or nothing was computed.
        refused: engines, precisions and kernels that failed a check, one line each.
        done: frames that an earlier run of the job did; they count among the ``frames``.
    """

    input: str
    output: str
    frames: int | None
    width: int
    height: int
    scale: int
    model: str
    engine: str
    precision: str
    kernel: str
    snr: float | None
    refused: tuple[str, ...]
    device: str
    tile: tuple[int, int]
    tiles: int
    batch: int
    codec: str
    pix_fmt: str
    done: int = 0


@runtime_checkable
class Progress(Protocol):
    """Told what happens, from the thread that runs the job."""

    def note(self, text: str) -> None:
        """One line that the user should see."""
        ...

    def started(self, facts: Started) -> None:
        """Called before the first frame; again where the job starts over."""
        ...

    def reused(self, tiles: Reused) -> None:
        """So many tiles were not computed by now, in all; called before :meth:`advanced`."""
        ...

    def advanced(self, frames: int) -> None:
        """``frames`` are done by now, in all."""
        ...

    def verifying(self, frames: int) -> None:
        """``frames`` of the output are compared with the input by now, in all."""
        ...

    def publishing(self) -> None:
        """Called once, right before the whole output gets its name: a program should not
        let itself be broken off from here on."""
        ...


class Silent:
    """Tells nobody."""

    def note(self, text: str) -> None: ...

    def started(self, facts: Started) -> None: ...

    def reused(self, tiles: Reused) -> None: ...

    def advanced(self, frames: int) -> None: ...

    def verifying(self, frames: int) -> None: ...

    def publishing(self) -> None: ...
