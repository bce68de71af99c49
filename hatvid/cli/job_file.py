"""Job files: what a batch is to do, as TOML, every key and value checked before it is believed."""

from __future__ import annotations

import datetime
import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from hatvid.cli.options import KeyValue
from hatvid.cli.toml_lines import Place, line_of, lines_of
from hatvid.errors import InputError, OptionError
from hatvid.video.encoder_files import file_option

__all__ = ["Entry", "read_job_file"]

_MOST_BYTES = 1 << 20

_ELSEWHERE = {
    "format": "it is for standard output",
    "progress": "it is the batch's, on the command line",
    "cluster": "a file does not name machines to send work to; give it on the command line",
    "allow-outside": "it is for the command line only",
}
"""Options that a job file has not, and why."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One ``[[job]]``, with the ``[defaults]`` where it says nothing itself.

    Args:
        where: of it, ``jobs.toml:12``.
        input: a file, a folder or a pattern, seen from the job file's folder.
        output: the name of the one output.
        naming: a template for outputs.
        folder: where they go.
        recursive: folders in a folder too.
        given: options of ``hatvid upscale``, by click's names, converted.
    """

    where: str
    input: str
    output: str | None = None
    naming: str | None = None
    folder: str | None = None
    recursive: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)


def read_job_file(path: Path, parameters: Iterable[click.Parameter]) -> list[Entry]:
    """Read a job file.

    Args:
        path: of it.
        parameters: of ``hatvid upscale``; a key is the long name of one, without dashes.

    Raises:
        InputError: it cannot be read.
        OptionError: it is not TOML, or a key or value of it is wrong; named are file, line
            and key.
    """
    text = _text(path)
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        line = int(at[1]) if at else text.count("\n") + 1
        said = re.sub(r" \(at .*\)$", "", str(error))
        raise OptionError(f"{path}:{line}: this is no TOML: {said}") from None
    except RecursionError:
        raise OptionError(f"{path} is nested too deeply; a job file is flat") from None
    lines = lines_of(text)
    keys = _keys(parameters)
    try:
        found = _model(keys).model_validate(parsed)
    except ValidationError as error:
        raise OptionError(_first(error, path, lines, keys)) from None
    return [
        _entry(found.defaults, job, f"{path}:{lines['job', number]}")
        for number, job in enumerate(found.job)
    ]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the name") from error
    if len(data) > _MOST_BYTES:
        raise OptionError(f"{path} is larger than a job file may be (1 MiB); share it out")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise OptionError(f"{path}:{line}: this is not UTF-8; save the file as that") from None
    return text.replace("\r\n", "\n")


def _keys(parameters: Iterable[click.Parameter]) -> dict[str, click.Option]:
    """What a job may say, by the long name."""
    found = {}
    for parameter in parameters:
        if isinstance(parameter, click.Option):
            long = max(parameter.opts, key=len).removeprefix("--")
            if long not in ("output", *_ELSEWHERE):
                found[long] = parameter
    return found


class _Common(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    naming: str | None = None
    folder: str | None = None
    recursive: bool = False


class _Job(_Common):
    input: str = Field(min_length=1)
    output: str | None = Field(default=None, min_length=1)


def _model(keys: Mapping[str, click.Option]) -> Any:
    options: dict[str, Any] = {
        str(option.name): (
            Annotated[Any, BeforeValidator(partial(_converted, option))],
            Field(default=None, alias=key),
        )
        for key, option in keys.items()
    }
    defaults = create_model("Defaults", __base__=_Common, **options)
    job = create_model("Job", __base__=_Job, **options)
    return create_model(
        "JobFile",
        __config__=ConfigDict(extra="forbid", strict=True),
        defaults=(defaults, Field(default_factory=defaults)),
        job=(list[job], Field(min_length=1)),  # type: ignore[valid-type]
    )


def _entry(defaults: BaseModel, job: BaseModel, where: str) -> Entry:
    said = {
        name: getattr(model, name) for model in (defaults, job) for name in model.model_fields_set
    }
    own = {name: said.pop(name) for name in tuple(said) if name in Entry.__dataclass_fields__}
    return Entry(where=where, given=said, **own)


def _converted(option: click.Option, value: Any) -> Any:
    """A value as click would have made it of the command line."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise ValueError(f"{_short(value)} is neither true nor false")
        return value
    if not option.multiple:
        return _one(option, value)
    if isinstance(value, dict) and isinstance(option.type, KeyValue):
        value = [f"{key}={_plain(inner)}" for key, inner in value.items()]
    values = tuple(_one(option, part) for part in (value if isinstance(value, list) else [value]))
    if option.name == "encoder_options":
        for name, text in values:
            if (what := file_option(name, text)) is not None:
                raise ValueError(
                    f"{what} may have the encoder write or read files, which a job file may not; "
                    "give it on the command line"
                )
    return values


def _one(option: click.Option, value: Any) -> Any:
    if isinstance(option.type, click.types.IntParamType):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{_short(value)} is not a whole number")
    elif isinstance(option.type, click.types.FloatParamType):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{_short(value)} is not a number")
    else:
        value = _plain(value)
    try:
        return option.type.convert(value, option, None)
    except click.BadParameter as error:
        raise ValueError(error.message.rstrip(".")) from None


def _plain(value: Any) -> str:
    if isinstance(value, datetime.time):  # 00:01:00 without quotes
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{_short(value)} is not text")
    return str(value)


def _short(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _first(
    error: ValidationError,
    path: Path,
    lines: dict[Place, int],
    keys: Mapping[str, click.Option],
) -> str:
    """The topmost of what is wrong, in a line."""
    wrongs = error.errors(include_url=False)
    wrong = min(wrongs, key=lambda one: line_of(one["loc"], lines) or _MOST_BYTES)
    loc = wrong["loc"]
    line = line_of(loc, lines)
    key = next((part for part in reversed(loc) if isinstance(part, str)), "")
    more = f" (and {len(wrongs) - 1} more)" if len(wrongs) > 1 else ""
    where = f"{path}:{line}" if line is not None else f"{path}"
    return f"{where}: {key}: {_said(wrong, key, loc, keys)}{more}"


def _said(wrong: Any, key: str, loc: Sequence[Any], keys: Mapping[str, click.Option]) -> str:
    if wrong["type"] == "missing":
        what = "a job file has a [[job]] for each" if key == "job" else "each job names one"
        return f"is missing; {what}"
    if wrong["type"] == "extra_forbidden":
        if len(loc) == 1:
            return f"no such key; there are [defaults] and [[job]]{_near(key, ['defaults', 'job'])}"
        if key in _ELSEWHERE:
            return f"not in a job file: {_ELSEWHERE[key]}"
        own = ["naming", "folder", "recursive"]
        if loc[0] == "job":
            own += ["input", "output"]
        elif key in ("input", "output"):
            return "belongs in a [[job]]"
        return f"no such option{_near(key, [*own, *keys]) or '; see hatvid upscale --help'}"
    if wrong["type"] == "value_error":
        return str(wrong["ctx"]["error"])
    said = str(wrong["msg"])
    return f"{_short(wrong['input'])}: {said[:1].lower()}{said[1:]}"


def _near(key: str, known: Sequence[str]) -> str:
    plain = key.lower().replace("_", "-")
    near = [plain] if plain in known else difflib.get_close_matches(plain, known, n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""
