"""The inputs of a batch: what lies in a folder, fits a pattern, and has been written to its end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hatvid.errors import InputError, OptionError
from hatvid.jobs.checks import few
from hatvid.selectors import is_script
from hatvid.video.containers import CONTAINERS
from hatvid.video.picture_names import is_picture

__all__ = ["Finding", "Found", "Stamp", "find", "is_leftover", "named_like_output", "stamp_of"]

VIDEOS = frozenset(CONTAINERS) | frozenset(
    {".3gp", ".asf", ".avi", ".mpeg", ".mpg", ".mxf", ".ogv", ".vob", ".wmv"}
)
"""What is taken from a folder, by its suffix."""

Stamp = tuple[int, int]
"""Size in bytes and time of change in ns: a file at rest keeps both."""

# What `hatvid upscale` calls its outputs: one by the scale, one by the size.
_SCALED = re.compile(r".+_x[234]")
_SIZED = re.compile(r"(.+)_(?:[0-9]+x[0-9]+|[0-9]+p|[0-9]+w)")
_UNVERIFIED = re.compile(r".+\.unverified[0-9]*")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One input.

    Args:
        path: of it.
        root: the folder that was searched, or that of a file which is named.
        named: itself, not by a folder or a pattern.
        stamp: when it was found; None where it is missing.
    """

    path: Path
    root: Path
    named: bool
    stamp: Stamp | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one name gave: inputs in order, and what the user should know."""

    inputs: tuple[Found, ...]
    notes: tuple[str, ...] = ()


def find(
    text: str,
    *,
    seen_from: Path = Path(),
    recursive: bool = False,
    leave: Iterable[Path] = (),
) -> Finding:
    """Look for the inputs that a file's name, a folder or a pattern means.

    Hidden files, files that hatvid has not finished, and scripts are found by their own name
    only. Links to folders are not followed.

    Args:
        text: the name; a pattern has ``*``, ``?`` or ``[``, and ``**`` for any folders.
        seen_from: the folder that a relative name is seen from.
        recursive: folders in a folder too.
        leave: folders that are not searched.

    Raises:
        InputError: a folder cannot be read.
        OptionError: a pattern is none.
    """
    path = seen_from / text
    if text == "-":
        raise OptionError("a batch reads files; send standard input to hatvid upscale -")
    left = [folder.resolve() for folder in leave]
    if path.is_dir():
        notes: list[str] = []
        files = sorted(_in_folder(path, recursive, left, notes))
        inputs = [_found(file, path) for file in files if file.suffix.lower() in VIDEOS]
        notes += _said_of_scripts(file.name for file in files if is_script(file))
        return Finding(inputs=tuple(inputs), notes=tuple(notes))
    if not os.path.lexists(path) and any(sign in text for sign in "*?["):
        return _by_pattern(text, seen_from, left)
    found = Found(path=path, root=path.parent, named=True, stamp=stamp_of(path))
    return Finding(inputs=(found,))


def stamp_of(path: Path) -> Stamp | None:
    """Size and time of change; None if nothing is there."""
    try:
        there = path.stat()
    except (OSError, ValueError):
        return None
    return there.st_size, there.st_mtime_ns


def is_leftover(name: str) -> bool:
    """Whether a file is hidden, half written, or an output that was not its input."""
    stem = Path(name).stem
    return name.startswith(".") or name.endswith(".part") or bool(_UNVERIFIED.fullmatch(stem))


def named_like_output(path: Path) -> bool:
    """Whether a file has a name that ``hatvid upscale`` gives by itself.

    ``film_1080p.mkv`` is one only where a ``film`` lies beside it: others call films so too.
    """
    if _SCALED.fullmatch(path.stem):
        return True
    match = _SIZED.fullmatch(path.stem)
    if match is None:
        return False
    try:
        return any(other.stem == match[1] for other in path.parent.iterdir())
    except OSError:
        return False


def _in_folder(
    folder: Path, recursive: bool, leave: list[Path], notes: list[str]
) -> Iterator[Path]:
    def unread(error: OSError) -> None:
        if error.filename is None or Path(error.filename) == folder:
            raise InputError(
                f"{folder} cannot be read ({error.strerror}); check its rights"
            ) from error
        notes.append(f"{error.filename} cannot be read ({error.strerror}) and is left out")

    for place, folders, names in os.walk(folder, onerror=unread):
        inner = Path(place)
        for name in names:
            if not is_leftover(name) and (inner / name).is_file():
                yield inner / name
        folders[:] = [
            name
            for name in folders
            if recursive and not name.startswith(".") and (inner / name).resolve() not in leave
        ]


def _by_pattern(text: str, seen_from: Path, leave: list[Path]) -> Finding:
    parts = Path(text).parts
    first = next(n for n, part in enumerate(parts) if any(sign in part for sign in "*?["))
    root = seen_from / Path(*parts[:first])
    try:
        paths = sorted(set(root.glob(str(Path(*parts[first:])))))
    except (ValueError, NotImplementedError, re.error) as error:
        raise OptionError(f"{text!r} is no pattern ({error}); write for example *.mkv") from error
    inner = [folder for folder in leave if root.resolve() in folder.parents]
    inputs, scripts = [], []
    for path in paths:
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or is_leftover(path.name) or not path.is_file():
            continue
        if any(folder in path.resolve().parents for folder in inner):
            continue
        if is_script(path):
            scripts.append(path.name)
        elif path.suffix.lower() in VIDEOS or is_picture(path):
            inputs.append(_found(path, root))
    return Finding(inputs=tuple(inputs), notes=tuple(_said_of_scripts(scripts)))


def _said_of_scripts(names: Iterable[str]) -> list[str]:
    left = list(names)
    if not left:
        return []
    return [f"a script is run only where it is named itself: left out {few(left)}"]


def _found(path: Path, root: Path) -> Found:
    return Found(path=path, root=root, named=False, stamp=stamp_of(path))
