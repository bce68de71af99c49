"""What a user may choose of results that are taken again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hatvid.errors import OptionError

__all__ = ["ReuseMode", "ReuseOptions"]

ReuseMode = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class ReuseOptions:
    """Whether what was computed before is computed again."""

    mode: ReuseMode = "auto"
    """``auto``: a tile or frame of the same bytes takes the result of the one before, where
    the engine gives the same bits for it whenever and beside whatever it comes; ``on``:
    without trying that."""

    tolerance: int = 0
    """A tile may differ from the one computed last at its place by so many steps of the
    source's codes in each sample of R, G and B, and still takes its result. That is an
    approximation."""

    memory: int | None = None
    """MiB that tiles and their results may take; None is for 16 frames, up to 1024 MiB or
    for 2 frames, if that is more, and at most an eighth of what is free."""

    def __post_init__(self) -> None:
        if self.mode not in (modes := get_args(ReuseMode)):
            raise OptionError(f"reuse {self.mode!r} is not known; choose one of {', '.join(modes)}")
        if self.tolerance < 0:
            raise OptionError(f"reuse tolerance is {self.tolerance}; it must be 0 or more")
        if self.tolerance and self.mode == "off":
            raise OptionError("reuse is off; leave the reuse tolerance out")
        if self.memory is not None and self.memory < 1:
            raise OptionError(
                f"reuse memory is {self.memory} MiB; give at least 1, or turn reuse off"
            )
