"""What frames of one size take in memory: the network that runs, and all that stands around it.

Counted on tensors without contents (:func:`hatvid.engine.memory.count_run`), and arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from hatvid.engine import TileSpec
from hatvid.engine.memory import count_prepared, count_run
from hatvid.model.hat import HAT
from hatvid.model.shallow import shallow
from hatvid.model.whole import CHUNK, STRIP, Pieces, WholeFrame

__all__ = ["WAITING", "network_bytes", "pieces_by_size", "recorded_frame_bytes", "tile_bytes"]

WAITING = 5
"""Frames that are computed and wait for the encoder, at most."""

PLANE_BYTES = 3 * 2
"""Of a pixel in planes, at most: three of 16 bits, as large as the picture."""

COLOR_MAPS = 4
"""RGB maps in fp32 that are alive at once where a result is put together and becomes planes."""

RGB_BYTES = 3 * torch.float32.itemsize

PROBE = 128
"""Side of the tile that is counted for tiles of any size."""

FEW_PIECES = 3
"""Of each kind that are counted: the first, at the border, one with all its rows around it, and
one that follows such a one. Further ones take the same."""


def network_bytes(module: nn.Module, spec: TileSpec, *, on_gpu: bool) -> int:
    """What an engine takes that runs a HAT: weights, what it prepares, and maps at the peak.

    Args:
        module: a HAT, at once or in chunks, in the form that runs. It is not changed.
        spec: its shape.
        on_gpu: as of :func:`hatvid.engine.memory.count_run`.
    """
    fixed = count_prepared(module, spec, on_gpu=on_gpu)
    if on_gpu:  # on a CPU they are there already, and shared
        fixed += sum(parameter.nbytes for parameter in module.parameters())
    return fixed + _maps(module, spec, on_gpu)


def tile_bytes(module: nn.Module, scale: int, *, on_gpu: bool) -> tuple[int, int]:
    """What an engine takes that runs tiles, for any size of theirs.

    Returns:
        Bytes that do not grow with the tile, and bytes for each of its pixels.
    """
    spec = TileSpec(batch=1, height=PROBE, width=PROBE, scale=scale)
    maps = _maps(module, spec, on_gpu)
    return network_bytes(module, spec, on_gpu=on_gpu) - maps, -(-maps // PROBE**2)


def pieces_by_size(spec: TileSpec, window: int) -> Iterator[Pieces]:
    """Ways to cut a whole frame for a GPU, from halves to what a CPU takes."""
    chunk = spec.batch * -(-spec.height // window) * -(-spec.width // window)
    strip = spec.height
    while chunk > CHUNK or strip > STRIP:
        chunk, strip = (
            max(-(-chunk // 2), min(chunk, CHUNK)),
            max(-(-strip // 2), min(strip, STRIP)),
        )
        yield Pieces(chunk, strip)


def recorded_frame_bytes(pixels: int, scale: int, streams: int) -> int:
    """What a job keeps on a device around a recorded network, for frames of one size.

    Slots hold the planes of frames on their way (:class:`hatvid.engine.lanes.Lanes`); each
    stream that computes has RGB maps in the private pools of its graphs.

    Args:
        pixels: of the source's frames that are one item, together.
        scale: of the network.
        streams: that compute.
    """
    larger = pixels * scale**2
    slots = streams + 2 + WAITING
    planes = slots * (pixels + larger) * PLANE_BYTES
    return planes + streams * (larger * COLOR_MAPS + 2 * pixels) * RGB_BYTES


def _maps(module: nn.Module, spec: TileSpec, on_gpu: bool) -> int:
    """At the peak, of a network of which only a few blocks are run."""
    if isinstance(module, HAT):
        return count_run(shallow(module), spec, on_gpu=on_gpu).maps
    if not isinstance(module, WholeFrame):
        return count_run(module, spec, on_gpu=on_gpu).maps
    chunk, strip = module.pieces_for(spec.height, spec.width)
    few = WholeFrame(shallow(module.model), chunk=chunk, strip=strip)
    few.few = FEW_PIECES
    return count_run(few, spec, on_gpu=on_gpu).maps
