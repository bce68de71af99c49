"""Places in an input: a point on its time line, streams by specifier."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hatvid.errors import OptionError

__all__ = ["PIPE", "StreamSpecifier", "TimePoint", "is_script"]

PIPE = Path("-")
"""Standard input or standard output, in place of a file."""


def is_script(path: Path) -> bool:
    """Whether an input is a VapourSynth script, by its name: a program, to be run."""
    return path.suffix.lower() == ".vpy"


_KINDS = {"v": "video", "a": "audio", "s": "subtitle", "d": "data", "t": "attachment"}


@dataclass(frozen=True)
class TimePoint:
    """A place on the input's time line: exact seconds, or a frame number.

    Exactly one of the two is set.
    """

    seconds: Fraction | None = None
    frame: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.frame is None):
            raise ValueError("a TimePoint is either seconds or a frame number")

    @classmethod
    def parse(cls, text: str) -> TimePoint:
        """Read ``12.5``, ``00:00:12.5`` (hours, minutes may be left out) or ``300f``.

        Raises:
            OptionError: the text is none of these.
        """
        if match := re.fullmatch(r"(\d+)f", text, re.ASCII):
            return cls(frame=int(match[1]))
        match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", text, re.ASCII)
        if match is None:
            raise OptionError(
                f"{text!r} is not a time; write seconds (12.5), a clock (00:00:12.5) "
                "or a frame number (300f)"
            )
        hours, minutes, seconds = match[1] or "0", match[2] or "0", Fraction(match[3])
        if (match[2] is not None and seconds >= 60) or (
            match[1] is not None and int(minutes) >= 60
        ):
            raise OptionError(f"{text!r} is not a time; minutes and seconds end at 59")
        return cls(seconds=int(hours) * 3600 + int(minutes) * 60 + seconds)

    def reached(self, seconds: Fraction, number: int) -> bool:
        """Whether a frame at ``seconds``, the ``number``-th from 0, is here or later."""
        if self.seconds is not None:
            return seconds >= self.seconds
        assert self.frame is not None
        return number >= self.frame

    def __str__(self) -> str:
        return f"{self.frame}f" if self.seconds is None else f"{float(self.seconds):g}s"


@dataclass(frozen=True, kw_only=True)
class StreamSpecifier:
    """Streams of the input by FFmpeg's short notation.

    ``3`` is the stream of that index, ``a`` all audio streams, ``a:1`` the second of
    them, ``a:m:language:eng`` those with that tag; a leading ``0:`` changes nothing. A
    leading ``-`` takes streams out again.
    """

    kind: str | None = None
    """``video``, ``audio``, ``subtitle``, ``data`` or ``attachment``; None is any."""

    number: int | None = None
    """Position among those of the kind, or the index where there is no kind."""

    tag: tuple[str, str] | None = None
    """A metadata key and its value."""

    excluded: bool = False
    text: str = ""
    """As it was written."""

    @classmethod
    def parse(cls, text: str) -> StreamSpecifier:
        """Read one specifier.

        Raises:
            OptionError: it is none.
        """
        match = re.fullmatch(
            r"(?P<minus>-)?(?:0:)?"
            r"(?:(?P<index>\d+)|(?:(?P<kind>[vasdt])(?::(?P<number>\d+))?)?)"
            r"(?::?m:(?P<key>[^:]+):(?P<value>.+))?",
            text,
            re.ASCII,
        )
        if match is None or not any(match[name] for name in ("index", "kind", "key")):
            raise OptionError(
                f"{text!r} is no stream specifier; write an index (3), a kind (v, a, s, d, t), "
                "one of a kind (a:1) or a tag (a:m:language:eng)"
            )
        number = match["index"] or match["number"]
        return cls(
            kind=_KINDS[match["kind"]] if match["kind"] else None,
            number=int(number) if number else None,
            tag=(match["key"], match["value"]) if match["key"] else None,
            excluded=match["minus"] is not None,
            text=text,
        )
