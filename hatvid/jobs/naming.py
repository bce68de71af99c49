"""What a batch names its outputs, and where they may lie."""

from __future__ import annotations

import os
import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hatvid.errors import OptionError, OutputError

__all__ = ["FIELDS", "Naming", "check_place", "folded", "ignores_case", "place_of"]

FIELDS = ("stem", "scale", "width", "height", "model", "ext")
"""What a name may be made of: of the input its name without suffix, of the output the scale,
the size in pixels, the model's name and the suffix without its dot."""

_NUMBERS = ("scale", "width", "height")


@dataclass(frozen=True)
class Naming:
    """A template such as ``{stem}_{height}p.{ext}``; a slash in it makes folders."""

    text: str
    parts: tuple[tuple[str, str | None], ...]
    """Literal text, and the field after it; None after the last."""

    @classmethod
    def parse(cls, text: str) -> Naming:
        """Read a template.

        Raises:
            OptionError: a field is not known, or a brace stands alone.
        """
        known = ", ".join(f"{{{field}}}" for field in FIELDS)
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise OptionError(f"naming {text!r}: {error}; write {{{{ for a brace") from None
        parts = []
        for literal, field, spec, conversion in pieces:
            # A bare name only: no attributes, items or formats, which reach into objects.
            if field is not None and (field not in FIELDS or spec or conversion):
                raise OptionError(f"naming {text!r} has an unknown field; there are {known}")
            parts.append((literal, field))
        if not "".join(literal + (field or "") for literal, field in parts).strip("./"):
            raise OptionError(f"naming {text!r} names no file; write for example {{stem}}.{{ext}}")
        return cls(text, tuple(parts))

    @property
    def fields(self) -> frozenset[str]:
        """Which of :data:`FIELDS` it has."""
        return frozenset(field for _, field in self.parts if field is not None)

    def name(self, values: Mapping[str, str]) -> str:
        """The name for the values of all its :attr:`fields`."""
        return "".join(
            literal + (values[field] if field is not None else "") for literal, field in self.parts
        )

    @property
    def folders(self) -> int:
        """How many folders it makes."""
        return self._literal.count("/")

    def stem_in(self, path: Path, known: Mapping[str, str]) -> str | None:
        """The stem of the input that would have given a file its name; None if none would.

        A template that leaves names as they are, ``{stem}.{ext}``, tells nothing.

        Args:
            path: of the file.
            known: values of some fields.
        """
        if "stem" not in self.fields:
            return None
        if self.fields <= {"stem", "ext"} and not self._literal.strip("./"):
            return None
        pattern, seen = "", set()
        for literal, field in self.parts:
            pattern += re.escape(literal)
            if field in seen:
                pattern += f"(?P={field})"
            elif field is not None:
                pattern += f"(?P<{field}>{_values(field, known)})"
                seen.add(field)
        match = re.search(f"(?:^|/){pattern}$", path.as_posix())
        return None if match is None else match["stem"]

    @property
    def _literal(self) -> str:
        return "".join(literal for literal, _ in self.parts)


def _values(field: str, known: Mapping[str, str]) -> str:
    if field in known:
        return re.escape(known[field])
    if field in _NUMBERS:
        return "[0-9]+"
    return "[^/.]+" if field == "ext" else "[^/]+"


def place_of(folder: Path, name: str | Path, fence: Path | None) -> Path:
    """Where an output of a name lies.

    Args:
        folder: that a relative name is seen from.
        name: of the file, with folders or without.
        fence: the folder that it may not leave; None lets it lie anywhere.

    Raises:
        OptionError: it would leave the fence, or is no name of a file.
    """
    text = os.fspath(name)
    if "\0" in text or Path(text).name in ("", "..") or text.endswith(("/", os.sep)):
        raise OptionError(f"{text!r} is no name of a file; choose another")
    if text == "-":
        raise OptionError("a batch writes files; - is none")
    path = folder / text
    check_place(path, fence)
    return path


def check_place(path: Path, fence: Path | None) -> None:
    """See that nothing is written through a link, nor outside of a folder.

    Raises:
        OptionError: the path leaves the fence, through ``..`` or a link to a folder.
        OutputError: it is a link.
    """
    if fence is not None and not _inside(path, fence):
        raise OptionError(
            f"{path} lies outside of {fence}; choose a name inside, or allow it with "
            "--allow-outside"
        )
    if path.is_symlink():
        raise OutputError(f"{path} is a link, which is not written through; remove it")


def folded(path: Path) -> tuple[str, str]:
    """By what two outputs are the same file where names that differ in case are: the folder
    without links, and the name in one spelling."""
    name = unicodedata.normalize("NFC", path.name).casefold()
    return os.path.realpath(path.parent).casefold(), unicodedata.normalize("NFC", name)


def ignores_case(folder: Path) -> bool:
    """Whether names that differ in case only are one file in a folder, or, where it is not
    made yet, in the one that it will be made in.

    Told by what lies there; True where nothing tells.
    """
    for place in (folder, *folder.absolute().parents):
        try:
            names = {entry.name for entry in place.iterdir()}
        except OSError:
            continue
        for name in names:
            other = name.swapcase()
            if name.isascii() and other != name:
                return other not in names and os.path.lexists(place / other)
    return True


def _inside(path: Path, fence: Path) -> bool:
    try:
        parent = Path(os.path.realpath(path.parent))
        return parent.is_relative_to(os.path.realpath(fence))
    except (OSError, ValueError):
        return False
