"""Names of pictures: their formats, and patterns such as ``frame_%04d.png``.

Needs neither torch nor PyAV, so that names are checked before anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Literal

from hatvid.errors import InputError, OptionError

__all__ = [
    "PictureFormat",
    "is_pattern",
    "is_picture",
    "missing_numbers",
    "numbered_files",
    "numbered_name",
    "picture_format",
]

PictureFormat = Literal["PNG", "JPEG", "WebP"]

_FORMATS: dict[str, PictureFormat] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WebP",
}

# As printf and FFmpeg write a number; `%%` is their way to write a percent sign.
_NUMBER = re.compile(r"(?<!%)%(?:0([1-9][0-9]?))?d")


def is_picture(path: Path) -> bool:
    """Whether the name is that of a format that is read and written as single pictures."""
    return path.suffix.lower() in _FORMATS


def picture_format(path: Path) -> PictureFormat:
    """Which format a name asks for.

    Raises:
        OptionError: none that hatvid writes.
    """
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise OptionError(
            f"{path} is no name of a picture that hatvid writes; end it in one of "
            f"{', '.join(_FORMATS)}"
        ) from None


def is_pattern(path: Path) -> bool:
    """Whether the file's name holds one place for a number, ``%d`` or ``%04d``.

    ``100%.mp4`` is a name like any other, and so is one with two such places.
    """
    return len(_NUMBER.findall(path.name)) == 1


def numbered_name(pattern: Path, number: int) -> Path:
    """The file of one number: 7 in ``a_%03d.png`` is ``a_007.png``, 1234 ``a_1234.png``."""
    return pattern.with_name(
        _NUMBER.sub(lambda match: f"{number:0{match[1] or 1}d}", pattern.name, count=1)
    )


def numbered_files(pattern: Path) -> dict[int, Path]:
    """What lies in the pattern's folder and fits it, by rising number.

    Raises:
        InputError: the folder is missing or cannot be read.
    """
    match = _NUMBER.search(pattern.name)
    assert match is not None, "not a pattern"
    before, after = pattern.name[: match.start()], pattern.name[match.end() :]
    name = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    try:
        there = {entry.name for entry in pattern.parent.iterdir()}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{pattern.parent} cannot be read ({reason}); check the name") from error
    numbers = (int(fit[1]) for entry in there if (fit := name.fullmatch(entry)))
    files = {number: numbered_name(pattern, number) for number in sorted(numbers)}
    # Neither a_7.png nor a_0007.png fits a_%03d.png.
    return {number: path for number, path in files.items() if path.name in there}


def missing_numbers(numbers: Iterable[int]) -> str:
    """The gaps between rising numbers in words, ``4, 7 to 9``; empty without any."""
    gaps = []
    for before, after in pairwise(numbers):
        if after - before == 2:
            gaps.append(f"{before + 1}")
        elif after - before > 2:
            gaps.append(f"{before + 1} to {after - 1}")
    return ", ".join(gaps)
