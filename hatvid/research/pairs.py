"""Pictures to measure with: what a network is given, and what it should make of it.

Three layouts of a folder are known, here for x4:

- ``image_SRF_4/img_001_SRF_4_HR.png`` and ``..._LR.png``, as SelfExSR published the sets;
- ``HR/baby.png`` and ``LR_bicubic/X4/babyx4.png``, as BasicSR and EDSR have them;
- any other folder holds large pictures, and the small ones are made by
  :func:`~hatvid.research.matlab_resize.imresize`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hatvid.errors import InputError
from hatvid.research.matlab_resize import Pixels, imresize
from hatvid.video.picture_names import is_picture
from hatvid.video.stills import read_picture

__all__ = ["Pair", "find_pairs", "read_pixels"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One picture of a set."""

    name: str
    large: Path
    """What should come out."""

    small: Path | None
    """What goes in; None: made from ``large``."""

    def read(self, scale: int) -> tuple[Pixels, Pixels]:
        """Both pictures, the small one first.

        The large one is cut right and bottom to ``scale`` times the small one; where that
        is made, to a multiple of ``scale``.

        Args:
            scale: output pixels an input pixel along each axis.

        Raises:
            InputError: a file cannot be read, or the sizes do not fit each other.
        """
        large = read_pixels(self.large)
        height, width = (size // scale for size in large.shape[:2])
        if self.small is None:
            if not height or not width:
                raise InputError(
                    f"{self.large} has {large.shape[1]}x{large.shape[0]} pixels, too few to be "
                    f"reduced by {scale}; leave it out"
                )
            large = large[: height * scale, : width * scale]
            return imresize(large, height, width), large
        small = read_pixels(self.small)
        if any(abs(a - b) > 1 for a, b in zip(small.shape[:2], (height, width), strict=True)) or (
            small.shape[0] * scale > large.shape[0] or small.shape[1] * scale > large.shape[1]
        ):
            raise InputError(
                f"{self.small} has {small.shape[1]}x{small.shape[0]} pixels and {self.large} "
                f"{large.shape[1]}x{large.shape[0]}, which is not {scale} times as many along each "
                "side; choose the scale of the set, or mend the pair"
            )
        return small, large[: small.shape[0] * scale, : small.shape[1] * scale]


def find_pairs(folder: Path, scale: int) -> list[Pair]:
    """The pictures of a folder, by name.

    Args:
        folder: in one of the layouts above.
        scale: which of a set's small pictures are meant.

    Raises:
        InputError: there are none, or one of a pair is missing.
    """
    entries = _listed(folder)
    marked = folder / f"image_SRF_{scale}"
    if marked in entries:
        return _marked_pairs(marked, scale)
    if any(path.stem.endswith(f"_SRF_{scale}_HR") for path in entries):
        return _marked_pairs(folder, scale)
    if any(path.name.startswith("image_SRF_") for path in entries):
        raise InputError(f"{folder} holds no image_SRF_{scale}; choose a scale that it has")
    large = folder / "HR"
    if large not in entries:
        return _from_large(folder)
    reduced = folder / "LR_bicubic"
    if reduced not in entries:
        return _from_large(large)
    small = reduced / f"X{scale}"
    if small not in _listed(reduced):
        raise InputError(f"{reduced} holds no X{scale}; choose a scale that it has")
    return _named_pairs(large, small, scale)


def read_pixels(path: Path) -> Pixels:
    """The RGB codes of a picture, 16 bits rounded to 8, without its alpha.

    Raises:
        InputError: it cannot be read.
    """
    rgb = read_picture(path).rgb
    return (rgb.numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)


def _marked_pairs(folder: Path, scale: int) -> list[Pair]:
    ending = f"_SRF_{scale}_HR"
    pairs = []
    for path in _pictures(folder):
        if path.stem.endswith(ending):
            small = path.with_name(f"{path.stem.removesuffix('_HR')}_LR{path.suffix}")
            pairs.append(
                Pair(name=path.stem.removesuffix(ending), large=path, small=_there(small, path))
            )
    return _some(pairs, folder)


def _named_pairs(large: Path, small: Path, scale: int) -> list[Pair]:
    by_stem = {path.stem: path for path in _pictures(small)}
    pairs = []
    for path in _pictures(large):
        found = by_stem.get(f"{path.stem}x{scale}") or by_stem.get(path.stem)
        if found is None:
            raise InputError(
                f"{path} has no small picture {path.stem}x{scale} in {small}; complete the set"
            )
        pairs.append(Pair(name=path.stem, large=path, small=found))
    return _some(pairs, large)


def _from_large(folder: Path) -> list[Pair]:
    return _some(
        [Pair(name=path.stem, large=path, small=None) for path in _pictures(folder)], folder
    )


def _there(path: Path, partner: Path) -> Path:
    if not path.exists():
        raise InputError(f"{partner} has no small picture {path.name} beside it; complete the set")
    return path


def _some(pairs: list[Pair], folder: Path) -> list[Pair]:
    if not pairs:
        raise InputError(f"{folder} holds no pictures; name a folder of PNG, JPEG or WebP files")
    return pairs


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _listed(folder) if is_picture(path) and path.is_file()]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder} cannot be read ({reason}); name a folder of pictures") from None
