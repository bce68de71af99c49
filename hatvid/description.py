"""What an upscaler tells of itself and of its work."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf
from typing import Literal

from hatvid.engine.fidelity import Fidelity

__all__ = ["Description", "MendedTile"]


@dataclass(frozen=True, kw_only=True)
class Description:
    """How frames of one size are upscaled: every choice, with ``auto`` decided."""

    model: str
    scale: int
    """Output pixels an input pixel."""
    network_scale: int
    """The same of the network; what it gives beyond ``scale`` is reduced."""
    engine: str
    precision: str
    """``auto`` until the first frames, or :meth:`Upscaler.warm_up`, decided it."""
    device: str
    threads: int
    streams: int
    """Batches computed at the same time, where the engine has streams."""
    tile_height: int
    """In input pixels, as is all that follows."""
    tile_width: int
    overlap: int
    tiles: int
    """Of one frame."""
    tile: int
    """The side that was asked for or chosen; 0 is the whole frame."""
    chunked: bool
    """The whole frame is one tile, run in chunks of windows."""
    batch: int
    fidelity: Fidelity | None
    """Of the engine, against the network itself; None where it is the network itself, or
    was not built yet."""
    refused: tuple[str, ...] = ()
    """Engines, precisions and kernels that failed a check, one line each."""
    warning: str | None = None
    """Of a precision that was asked for by name and is not near enough to fp32."""
    layout: Literal["cpu", "gpu"] = "cpu"
    kernel: str = "default"
    """That computes attention; ``auto`` until it was decided."""
    alone: bool = False
    """No bit of a tile hangs on its place in a batch."""
    streamed: bool = False
    """Jobs keep several frames on their way, recorded whole."""
    reuse: Literal["off", "on", "untried", "refused"] = "off"
    """Whether a tile that comes again takes the result it had. ``untried`` until one does;
    ``refused`` where the engine then gave other bits for the same tile."""

    @property
    def snr(self) -> float | None:
        """dB against the network itself; None where that is not known, or nothing differs."""
        return None if self.fidelity is None or isinf(self.fidelity.snr) else self.fidelity.snr


@dataclass(frozen=True)
class MendedTile:
    """A tile that ran out of the precision's range, and was computed again in fp32."""

    frame: int
    """Its number among the frames of the call, from 0."""

    top: int
    """In input pixels, as is all that follows."""
    left: int
    height: int
    width: int
