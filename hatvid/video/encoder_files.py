"""Encoder options that have an encoder read or write a file of its own.

Whoever runs hatvid may give them; what comes out of a file may not, as it would let that
file say what is written where.
"""

from __future__ import annotations

import re

__all__ = ["file_option"]

_NAMES = frozenset(
    {
        *("stats", "passlogfile", "pass", "passes", "config", "input", "output"),
        *("cqm", "scaling-list", "dhdr10-info", "dolby-vision-rpu", "film-grain", "abr-ladder"),
        *("errlog", "fpf", "analysis-save", "analysis-load", "rate-distribution-info"),
    }
)
_PARTS = re.compile(r"(?<!pro)file|path|stats|csv|recon|dump|table|clbin|multi-pass")
# FFmpeg's lists of a library's own options; it takes quotes and backslashes off.
_LIST = re.compile(r".*-params|x264opts")
_FRACTION = re.compile(r"\d+/\d+")


def file_option(name: str, value: str) -> str | None:
    """What in an option is, or may be, about a file, in the user's words; None if nothing.

    More is taken for that than is: a name with ``file``, ``path`` or ``stats`` in it, two
    passes (x264 and x265 keep the first one's findings in the working folder), and any value
    that could be a path.

    Args:
        name: FFmpeg's, of an encoder's option.
        value: of it; in a list like ``x265-params`` each entry is looked at.
    """
    if _LIST.fullmatch(name):
        if any(sign in value for sign in "\\'\""):
            return f"a quote or backslash in {name}"
        for part in value.split(":"):
            key, _, rest = part.partition("=")
            if _of_file(key) or _like_path(rest):
                return f"{key.strip()} in {name}"
        return None
    if _of_file(name) or _like_path(value):
        return name
    if name.endswith("flags") and "pass" in value:
        return f"{value} in {name}"
    return None


def _of_file(name: str) -> bool:
    plain = name.strip().lower().replace("_", "-").lstrip("-").removeprefix("no-")
    return plain in _NAMES or _PARTS.search(plain) is not None


def _like_path(value: str) -> bool:
    return bool(re.search(r"[/\\]", value)) and _FRACTION.fullmatch(value.strip()) is None
