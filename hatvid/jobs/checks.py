"""What a verification finds: named checks, and all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Check", "Verification", "few"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold.

    Args:
        name: ``frames``, ``times``, ``stream 2``, ...
        ok: whether it holds.
        text: one line of what was found.
        details: numbers and lists behind the text, ready for JSON.
    """

    name: str
    ok: bool
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All checks of one pair of files."""

    input: Path
    output: Path
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.ok)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        checks = [asdict(check) for check in self.checks]
        paths = {"input": str(self.input), "output": str(self.output)}
        return {**paths, "ok": self.ok, "checks": checks}


def few(parts: Iterable[object], limit: int = 4) -> str:
    """The first few of a list, and how many more there are."""
    shown = [str(part) for part in parts]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more
