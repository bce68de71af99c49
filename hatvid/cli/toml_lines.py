"""On which line of a TOML file each key stands, which tomllib does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

__all__ = ["Place", "line_of", "lines_of"]

type Place = tuple[str | int, ...]
"""Keys, and positions in arrays of tables, from the top: ``("job", 0, "input")``."""

# All in which a line can end without a statement's ending, and what ends one.
_PIECES = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*|[\[{]|[\]}]|\n",
    re.DOTALL,
)


def lines_of(text: str) -> dict[Place, int]:
    """The line, from 1, on which each key and each table begins.

    Keys inside of an inline table have no line of their own: see :func:`line_of`.

    Args:
        text: valid TOML.
    """
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    for line, statement in _statements(text):
        names = _names(tomllib.loads(statement))
        if not names:
            continue
        header = statement.lstrip().startswith("[")
        several = statement.lstrip().startswith("[[")
        place: Place = () if header else table
        for number, name in enumerate(names):
            place = (*place, name)
            last = number == len(names) - 1
            if header and several and last:
                counts[place] = counts.get(place, 0) + 1
            if place in counts:
                found.setdefault(place, line)
                place = (*place, counts[place] - 1)
            found.setdefault(place, line)
        if header:
            table = place
    return found


def line_of(place: Place, lines: dict[Place, int]) -> int | None:
    """The line of a key, or of what it stands in."""
    while place:
        if place in lines:
            return lines[place]
        place = place[:-1]
    return None


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement, with the line it begins on."""
    begin, depth, line, first = 0, 0, 1, 1
    for piece in _PIECES.finditer(text):
        word = piece[0]
        line += word.count("\n")
        if word in ("[", "{"):
            depth += 1
        elif word in ("]", "}"):
            depth -= 1
        elif word == "\n" and depth == 0:
            yield first, text[begin : piece.end()]
            begin, first = piece.end(), line
    yield first, text[begin:]


def _names(parsed: dict[str, object]) -> list[str]:
    """The dotted key of one statement; a value that is a table itself ends it too late, which
    only gives its first keys a line of their own."""
    names: list[str] = []
    value: object = parsed
    while True:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, dict) or len(value) != 1:
            return names
        ((name, value),) = value.items()
        names.append(name)
