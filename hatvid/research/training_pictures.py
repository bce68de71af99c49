"""The large pictures of a training: where they are, how large, and read when needed."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hatvid.errors import InputError
from hatvid.research.matlab_resize import Pixels, imresize
from hatvid.research.pairs import read_pixels
from hatvid.research.recipe import Data, Pictures, Recipe, Video
from hatvid.video.picture_names import is_picture
from hatvid.video.samples import Samples

__all__ = ["Shot", "TrainingPictures", "gradient"]

_MOST_GRADIENT, _LEAST_WEIGHT = 25.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One large picture."""

    name: str
    """Its path, and the time if it is a frame of a video."""

    height: int
    width: int
    """After the reduction, in pixels."""

    path: Path | None = None
    """Where it is read from; None: it is kept in ``pixels``."""

    pixels: Pixels | None = None
    reduce: int = 1


class TrainingPictures:
    """All pictures of a stage that are large enough for its patches.

    Args:
        recipe: whose paths are meant.
        data: of the stage.
        least: pixels along each side that a picture needs.

    Attributes:
        shots: the pictures.
        left_out: how many were too small.

    Raises:
        InputError: a source cannot be read, or no picture is large enough.
    """

    def __init__(self, recipe: Recipe, data: Data, least: int) -> None:
        found: list[Shot] = []
        for source in data.sources:
            match source:
                case Pictures():
                    found += _in_folder(recipe.path(source.pictures), source.reduce)
                case Video():
                    found += _in_video(recipe.path(source.video), source.frames, source.reduce)
        self.shots = [shot for shot in found if min(shot.height, shot.width) >= least]
        self.left_out = len(found) - len(self.shots)
        if not self.shots:
            largest = max(found, key=lambda shot: min(shot.height, shot.width))
            raise InputError(
                f"no picture is as large as a patch of {least}x{least} pixels (the largest of "
                f"{len(found)}, {largest.name}, has {largest.width}x{largest.height}); give larger "
                "pictures, or a smaller patch in the recipe"
            )
        self._room = recipe.run.cache * 2**20
        self._kept: OrderedDict[int, Pixels] = OrderedDict()
        self._held = 0
        self._ends = np.cumsum(self._weights(data))

    def __getstate__(self) -> dict[str, Any]:
        # Other processes read for themselves what they need.
        return self.__dict__ | {"_kept": OrderedDict(), "_held": 0}

    def pick(self, at: float) -> int:
        """The number of the picture that a draw in [0, 1) means."""
        return int(np.searchsorted(self._ends, at * self._ends[-1], side="right"))

    def read(self, number: int) -> Pixels:
        """(H, W, 3), of the last ones read from memory.

        Raises:
            InputError: it cannot be read.
        """
        shot = self.shots[number]
        if shot.pixels is not None:
            return shot.pixels
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        assert shot.path is not None
        pixels = _reduced(read_pixels(shot.path), shot.reduce)
        if pixels.shape[:2] != (shot.height, shot.width):
            raise InputError(f"{shot.path} has changed since the training began; run it again")
        if pixels.nbytes <= self._room:
            self._kept[number] = pixels
            self._held += pixels.nbytes
            while self._held > self._room:
                self._held -= self._kept.popitem(last=False)[1].nbytes
        return pixels

    def _weights(self, data: Data) -> NDArray[np.float64]:
        if data.draw == "pictures":
            return np.ones(len(self.shots))
        if data.draw == "pixels":
            return np.array([float(shot.height * shot.width) for shot in self.shots])
        steepness = [gradient(self.read(number)) for number in range(len(self.shots))]
        return np.minimum(steepness, _MOST_GRADIENT) + _LEAST_WEIGHT


def gradient(pixels: Pixels) -> float:
    """Mean |dx| + mean |dy| of the mean of the channels, in steps of 8 bits."""
    gray = pixels.mean(2)
    return float(np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean())


def _in_folder(folder: Path, reduce: int) -> Iterator[Shot]:
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}; put the pictures there, or mend the path in the recipe"
        )
    paths = sorted(path for path in folder.rglob("*") if is_picture(path) and path.is_file())
    if not paths:
        raise InputError(f"{folder} holds no PNG, JPEG or WebP pictures; put some there")
    for path in paths:
        try:
            with warnings.catch_warnings():
                # Of sizes that might be bombs; what is too large the reader refuses.
                warnings.simplefilter("ignore")
                with Image.open(path) as image:
                    width, height = image.size
        except Exception as error:  # Pillow answers broken files with nearly any kind
            raise InputError(
                f"{path} cannot be read as a picture ({error}); mend or remove it"
            ) from error
        yield Shot(
            name=str(path),
            path=path,
            height=height // reduce,
            width=width // reduce,
            reduce=reduce,
        )


def _in_video(path: Path, frames: int, reduce: int) -> Iterator[Shot]:
    for sample in Samples(path).spread(frames):
        rgb = sample.rgb[0].clamp(0, 1).numpy().transpose(1, 2, 0)
        pixels = _reduced((rgb * 255).round().astype(np.uint8), reduce)
        yield Shot(
            name=f"{path} at {sample.seconds:.3f} s",
            height=pixels.shape[0],
            width=pixels.shape[1],
            pixels=pixels,
        )


def _reduced(pixels: Pixels, reduce: int) -> Pixels:
    if reduce == 1:
        return pixels
    height, width = pixels.shape[0] // reduce, pixels.shape[1] // reduce
    return imresize(pixels, height, width, kernel="lanczos")
