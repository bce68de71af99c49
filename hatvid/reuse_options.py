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
    the engine gives the same bits for it whenever and with whatever it comes. On a GPU only
    whole frames do: each tile would have to travel to main memory to be looked up. ``on``:
    tiles on a GPU as well."""

    memory: int | None = None
    """MiB that tiles and their results may take; None is for 16 frames, up to 1024 MiB or
    for 2 frames, if that is more, and at most an eighth of what is free."""

    def __post_init__(self) -> None:
        if self.mode not in (modes := get_args(ReuseMode)):
            raise OptionError(f"reuse {self.mode!r} is not known; choose one of {', '.join(modes)}")
        if self.memory is not None and self.memory < 1:
            raise OptionError(
                f"reuse memory is {self.memory} MiB; give at least 1, or turn reuse off"
            )
