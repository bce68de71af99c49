"""A job: one video or pictures, with everything decided that needs no model.

Planning is quick and imports neither torch nor PyAV, so that a wrong name or an
existing output is answered at once; only a checkpoint of the user's own is read where
nothing else tells the scale.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace
from pathlib import Path

from hatvid.errors import InputError, OptionError, OutputError, OutputExistsError
from hatvid.jobs.picture_plan import (
    PicturePlan,
    check_folder,
    check_pattern_output,
    plan_pictures,
)
from hatvid.jobs.scales import own_scale
from hatvid.model.zoo import ResolvedModel, resolve_model
from hatvid.options import (
    DEFAULT_MODEL,
    ColorOptions,
    InputOptions,
    JobOptions,
    ScriptOptions,
    SizeOptions,
)
from hatvid.selectors import PIPE, is_script
from hatvid.video.containers import CONTAINERS, Container, container_of, format_of
from hatvid.video.picture_names import is_pattern, is_picture

__all__ = ["Job", "default_output", "plan_job", "said_of_scale"]

_FALLBACK = ".mkv"
_PIPED = "y4m"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What :func:`hatvid.jobs.run.run_job` carries out.

    Args:
        options: as asked for.
        output: where the result goes; ``-`` is standard output.
        container: of the result; None where that is pictures.
        scale: of the model; None where it is up to the asked size, or to the upscaler
            that the caller brings.
        model: which checkpoint; None where that waits for the scale, or the caller brings
            an upscaler.
        pictures: where pictures become pictures, each by itself.
        as_is: frames are encoded as a script made them; there is no model.
        notes: what the user should know, one line each.
    """

    options: JobOptions
    output: Path
    container: Container | None
    scale: int | None
    model: ResolvedModel | None
    pictures: PicturePlan | None = None
    as_is: bool = False
    notes: tuple[str, ...] = ()

    @property
    def to_stdout(self) -> bool:
        """Whether standard output gets the video."""
        return self.output == PIPE

    @property
    def cut(self) -> bool:
        """Whether the output is a part of the input."""
        return self.options.start is not None or self.options.end is not None


def plan_job(options: JobOptions, *, own_upscaler: bool = False, makes_folder: bool = False) -> Job:
    """Check what can be checked without decoding, and settle the names.

    Args:
        options: as asked for.
        own_upscaler: the caller brings an upscaler; no checkpoint is looked for.
        makes_folder: the caller makes the output's folder if it is missing.

    Raises:
        InputError: the input is missing or a folder.
        OptionError: the output is the input, or a kind that hatvid does not write.
        OutputExistsError: the output exists and may not be overwritten.
        OutputError: the output's folder is missing or not writable.
        UnknownModelError: no such model.
        CheckpointError: the checkpoint file is missing, or cannot be read where its scale
            is needed.
    """
    _check_input(options.input)
    as_is = _check_script(options)
    sized = options.size.width is not None or options.size.height is not None
    scale = options.scale
    if as_is:
        scale = 1
    elif scale is None and not own_upscaler and options.model != DEFAULT_MODEL:
        scale = own_scale(options.model)
    elif scale is None and not sized:
        scale = 4
    notes: list[str] = []
    output = options.output
    if output is None:
        output = default_output(options, scale, notes)
    container = pictures = None
    if output != PIPE and is_picture(output):
        if options.format is not None:
            raise OptionError("pictures take their format from their suffix; leave --format out")
        if is_picture(options.input):
            scale = scale or 4
            pictures = plan_pictures(
                options.input,
                output,
                scale=scale,
                overwrite=options.overwrite,
                makes_folder=makes_folder,
            )
        else:
            notes += _check_frames(output, options.overwrite, makes_folder)
    else:
        container = _container(options, output)
        if output != PIPE:
            _check_output(options.input, output, options.overwrite, makes_folder)
    waits = as_is or own_upscaler or (scale is None and options.model == DEFAULT_MODEL)
    model = None if waits else resolve_model(options.model, scale)
    if model is not None and not sized and model.scale is not None and scale is not None:
        notes += said_of_scale(model.name, model.scale, scale)
    return Job(
        options=options,
        output=output,
        container=container,
        scale=scale,
        model=model,
        pictures=pictures,
        as_is=as_is,
        notes=tuple(notes),
    )


