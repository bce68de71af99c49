"""A job: one video, from file to file, with everything decided that needs no model.

Planning is quick and imports neither torch nor PyAV, so that a wrong name or an
existing output is answered at once.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hatvid.errors import InputError, OptionError, OutputError, OutputExistsError
from hatvid.model.zoo import ResolvedModel, resolve_model
from hatvid.options import JobOptions
from hatvid.video.containers import CONTAINERS, Container, container_of

__all__ = ["Job", "plan_job"]

_FALLBACK = ".mkv"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What :func:`hatvid.jobs.run.run_job` carries out.

    Args:
        options: as asked for.
        output: where the result goes.
        container: of the result.
        model: which checkpoint; None where the caller brings an upscaler.
        notes: what the user should know, one line each.
    """

    options: JobOptions
    output: Path
    container: Container
    model: ResolvedModel | None
    notes: tuple[str, ...] = ()


def plan_job(options: JobOptions, *, own_upscaler: bool = False) -> Job:
    """Check what can be checked without decoding, and settle the names.

    Args:
        options: as asked for.
        own_upscaler: the caller brings an upscaler; no checkpoint is looked for.

    Raises:
        InputError: the input is missing or a folder.
        OptionError: the output is the input, or a kind that hatvid does not write.
        OutputExistsError: the output exists and may not be overwritten.
        OutputError: the output's folder is missing or not writable.
        UnknownModelError: no such model.
        CheckpointError: the checkpoint file is missing.
    """
    _check_input(options.input)
    notes: list[str] = []
    output = options.output
    if output is None:
        suffix = options.input.suffix
        if suffix.lower() not in CONTAINERS:
            notes.append(
                f"{suffix or 'the input container'} is not written by hatvid: the output is "
                f"{_FALLBACK.removeprefix('.')}"
            )
            suffix = _FALLBACK
        output = options.input.with_name(f"{options.input.stem}_x{options.scale}{suffix}")
    container = container_of(output)
    _check_output(options.input, output, options.overwrite)
    model = None if own_upscaler else resolve_model(options.model, options.scale)
    return Job(options=options, output=output, container=container, model=model, notes=tuple(notes))


def _check_input(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be opened ({reason}); check the name") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; name a video file in it")
    if not stat.S_ISREG(mode):
        # A pipe or a device cannot be read twice, and may never end.
        raise InputError(f"{path} is not a file; name a video file")


def _check_output(source: Path, output: Path, overwrite: bool) -> None:
    try:
        there = output.lstat()
    except (FileNotFoundError, NotADirectoryError):
        there = None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{output} cannot be written ({reason}); choose another name with -o"
        ) from error
    if there is not None:
        if output.is_dir():
            raise OptionError(f"{output} is a folder; give the output a file name")
        if output.exists() and output.samefile(source):
            raise OptionError(f"{output} is the input itself; give the output another name")
        if not overwrite:
            raise OutputExistsError(
                f"{output} exists; use --overwrite to replace it, or -o to rename"
            )
    folder = output.parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder; make it, or choose another with -o")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is not writable; choose another place with -o")
