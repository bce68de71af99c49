"""What every engine is: one module, on one fixed shape.

An engine is given a module that maps (N, C, H, W) to (N, C, s*H, s*W) and one
:class:`TileSpec`. From then on it runs that shape and no other, so that whatever
it prepares (a captured graph, a compiled model, static buffers) is prepared once.
Engines know nothing of the network behind the module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Engine", "TileSpec"]

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class TileSpec:
    """The one shape that an engine runs.

    Args:
        batch: tiles a call, at least 1.
        channels: 3 for RGB.
        height: of a tile, in input pixels.
        width: of a tile, in input pixels.
        scale: output pixels an input pixel, along each axis.
        dtype: of input and output tensors. What the engine computes in between
            is its precision, not this.
        device: where input and output tensors live.
    """

    batch: int
    channels: int = 3
    height: int
    width: int
    scale: int
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def __post_init__(self) -> None:
        for name in ("batch", "channels", "height", "width", "scale"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"TileSpec.{name} is {value}; it must be at least 1")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.channels, self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.channels, self.height * self.scale, self.width * self.scale)

    @property
    def tile_bytes(self) -> int:
        """Of one tile and its result."""
        pixels = self.height * self.width * (1 + self.scale**2)
        return pixels * self.channels * self.dtype.itemsize


@runtime_checkable
class Engine(Protocol):
    """A module, ready to run one :class:`TileSpec`.

    Attributes:
        name: the engine's name on the command line.
        precision: what it computes in: ``fp32``, ``bf16`` or ``fp16``.
        spec: the one shape it runs.
    """

    name: str
    precision: str
    spec: TileSpec

    def run(self, tiles: Tensor) -> Tensor:
        """Run one full batch.

        Args:
            tiles: of ``spec.input_shape``, ``spec.dtype``, on ``spec.device``.

        Returns:
            ``spec.output_shape``. It may be a buffer of the engine's own, valid
            until the next call: copy what must live longer.

        Raises:
            EngineError: the shape is not the spec's, or the run failed.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds. Running it afterwards is an error."""
        ...
