"""Text from files and their names, made fit for a terminal."""

from __future__ import annotations

import unicodedata

__all__ = ["one_line"]


def one_line(text: str) -> str:
    """The text without control characters, so that it is one line and moves no cursor.

    What ends a line or is a tab becomes a space; other control characters, and bytes of
    a file name that are no UTF-8, become U+FFFD.
    """
    return "".join(map(_shown, text))


def _shown(char: str) -> str:
    if unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp"):
        return char
    return " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"
