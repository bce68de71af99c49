"""Recipes as files: TOML, of which nothing is executed, with faults told by line and key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hatvid.errors import InputError, OptionError
from hatvid.research.recipe import Recipe

__all__ = ["read_recipe", "shipped_recipes"]

_SHIPPED = Path(__file__).parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Those that come with hatvid, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.toml"))}


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        InputError: it cannot be read, or is no TOML.
        OptionError: something in it is wrong; the message names key and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(_missing(path)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(
            f"the recipe {path} cannot be read ({reason}); mend it, or name another"
        ) from error
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the recipe {path} is no TOML ({error}); mend it there") from error
    try:
        return Recipe.checked(content, path.resolve().parent)
    except ValidationError as error:
        raise OptionError(_told(path, text, content, error)) from error


def _missing(path: Path) -> str:
    """What to do instead, in a line: shipped recipes are copied before they are run."""
    known, name = shipped_recipes(), path.name.removesuffix(".toml")
    if name in known:
        return (
            f"there is no file {path}; hatvid train --copy {name} writes the shipped recipe of "
            f"that name here, as {name}.toml"
        )
    return (
        f"there is no file {path}; name one, or copy a shipped recipe by hatvid train --copy "
        f"NAME: there are {', '.join(known)}"
    )


def _told(path: Path, text: str, content: Any, error: ValidationError) -> str:
    """The first fault, in a line: file, line, key, what is wrong, what to do."""
    faults = error.errors(include_url=False)
    first = faults[0]
    place = first.get("ctx", {}).get("place", first["loc"])
    # Members of unions stand among the keys, too: what leads nowhere is left out.
    keys: list[Any] = []
    for part in place:
        inside = range(len(content)) if isinstance(content, list) else content
        if isinstance(content, (dict, list)) and part in inside:
            keys, content = [*keys, part], content[part]
    line = _line_of(text, keys)
    where = f"{path}, line {line}" if line else str(path)
    key = ".".join(str(part + 1) if isinstance(part, int) else part for part in keys)
    kind = first["type"]
    if kind == "extra_forbidden":
        said = "is not known; remove it, or see docs/training.md for what there is"
    elif kind == "missing":
        said = "is missing; add it"
        key = f"{key}.{place[-1]}" if key else str(place[-1])
    else:
        said = f"{first['msg'].removeprefix('Value error, ')}; mend it"
        value = first["input"]
        if isinstance(value, (str, int, float)):
            said = f"is {value!r}: {said}"
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where}: {key or 'the recipe'}: {said}{more}"


def _line_of(text: str, keys: list[Any]) -> int | None:
    """The line of a key, counted from 1; of its table if the key itself is not found.

    TOML's reader keeps no positions: headers of tables are followed in order, then the
    key's own line is looked for in that table.
    """
    lines = text.splitlines()
    at, seen, tables, wanted = None, 0, [], list(keys)
    while wanted:
        name = wanted.pop(0)
        tables.append(str(name))
        dotted = r"\s*\.\s*".join(map(re.escape, tables))
        number = wanted.pop(0) if wanted and isinstance(wanted[0], int) else 0
        header = re.compile(rf"^\s*\[\[?\s*{dotted}\s*\]\]?")
        places = [k for k in range(seen, len(lines)) if header.match(lines[k])]
        if len(places) > number:
            at = seen = places[number]
            continue
        assignment = re.compile(rf"^\s*{re.escape(str(name))}\s*[=.]")
        for k in range(seen + (at is not None), len(lines)):
            if re.match(r"^\s*\[", lines[k]):
                break
            if assignment.match(lines[k]):
                return k + 1
        break
    return None if at is None else at + 1
