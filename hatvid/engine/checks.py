"""Is the picture that an engine gives the network's own?

Two checks, both against the network as its checkpoint has it: not rewritten, run by plain
PyTorch in fp32.

- The **form check** is for what a GPU gets: padded channels, kernels of its own, a captured
  graph. It runs a small shape that has every kind of window, and is strict in fp32, where
  nothing is lost by rounding: faults of layout that 40 dB would let pass stand out there.
  In 16 bits the bar is what the same numbers give without those rewrites.
- The **job check** runs the very engine that a job uses, at the job's shape.

Which bar holds where is decided in :mod:`hatvid.picture_checks`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hatvid.engine.base import Engine, TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.engine.fidelity import Fidelity, compare
from hatvid.engine.prepare import Preparable
from hatvid.errors import OutOfMemoryError

__all__ = [
    "FORM_SHAPE",
    "FP32_FORM",
    "FP32_OTHER",
    "FormPictures",
    "MOST_GFLOP",
    "ROUNDING",
    "SHAPE",
    "STAND_IN",
    "continued",
    "gflop",
    "reference",
    "worst",
]

FORM_SHAPE = (56, 72)
"""Height and width of the form check's pictures. Windows of 16 pad them to 64x80: shifted
windows of all four kinds, overlapping windows that touch no border, and padding by
reflection on both axes."""

FP32_FORM = 90.0
"""dB of SNR that a rewritten network must have in fp32. Measured on the embedded network: the
smallest fault that was planted (a padded head's scale, in one block) leaves 86 dB, and
rounding alone over 110."""

FP32_OTHER = 75.0
"""dB in fp32 of other networks, and of any engine on a CPU."""

ROUNDING = 2.0
"""dB that a rewritten network may lose in 16 bits to the same one that was not padded."""

SHAPE = 3.0
"""dB that a job's shape may be worse than the form check's."""

MOST_GFLOP = 200.0
"""Of a reference on a CPU. Beyond, a smaller engine of the same recipe is checked."""

STAND_IN = 64
"""Height and width of that one."""


class FormPictures:
    """The two inputs of the form check.

    Args:
        picture: (1, C, H, W) in [0, 1].
        size: height and width of the inputs, at most those of the picture.
        device: where they shall be.
    """

    def __init__(self, picture: Tensor, size: tuple[int, ...], device: torch.device) -> None:
        height, width = size
        crops = [
            picture[0, :, top : top + height, left : left + width]
            for top, left in ((0, 0), (picture.shape[2] - height, picture.shape[3] - width))
        ]
        first = torch.stack(crops)
        self.pictures = tuple(t.to(device).contiguous() for t in (first, first.flip(0, 3)))

    def spec(self, scale: int) -> TileSpec:
        """The shape that they have."""
        first = self.pictures[0]
        return TileSpec(
            batch=len(first),
            height=first.shape[2],
            width=first.shape[3],
            scale=scale,
            device=first.device,
        )

    def run(self, engine: Engine, references: tuple[Tensor, ...]) -> Fidelity:
        """Run the first picture, the second, and the first again.

        Args:
            engine: of :meth:`spec`.
            references: of both pictures.

        Returns:
            The worst of the three. A third run that is worse than the first by over 1 dB, as
            of an engine that keeps something of the second, counts as no picture at all.
        """
        first, second, third = (
            worst(references[number], engine.run(self.pictures[number])) for number in (0, 1, 0)
        )
        if third.snr < first.snr - 1:
            return Fidelity(snr=-math.inf, max_error=max(first.max_error, third.max_error))
        return Fidelity(
            snr=min(first.snr, second.snr, third.snr),
            max_error=max(first.max_error, second.max_error, third.max_error),
        )


def continued(picture: Tensor, spec: TileSpec) -> Tensor:
    """A picture continued by reflection to a shape, another part of it in each slot.

    Args:
        picture: (1, C, H, W).
        spec: of the result.

    Returns:
        ``spec.input_shape``, of its dtype, on its device. Without noise or invented
        structure: where the picture is natural, so is what it is continued to.
    """
    whole = picture[0].to(spec.dtype)
    slots = []
    for slot in range(spec.batch):
        rows = _reflected(whole.shape[1], spec.height, 37 * slot)
        columns = _reflected(whole.shape[2], spec.width, 53 * slot)
        slots.append(whole.index_select(1, rows).index_select(2, columns))
    return torch.stack(slots).to(spec.device)


def _reflected(size: int, length: int, start: int) -> Tensor:
    """Numbers of rows there and back again, the outermost ones not repeated."""
    at = (torch.arange(length) + start) % (2 * size - 2)
    return torch.where(at < size, at, 2 * size - 2 - at)


def worst(references: Tensor, outputs: Tensor) -> Fidelity:
    """The fidelity of the worst slot: a fault in one must not drown among many."""
    each = [compare(one, other) for one, other in zip(references, outputs, strict=True)]
    return Fidelity(
        snr=min(fidelity.snr for fidelity in each),
        max_error=max(fidelity.max_error for fidelity in each),
    )


def reference(
    module: nn.Module,
    in_chunks: Callable[[], nn.Module] | None,
    tiles: Tensor,
    scale: int,
    threads: int,
) -> Tensor:
    """What a network itself makes of tiles: plain PyTorch, fp32 without TF32, one by one.

    Args:
        module: maps (1, C, H, W) to (1, C, sH, sW), float32.
        in_chunks: the same in less memory, for tiles that do not fit at once.
        tiles: (N, C, H, W).
        scale: s.
        threads: of the CPU.

    Returns:
        (N, C, sH, sW), on the tiles' device.

    Raises:
        OutOfMemoryError: a tile does not fit in chunks either.
    """
    spec = TileSpec(
        batch=1, height=tiles.shape[2], width=tiles.shape[3], scale=scale, device=tiles.device
    )
    try:
        return _one_by_one(module, spec, tiles, threads)
    except OutOfMemoryError:
        if in_chunks is None:
            raise
    # Outside the except clause, whose traceback keeps the maps alive.
    return _one_by_one(in_chunks(), spec, tiles, threads)


def _one_by_one(module: nn.Module, spec: TileSpec, tiles: Tensor, threads: int) -> Tensor:
    engine = EagerEngine(module, spec, threads=threads)
    try:
        return torch.cat([engine.run(tile[None]).clone() for tile in tiles])
    finally:
        engine.close()


def gflop(module: nn.Module, spec: TileSpec) -> float:
    """Billions of floating-point operations of one call, two for each multiply-add.

    Counted without computing, on tensors that have shapes alone.
    """
    ready = copy.deepcopy(module, {id(p): p for p in module.parameters()}).eval()
    with torch.no_grad():
        if isinstance(ready, Preparable):
            ready.prepare(spec.height, spec.width)
        counter = FlopCounterMode(display=False)
        with FakeTensorMode(allow_non_fake_inputs=True), counter:
            ready(torch.empty(1, *spec.input_shape[1:]))
    return counter.get_total_flops() / 1e9 * spec.batch
