"""What a job over pictures will read and write, settled before anything is computed.

Imports neither torch nor PyAV, so that a wrong name or an existing output is answered
at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hatvid.errors import InputError, OptionError, OutputError, OutputExistsError
from hatvid.video.picture_names import (
    is_pattern,
    missing_numbers,
    numbered_files,
    numbered_name,
    picture_format,
)

__all__ = ["PicturePlan", "check_folder", "check_pattern_output", "plan_pictures"]


@dataclass(frozen=True, kw_only=True)
class PicturePlan:
    """What :func:`hatvid.jobs.stills.run_pictures` carries out.

    Args:
        input: one picture, or a pattern.
        output: likewise.
        files: (input, output) of each picture, by rising number.
        overwrite: outputs that exist may be replaced.
        notes: what the user should know, one line each.
    """

    input: Path
    output: Path
    files: tuple[tuple[Path, Path], ...]
    overwrite: bool
    notes: tuple[str, ...] = ()


def plan_pictures(
    input: Path,  # noqa: A002 - the name that users know
    output: Path | None = None,
    *,
    scale: int,
    overwrite: bool = False,
    makes_folder: bool = False,
) -> PicturePlan:
    """Settle the names of one picture or of a numbered sequence, and check them all.

    Args:
        input: a picture, or a pattern such as ``frame_%04d.png`` that is not itself the
            name of a file. Every file that fits is taken; gaps are noted.
        output: of the same kind; each picture keeps its number. None adds ``_xS`` to the
            input's name.
        scale: S, for that name.
        overwrite: outputs that exist may be replaced.
        makes_folder: the caller makes the output's folder if it is missing.

    Raises:
        InputError: no such file, or none that fits the pattern.
        OptionError: an output is an input or a folder, or no picture that hatvid writes.
        OutputExistsError: an output exists and may not be overwritten.
        OutputError: the output's folder is missing or not writable.
    """
    sequence = is_pattern(input) and not os.path.lexists(input)
    if output is not None and is_pattern(output) and not sequence:
        raise OptionError(f"{output} is a name for many pictures and {input} is one; name one file")
    if output is None:
        output = input.with_name(f"{input.stem}_x{scale}{input.suffix}")
    picture_format(output)
    notes: tuple[str, ...] = ()
    if sequence:
        if not is_pattern(output):
            raise OptionError(
                f"{output} is one name for many pictures; give it a number as in "
                f"{output.stem}_%04d{output.suffix}"
            )
        found = numbered_files(input)
        if not found:
            raise InputError(f"no file is named like {input}; check the name")
        files = tuple((path, numbered_name(output, number)) for number, path in found.items())
        if missing := missing_numbers(found):
            notes = (f"{input.name}: no file has the number {missing}; the others are done",)
    else:
        _check_exists(input)
        files = ((input, output),)
    check_folder(output.parent, makes=makes_folder)
    _check_outputs(files, overwrite)
    return PicturePlan(input=input, output=output, files=files, overwrite=overwrite, notes=notes)


def check_pattern_output(
    pattern: Path, *, overwrite: bool, makes_folder: bool = False
) -> tuple[str, ...]:
    """Look for what is already named like the pictures that a video will become.

    How many there will be is not known yet, so any such file counts.

    Returns:
        One line if files may be left over between the new ones.

    Raises:
        OutputExistsError: there are some, and they may not be overwritten.
        OutputError: the folder is missing or not writable.
    """
    check_folder(pattern.parent, makes=makes_folder)
    there = numbered_files(pattern) if pattern.parent.is_dir() else {}
    if not there:
        return ()
    if not overwrite:
        raise OutputExistsError(
            f"{next(iter(there.values()))} exists; use --overwrite to replace files named like "
            f"{pattern.name}, or -o to rename"
        )
    return (
        f"{len(there)} files are named like {pattern.name} already: those with the number of a "
        "frame are replaced, the others stay",
    )


def _check_exists(path: Path) -> None:
    try:
        path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be opened ({reason}); check the name") from error


def check_folder(folder: Path, *, makes: bool = False) -> None:
    """See that files can be made in a folder.

    Args:
        makes: it will be made if it is missing.

    Raises:
        OutputError: it is missing or not writable, or cannot be made.
    """
    while makes and not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        if makes:
            raise OutputError(f"{folder} is not a folder; choose another place")
        raise OutputError(f"{folder}: no such folder; make it, or choose another with -o")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is not writable; choose another place with -o")


def _check_outputs(files: tuple[tuple[Path, Path], ...], overwrite: bool) -> None:
    # By number of the file and not by name: links and letter case make names differ.
    inputs = {_identity(path) for path, _ in files}
    for _, output in files:
        if not os.path.lexists(output):
            continue
        if output.is_dir():
            raise OptionError(f"{output} is a folder; give the output a file name")
        if output.exists() and _identity(output) in inputs:
            raise OptionError(f"{output} is itself an input; give the output another name")
        if not overwrite:
            raise OutputExistsError(
                f"{output} exists; use --overwrite to replace it, or -o to rename"
            )


def _identity(path: Path) -> tuple[int, int]:
    try:
        there = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be opened ({reason}); check the name") from error
    return there.st_dev, there.st_ino
