"""Figures of ``hatvid bench`` as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

__all__ = ["write_figures"]


def write_figures(file: IO[str] | None, figures: Mapping[str, Any]) -> bool:
    """Write figures as one JSON object, if there is a file for them.

    Returns:
        Whether a table is wanted too: it is not beside figures on standard output.
    """
    if file is None:
        return True
    file.write(json.dumps(figures) + "\n")
    return file.name != "-"
