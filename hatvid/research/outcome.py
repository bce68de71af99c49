"""How a training ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Outcome"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a call of :func:`~hatvid.research.train.train` ended."""

    finished: bool
    """Whether all stages are done; otherwise it was asked to stop."""

    iteration: int
    """Of the whole run: how many are done."""

    total: int
    checkpoint: Path
    """The latest, in the published layout."""

    best: float | None
    """dB of the best validation, None without any."""

    seconds: float
    """That the whole run has taken, validations left out."""
