"""Running a script as vspipe does, and saying in one line what went wrong in it.

Nothing here knows VapourSynth.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from hatvid.errors import InputError

__all__ = ["line_in", "reason_of", "run_script"]


def run_script(path: Path, arguments: Mapping[str, str]) -> None:
    """Run a script from its own folder, its arguments as global names.

    What it prints, and what libraries in C print meanwhile, goes to standard error.

    Raises:
        InputError: it cannot be read, or fails; with the line where it does.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the name") from error
    place = path.resolve()
    names = {"__name__": "__vapoursynth__", "__file__": str(place)} | dict(arguments)
    try:
        with _printing_to_stderr(), _working_in(place.parent):
            exec(compile(text, str(place), "exec", dont_inherit=True), names)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}{line_in(path, error)}: {reason_of(error)}") from error


def line_in(path: Path, error: BaseException) -> str:
    """`` line 7``: where in a script an error came up; empty where that is not known."""
    place = str(path.resolve())
    if isinstance(error, SyntaxError) and error.filename == place:
        return f" line {error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == place
    ]
    # What fails while a frame is rendered arrives as text.
    lines += [int(n) for n in re.findall(rf'File "{re.escape(place)}", line (\d+)', str(error))]
    return f" line {lines[-1]}" if lines else ""


def reason_of(error: BaseException) -> str:
    """What an error says, in one line, with its kind where that is Python's."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error)
    if any(line.startswith("Traceback (most") for line in lines):
        return lines[-1].removeprefix("vapoursynth.Error: ")
    text = " ".join(lines)
    if isinstance(error, SystemExit):
        return f"it exits ({text})" if text else "it exits"
    if kind.__module__ == "vapoursynth":
        return text
    return f"{kind.__name__}: {text}" if text else kind.__name__


@contextlib.contextmanager
def _printing_to_stderr() -> Iterator[None]:
    """Both Python's standard output and that of the program lead to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
