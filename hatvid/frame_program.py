"""The whole way of some frames on a device, as one thing to replay: planes, tiles, network,
larger frames, planes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hatvid.engine import Engine
from hatvid.engine.runtime import Runtime
from hatvid.engine.sentinel import suspects
from hatvid.resampling import resample
from hatvid.tiling import Canvas, TilePlan, blend_ramps

__all__ = ["FrameProgram"]


class FrameProgram:
    """A :class:`~hatvid.engine.runtime.Recording` of everything between two copies.

    What lies around the network is recorded too, once before it and once behind it, so
    that nothing between upload and download is started from Python but a few replays.

    Args:
        runtime: records.
        engine: runs the tiles, on the runtime's device.
        tiles: how a frame is cut.
        inputs: the static inputs, on the device.
        before: the inputs, as given, -> (N, 3, H, W) float32 RGB.
        after: (N, 3, H', W') float32 RGB -> what is wanted of it.
        size: H' and W'.

    Attributes:
        inputs: as given.
        outputs: those of ``after``, then one flag a tile, (N * tiles.count,) bool: it cannot
            be right (:mod:`hatvid.engine.sentinel`).
    """

    def __init__(
        self,
        runtime: Runtime,
        engine: Engine,
        tiles: TilePlan,
        inputs: tuple[Tensor, ...],
        *,
        before: Callable[[tuple[Tensor, ...]], Tensor],
        after: Callable[[Tensor], tuple[Tensor, ...]],
        size: tuple[int, int],
    ) -> None:
        spec = engine.spec
        self.inputs = inputs
        self._engine = engine

        def cut(*planes: Tensor) -> tuple[Tensor, ...]:
            small = tiles.extract(before(planes))
            missing = -len(small) % spec.batch
            return (torch.cat([small, small[-1:].expand(missing, -1, -1, -1)]), small)

        self._cut = runtime.record(cut, inputs)
        self._small, real = self._cut.outputs
        count = len(real)
        # The engine's own buffer, if it always answers with the same and one call is enough.
        self._larger = engine.run(self._small[: spec.batch])
        if len(self._small) > spec.batch or engine.run(self._small) is not self._larger:
            self._larger = self._larger.new_empty(len(self._small), *self._larger.shape[1:])
        ramps = blend_ramps(tiles, scale=spec.scale, dtype=spec.dtype, device=runtime.device)

        def join(small: Tensor, larger: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
            canvas = Canvas(
                tiles,
                count // tiles.count,
                scale=spec.scale,
                device=runtime.device,
                ramps=dict(zip(ramps, weights, strict=True)),
            )
            canvas.extend(larger[:count])
            wrong = suspects(small[:count], larger[:count])
            return (*after(resample(canvas.frames, *size)), wrong)

        self._join = runtime.record(join, (self._small, self._larger, *ramps.values()))
        self.outputs = self._join.outputs

    def replay(self) -> None:
        """See :meth:`hatvid.engine.runtime.Recording.replay`."""
        self._cut.replay()
        batch = self._engine.spec.batch
        for start in range(0, len(self._small), batch):
            larger = self._engine.run(self._small[start : start + batch])
            if larger is not self._larger:
                self._larger[start : start + batch].copy_(larger)
        self._join.replay()
