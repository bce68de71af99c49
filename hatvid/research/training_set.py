"""Make a set of patches to train on from large pictures, as the embedded networks' was made.

Pictures are reduced first, which removes the traces of JPEG; then those patches are kept
in which most happens. Debian's packages of wallpapers are a set of free pictures that
everybody can fetch: see the card beside the embedded weights for their licences.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from hatvid.errors import InputError, OptionError
from hatvid.research.atomic import PartialFolder
from hatvid.research.matlab_resize import Pixels
from hatvid.research.training_pictures import gradient
from hatvid.video.picture_names import is_picture
from hatvid.video.png import encode_png

__all__ = ["APT_PACKAGES", "CutPicture", "cut_patches", "fetch_debian", "make_set", "subjects"]

APT_PACKAGES = (
    "plasma-workspace-wallpapers",
    "mate-backgrounds",
    "ukui-wallpapers",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "gnome-backgrounds",
)

SIDE, STRIDE, MOST = 144, 72, 160

FLAT = 3.0
"""Patches of a mean gradient up to this one are left out."""

_AS_IT_IS, _HALF = 1000, 3000
"""Widths: up to the first a picture stays, up to the second it is halved, then a third."""

_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "motorcycle_left", "rocket")
"""Of scikit-image's samples."""

_COPIES = re.compile(r"(_dark)?/\d+x\d+$|/screenshot$|[-_]\d+x\d+$")
"""What names of one picture's sizes differ in."""


@dataclass(frozen=True, kw_only=True)
class CutPicture:
    """What became of one picture."""

    source: str
    width: int
    height: int
    reduced_by: int
    patches: int


def make_set(
    folder: Path,
    sources: Sequence[Path],
    *,
    tell: Callable[[str], None] = lambda line: None,
    publishing: Callable[[], None] = lambda: None,
) -> list[CutPicture]:
    """Cut patches out of pictures into a folder, with a list of where they are from.

    Args:
        folder: does not exist yet, or is empty; it has its name only when the set is whole.
        sources: pictures, and folders of them.
        tell: told of each picture.
        publishing: told when the set is whole, before the folder gets its name.

    Returns:
        A row for each picture, as in ``sources.csv``.

    Raises:
        OptionError: the folder holds something, or is a disk's or the one that we are in.
        InputError: a source is missing, cannot be read, or holds no picture; or no picture
            gives a patch.
        OutputError: the disk refuses.
    """
    paths = list(_all_pictures(sources))
    rows = []
    with PartialFolder(folder) as partial:
        for number, path in enumerate(paths):
            pixels, reduced_by = _read(path)
            patches = cut_patches(pixels)
            for place, patch in enumerate(patches):
                partial.write(f"{number:03d}_{place:03d}.png", encode_png(patch))
            height, width = pixels.shape[:2]
            row = CutPicture(
                source=str(path),
                width=width,
                height=height,
                reduced_by=reduced_by,
                patches=len(patches),
            )
            rows.append(row)
            tell(f"{len(patches):4} patches of {path}, 1/{reduced_by}: {width}x{height}")
        if not any(row.patches for row in rows):
            raise InputError(
                f"none of the {len(rows)} pictures gives a patch: once reduced, they are smaller "
                f"than {SIDE}x{SIDE} pixels, or flat; give larger ones, or such as show more"
            )
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(CutPicture)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        partial.write("sources.csv", text.getvalue().encode())
        publishing()
        partial.publish()
    return rows


def cut_patches(
    pixels: Pixels, *, side: int = SIDE, stride: int = STRIDE, most: int = MOST
) -> list[Pixels]:
    """The patches of a picture in which most happens, by their gradient, in their order;
    flat ones are left out.

    Args:
        pixels: (H, W, 3).
        side: of a patch.
        stride: from one to the next.
        most: that are kept.
    """
    rows = range(0, pixels.shape[0] - side + 1, stride)
    columns = range(0, pixels.shape[1] - side + 1, stride)
    found = [pixels[y : y + side, x : x + side] for y in rows for x in columns]
    steepness = [gradient(patch) for patch in found]
    steep = [k for k in range(len(found)) if steepness[k] > FLAT]
    steepest = sorted(steep, key=lambda k: -steepness[k])[:most]
    return [np.ascontiguousarray(found[k]) for k in sorted(steepest)]


def fetch_debian(folder: Path, *, tell: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Fetch and unpack Debian's packages of wallpapers; scikit-image's samples if installed.

    Args:
        folder: where they are unpacked.
        tell: told of each package.

    Returns:
        The pictures, one of each subject.

    Raises:
        OptionError: this is no Debian.
        InputError: a package cannot be fetched.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise OptionError(
            "there is no apt-get and dpkg-deb here; unpack the packages "
            f"{', '.join(APT_PACKAGES)} elsewhere, and give their folder"
        )
    folder = folder.resolve()
    for name in APT_PACKAGES:
        tell(f"fetches {name}")
        inside = folder / name
        inside.mkdir(parents=True)
        _run("apt-get", "download", name, folder=folder)
        (package,) = folder.glob(f"{name}_*.deb")
        _run("dpkg-deb", "-x", str(package), str(inside), folder=folder)
        package.unlink()
    pictures = [path for path in folder.rglob("*") if is_picture(path) and path.is_file()]
    found = subjects(pictures)
    samples = importlib.util.find_spec("skimage")
    for place in samples.submodule_search_locations or [] if samples else []:
        inside = Path(place) / "data"
        found += [path for path in sorted(inside.iterdir()) if path.stem in _PHOTOGRAPHS]
    return found


def subjects(paths: Iterable[Path]) -> list[Path]:
    """Of each picture that is there in several sizes the largest one; links are left out."""
    largest: dict[str, tuple[int, Path]] = {}
    for path in sorted(paths):
        if path.is_symlink():
            continue
        plain = path.with_suffix("").as_posix()
        subject = _COPIES.sub("", plain).removesuffix("/images")
        with _opened(path) as image:
            area = image.width * image.height
        if subject not in largest or area > largest[subject][0]:
            largest[subject] = area, path
    return [path for _, path in largest.values()]


def _all_pictures(sources: Sequence[Path]) -> Iterator[Path]:
    for source in sources:
        if source.is_dir():
            inside = sorted(p for p in source.rglob("*") if is_picture(p) and p.is_file())
            if not inside:
                raise InputError(f"{source} holds no PNG, JPEG or WebP pictures; name another")
            yield from inside
        elif source.exists():
            yield source
        else:
            raise InputError(f"there is no {source}; name pictures, or folders of them")


def _read(path: Path) -> tuple[Pixels, int]:
    """A picture made smaller, and by how much."""
    with _opened(path) as image:
        reduced_by = 1 + (image.width > _AS_IT_IS) + (image.width > _HALF)
        try:
            rgb = image.convert("RGB")
        except Exception as error:  # Pillow answers broken files with nearly any kind
            raise InputError(f"{path} cannot be read ({error}); leave it out") from error
    size = rgb.width // reduced_by, max(1, rgb.height // reduced_by)
    return np.asarray(rgb.resize(size, Image.Resampling.LANCZOS)), reduced_by


def _opened(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that might be bombs
            return Image.open(path)
    except Exception as error:
        raise InputError(f"{path} cannot be read as a picture ({error}); leave it out") from error


def _run(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{' '.join(command)} failed ({last}); run apt-get update, then try again")
