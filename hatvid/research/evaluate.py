"""The tables of the papers: networks, and what needs none, over a set of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from hatvid.errors import InputError, OptionError
from hatvid.research.matlab_resize import Kernel, Pixels, imresize
from hatvid.research.metrics import SSIM_WINDOW, Quality, quality
from hatvid.research.pairs import Pair
from hatvid.research.sheet import Panel, enlarged, marked, sheet
from hatvid.upscaler import Upscaler

__all__ = ["Evaluation", "Row", "csv_lines", "evaluate", "upscaled"]

_CROP = 64
_CROP_TIMES = 3
_WHOLE = _CROP * _CROP_TIMES
MOST_CROPS = 8
"""Pictures on a sheet of crops: the first ones."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of enlarging."""

    name: str
    model: str | None
    """As it was asked for; None for what needs no network."""

    pictures: tuple[Quality, ...]
    """In the order of the set."""

    @property
    def psnr(self) -> float:
        """Mean over the pictures, in dB."""
        return fmean(picture.psnr for picture in self.pictures)

    @property
    def ssim(self) -> float:
        """Mean over the pictures."""
        return fmean(picture.ssim for picture in self.pictures)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Args:
        scale: of all rows.
        names: of the pictures.
        made: the small pictures were made from the large ones.
        rows: those without a network first.
        crops: a sheet with a detail of each picture by each row, if it was asked for.
    """

    scale: int
    names: tuple[str, ...]
    made: bool
    rows: tuple[Row, ...]
    crops: Image.Image | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; a PSNR is None where nothing differs."""
        return {
            "scale": self.scale,
            "small_pictures": "made" if self.made else "given",
            "rows": [
                {
                    "name": row.name,
                    "model": row.model,
                    "psnr": _finite(row.psnr),
                    "ssim": row.ssim,
                    "pictures": [
                        {"name": name, "psnr": _finite(one.psnr), "ssim": one.ssim}
                        for name, one in zip(self.names, row.pictures, strict=True)
                    ],
                }
                for row in self.rows
            ],
        }


def evaluate(
    pairs: Sequence[Pair],
    scale: int,
    models: Sequence[str],
    make: Callable[[str], Upscaler],
    *,
    crops: bool = False,
    advanced: Callable[[int], None] = lambda pictures: None,
) -> Evaluation:
    """Enlarge every picture in every way, and measure by the protocol.

    Args:
        pairs: the set; from :func:`~hatvid.research.pairs.find_pairs`.
        scale: of the set.
        models: names or paths, as ``make`` takes them.
        make: an upscaler for one of them; it is closed here, before the next is made.
        crops: whether to draw a detail of the first pictures by each row.
        advanced: told how many pictures more are done, of those of all rows together.

    Raises:
        InputError: a picture cannot be read, or is too small.
        OptionError: a model has another scale.
        HatvidError: a model cannot be loaded, or run.
    """
    rows, details = [], _Details(pairs, scale) if crops else None
    for kernel in get_args(Kernel):
        rows.append(_row(kernel, None, pairs, scale, _resized(kernel, scale), details, advanced))
    for model in models:
        with closing(make(model)) as upscaler:
            if upscaler.network_scale != scale:
                raise OptionError(
                    f"model {upscaler.name} upscales by {upscaler.network_scale}, not by {scale}; "
                    "choose its scale or another model"
                )
            rows.append(
                _row(upscaler.name, model, pairs, scale, upscaled(upscaler), details, advanced)
            )
    return Evaluation(
        scale=scale,
        names=tuple(pair.name for pair in pairs),
        made=pairs[0].small is None,
        rows=tuple(rows),
        crops=None if details is None else details.sheet(),
    )


def upscaled(upscaler: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Pixels], Pixels]:
    """What enlarges RGB in [0, 1], for pictures of 8 bits: (H, W, 3) -> (sH, sW, 3)."""

    def enlarge(small: Pixels) -> Pixels:
        rgb = torch.from_numpy(small.transpose(2, 0, 1)[None] / np.float32(255))
        codes = (upscaler(rgb)[0].cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        return codes.permute(1, 2, 0).contiguous().numpy()

    return enlarge


def _resized(kernel: Kernel, scale: int) -> Callable[[Pixels], Pixels]:
    return lambda small: imresize(
        small, small.shape[0] * scale, small.shape[1] * scale, kernel=kernel
    )


def _row(
    name: str,
    model: str | None,
    pairs: Sequence[Pair],
    scale: int,
    enlarge: Callable[[Pixels], Pixels],
    details: _Details | None,
    advanced: Callable[[int], None],
) -> Row:
    found = []
    for pair in pairs:
        small, large = pair.read(scale)
        if min(large.shape[:2]) < SSIM_WINDOW + 2 * scale:
            raise InputError(
                f"{pair.large} has {large.shape[1]}x{large.shape[0]} pixels, too few for SSIM at "
                f"x{scale}; leave it out"
            )
        pixels = enlarge(small)
        found.append(quality(pixels, large, border=scale))
        if details is not None:
            details.add(pair, name, pixels, large, found[-1])
        advanced(1)
    return Row(name=name, model=model, pictures=tuple(found))


class _Details:
    """The same part of a picture by each row; only the parts are kept."""

    def __init__(self, pairs: Sequence[Pair], scale: int) -> None:
        self._panels: dict[str, list[Panel]] = {pair.name: [] for pair in pairs[:MOST_CROPS]}
        self._boxes: dict[str, tuple[int, int, int, int]] = {}
        self._scale = scale

    def add(self, pair: Pair, name: str, pixels: Pixels, large: Pixels, measured: Quality) -> None:
        panels = self._panels.get(pair.name)
        if panels is None:
            return
        if not panels:
            box = self._boxes[pair.name] = _busiest(large)
            panels.append(Panel(image=marked(large, box, _WHOLE), words=(pair.name, "")))
            panels.append(Panel(image=_cut(large, box), words=("original", "")))
        words = (name, f"{measured.psnr:.2f} dB {measured.ssim:.4f}")
        panels.append(Panel(image=_cut(pixels, self._boxes[pair.name]), words=words))

    def sheet(self) -> Image.Image:
        return sheet(list(self._panels.values()))


def _busiest(pixels: Pixels) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the part where neighbouring pixels differ most."""
    height, width = (min(_CROP, size) for size in pixels.shape[:2])
    gray = pixels.mean(2)
    edges = np.zeros_like(gray)
    edges[1:] += np.abs(np.diff(gray, axis=0))
    edges[:, 1:] += np.abs(np.diff(gray, axis=1))
    total = np.pad(edges.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width]
    sums += total[:-height, :-width]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return top, left, height, width


def _cut(pixels: Pixels, box: tuple[int, int, int, int]) -> Image.Image:
    top, left, height, width = box
    return enlarged(pixels[top : top + height, left : left + width], _CROP_TIMES)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def csv_lines(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    """A head, and a line for each picture of each row."""
    yield "name", "model", "scale", "picture", "psnr", "ssim"
    for row in evaluation.rows:
        for name, one in zip(evaluation.names, row.pictures, strict=True):
            scale = str(evaluation.scale)
            yield row.name, row.model or "", scale, name, f"{one.psnr:.6f}", f"{one.ssim:.6f}"