def said_of_scale(name: str, network: int, wanted: int) -> list[str]:
    """A line where the network gives more than was asked for."""
    if network == wanted:
        return []
    return [f"{name} upscales by {network}: its output is reduced to {wanted} times, bicubic"]


def _check_script(options: JobOptions) -> bool:
    """Whether the input is a script whose frames are encoded as they are.

    Raises:
        OptionError: an option does not go with a script, or needs one.
    """
    if not is_script(options.input):
        if options.script != ScriptOptions():
            raise OptionError(
                f"--arg, --output-index and --streams-from are for VapourSynth scripts; "
                f"{options.input} is none (.vpy)"
            )
        return False
    if options.start is not None or options.end is not None:
        raise OptionError("a script is taken whole; cut in it, as by clip = clip[100:200]")
    if replace(options.reading, colors=ColorOptions()) != InputOptions():
        raise OptionError(
            "a script says itself how its input is read; of the options for that only --in-matrix "
            "and the like go with it"
        )
    if options.script.streams_from is not None:
        _check_input(options.script.streams_from)
    if options.scale is not None or options.size != SizeOptions():
        return False
    if options.model != DEFAULT_MODEL:
        raise OptionError(
            "a script's frames are encoded as they are; add --scale to have them upscaled by "
            f"{options.model}"
        )
    return True


def default_output(options: JobOptions, scale: int | None, notes: list[str]) -> Path:
    """The output's name where none is given: beside the input.

    Args:
        scale: None where a size is asked for.
        notes: what the user should know is added.

    Raises:
        OptionError: the input has no name.
    """
    source, size = options.input, options.size
    if source == PIPE:
        raise OptionError("standard input has no name; name the output with -o, or -o - for a pipe")
    suffix = source.suffix
    if is_script(source):
        suffix = _FALLBACK
    container = CONTAINERS.get(suffix.lower())
    if not is_picture(source) and (container is None or not container.others):
        cause = "keeps neither times nor colours" if container else "is not written by hatvid"
        kind = suffix or "the input container"
        notes.append(f"{kind} {cause}: the output is {_FALLBACK.removeprefix('.')}")
        suffix = _FALLBACK
    if scale == 1:
        return source.with_suffix(suffix)
    if size.width is not None and size.height is not None:
        larger = f"{size.width}x{size.height}"
    elif size.height is not None:
        larger = f"{size.height}p"
    else:
        larger = f"x{scale}" if size.width is None else f"{size.width}w"
    return source.with_name(f"{source.stem}_{larger}{suffix}")


def _container(options: JobOptions, output: Path) -> Container:
    if options.format is not None:
        return format_of(options.format)
    return format_of(_PIPED) if output == PIPE else container_of(output)


def _check_frames(output: Path, overwrite: bool, makes_folder: bool) -> tuple[str, ...]:
    if not is_pattern(output):
        number = f"{output.stem}_%05d{output.suffix}"
        raise OptionError(f"{output} is the name of one picture; number them: -o {number}")
    return check_pattern_output(output, overwrite=overwrite, makes_folder=makes_folder)


def _check_input(path: Path) -> None:
    if path == PIPE or (is_pattern(path) and not path.exists()):
        return  # numbered pictures are looked for where they are read
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
        raise InputError(
            f"{path} is not a file; name a video file, or write - and send it to standard input"
        )


def _check_output(source: Path, output: Path, overwrite: bool, makes_folder: bool) -> None:
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
        if source.exists() and output.exists() and output.samefile(source):
            raise OptionError(f"{output} is the input itself; give the output another name")
        if not overwrite:
            raise OutputExistsError(
                f"{output} exists; use --overwrite to replace it, or -o to rename"
            )
    check_folder(output.parent, makes=makes_folder)
