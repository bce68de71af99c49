"""What tiles cost in a picture: how far a tiled result is from the whole frame's, and
whether the lines between tiles can be told from other lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hatvid.errors import OptionError
from hatvid.options import WINDOW, TileOptions
from hatvid.selectors import TimePoint
from hatvid.tiling import Axis, TilePlan
from hatvid.upscaler import Upscaler
from hatvid.video.picture_names import is_picture
from hatvid.video.samples import Samples
from hatvid.video.stills import read_picture

__all__ = ["SeamRow", "measure_seams", "read_frames", "seams_of"]

BAND = 2
"""Output pixels on each side of a line that belong to it."""


@dataclass(frozen=True, kw_only=True)
class SeamRow:
    """One way of tiling, against the whole frame."""

    tile: int
    """Asked for; in input pixels, as is ``overlap``."""

    overlap: int
    tiles: int
    """Of a frame."""

    work: float
    """Pixels computed, as a multiple of the frame's."""

    psnr: float
    """dB, of RGB in [0, 1], not rounded; infinite where nothing differs."""

    max_error: float
    """The largest difference of a sample, in steps of 8 bits."""

    at_seams: float
    """Mean absolute difference in bands on the lines between tiles, in steps of 8 bits."""

    elsewhere: float
    """The same on lines through the middle of what each tile owns."""

    step_ratio: float
    """How much faster the difference changes across seams than across the other lines. At 1
    nothing tells a seam from any other line."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is infinite or undefined is None."""
        return {
            name: value if not isinstance(value, float) or math.isfinite(value) else None
            for name, value in asdict(self).items()
        }


def measure_seams(
    frames: Sequence[Tensor],
    tilings: Sequence[tuple[int, int]],
    make: Callable[[TileOptions], Upscaler],
    *,
    advanced: Callable[[int], None] = lambda done: None,
) -> list[SeamRow]:
    """Measure ways of tiling.

    Args:
        frames: each (1, 3, H, W) RGB in [0, 1]; of one size.
        tilings: (tile, overlap) in input pixels.
        make: an upscaler for those options; it is closed here.
        advanced: told how many of the passes, one for the whole frame and one for each
            tiling, are done.

    Returns:
        A row for each, in the order given.

    Raises:
        OptionError: a tiling is not possible, or there is one tile only.
    """
    height, width = frames[0].shape[2:]
    plans = [_plan(height, width, tile, overlap) for tile, overlap in tilings]
    with make(TileOptions(tile=0)) as whole:
        references = [whole(frame).cpu() for frame in frames]
        scale = whole.scale
    advanced(1)
    rows = []
    for number, ((tile, overlap), plan) in enumerate(zip(tilings, plans, strict=True)):
        with make(TileOptions(tile=tile, overlap=overlap)) as tiled:
            errors = [
                tiled(frame).cpu().double() - reference
                for frame, reference in zip(frames, references, strict=True)
            ]
        rows.append(seams_of(torch.cat(errors), plan, scale, tile=tile, overlap=overlap))
        advanced(number + 2)
    return rows


def seams_of(error: Tensor, plan: TilePlan, scale: int, *, tile: int, overlap: int) -> SeamRow:
    """What a difference between tiled and whole frames amounts to.

    Args:
        error: (N, 3, sH, sW), tiled minus whole.
        plan: how was tiled.
        scale: s.
        tile: for the row, as asked for.
        overlap: likewise.
    """
    mean_square = float(error.square().mean())
    at, off = _lines(error, plan, scale)
    size = error.abs() * 255
    # Of neighbouring samples across a line: rows for horizontal lines, columns for others.
    steps = (error.diff(dim=2).abs(), error.diff(dim=3).abs())
    step_at = _mean([steps[dim].narrow(dim + 2, a, b - a) for dim, a, b in at])
    step_off = _mean([steps[dim].narrow(dim + 2, a, b - a) for dim, a, b in off])
    return SeamRow(
        tile=tile,
        overlap=overlap,
        tiles=plan.count,
        work=plan.count * plan.tile_height * plan.tile_width / (plan.height * plan.width),
        psnr=-10 * math.log10(mean_square) if mean_square else math.inf,
        max_error=float(size.max()),
        at_seams=_mean([size.narrow(dim + 2, a, b - a) for dim, a, b in at]),
        elsewhere=_mean([size.narrow(dim + 2, a, b - a) for dim, a, b in off]),
        step_ratio=step_at / step_off if step_off else (math.inf if step_at else 1.0),
    )


def read_frames(path: Path, *, frames: int = 2, at: Sequence[TimePoint] = ()) -> list[Tensor]:
    """Frames of a video, spread or at given times, or one picture: (1, 3, H, W) each.

    Raises:
        InputError: it cannot be read.
        OptionError: the frames are not of one size.
    """
    if is_picture(path):
        return [read_picture(path).rgb[None]]
    samples = Samples(path)
    shown = [samples.at(point) for point in at] or samples.spread(frames)
    sizes = {tuple(sample.rgb.shape) for sample in shown}
    if len(sizes) > 1:
        raise OptionError(f"{path}: the picture size changes; choose times of one size with --at")
    return [sample.rgb.clamp(0, 1) for sample in shown]


def _plan(height: int, width: int, tile: int, overlap: int) -> TilePlan:
    TileOptions(tile=tile, overlap=overlap)  # says what is wrong with them
    plan = TilePlan.make(height, width, tile=tile, overlap=overlap, grid=WINDOW)
    if plan.count == 1:
        raise OptionError(
            f"tile {tile} holds the whole frame of {width}x{height}; take a smaller one"
        )
    return plan


def _lines(
    error: Tensor, plan: TilePlan, scale: int
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Bands (axis, start, stop) of steps on seams, and half way between them."""
    at, off = [], []
    for dim, axis in enumerate((plan.rows, plan.columns)):
        if axis.seams:
            at += [_band(dim, seam * scale, error) for seam in axis.seams]
            off += [_band(dim, middle, error) for middle in _middles(axis, scale)]
    return at, off


def _middles(axis: Axis, scale: int) -> list[int]:
    cuts = (0, *axis.seams, axis.length)
    return [(a + b) * scale // 2 for a, b in pairwise(cuts)]


def _band(dim: int, line: int, error: Tensor) -> tuple[int, int, int]:
    last = error.shape[dim + 2] - 1
    return dim, max(line - BAND, 0), min(line + BAND, last)


def _mean(parts: list[Tensor]) -> float:
    total = sum(float(part.sum()) for part in parts)
    return total / sum(part.numel() for part in parts)
