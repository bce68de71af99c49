"""The tables of the papers: networks, and what needs none, over a set of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from PIL import Image

from hatvid.errors import OptionError
from hatvid.research.matlab_resize import Kernel, Pixels
from hatvid.research.measure import Row, measure, resized, upscaled
from hatvid.research.metrics import Quality
from hatvid.research.pairs import Pair
from hatvid.research.sheet import Panel, enlarged, marked, sheet
from hatvid.upscaler import Upscaler

__all__ = ["Evaluation", "csv_lines", "evaluate"]

_CROP = 64
_CROP_TIMES = 3
_WHOLE = _CROP * _CROP_TIMES
MOST_CROPS = 8
"""Pictures on a sheet of crops: the first ones."""


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
        make: an upscaler for one of them; it is closed here, before the next is made. Asked
            twice for each, first to look at all scales before anything is measured.
        crops: whether to draw a detail of the first pictures by each row.
        advanced: told how many pictures more are done, of those of all rows together.

    Raises:
        InputError: a picture cannot be read, or is too small.
        OptionError: a model has another scale.
        HatvidError: a model cannot be loaded, or run.
    """
    rows, details = [], _Details(pairs, scale) if crops else None

    def add(name: str, enlarge: Callable[[Pixels], Pixels], model: str | None = None) -> None:
        def seen(pair: Pair, pixels: Pixels, large: Pixels, measured: Quality) -> None:
            if details is not None:
                details.add(pair, name, pixels, large, measured)
            advanced(1)

        rows.append(measure(name, enlarge, pairs, scale, model=model, seen=seen))

    # Loading twice is quick beside measuring, and all of them at once might not fit in memory.
    for model in models:
        with closing(make(model)) as upscaler:
            if upscaler.network_scale != scale:
                raise OptionError(
                    f"model {upscaler.name} upscales by {upscaler.network_scale}, not by {scale}; "
                    "choose its scale or another model"
                )
    for kernel in get_args(Kernel):
        add(kernel, resized(kernel, scale))
    for model in models:
        with closing(make(model)) as upscaler:
            add(upscaler.name, upscaled(upscaler), model)
    return Evaluation(
        scale=scale,
        names=tuple(pair.name for pair in pairs),
        made=pairs[0].small is None,
        rows=tuple(rows),
        crops=None if details is None else details.sheet(),
    )


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
