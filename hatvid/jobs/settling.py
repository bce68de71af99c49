"""Files that somebody still writes: known by their size and time of change, which move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hatvid.jobs.finding import Found, Stamp, stamp_of

__all__ = ["Settling", "growing"]


def growing(
    found: Iterable[Found],
    seconds: float,
    *,
    now: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
) -> set[Path]:
    """Which inputs are not yet written to their end.

    Waits only where one was changed within the last few seconds, until all such have had
    that long, and looks at them again.

    Args:
        found: inputs, with what they looked like when they were found.
        seconds: that a file has to be at rest.
        now: the time of day, as files have it.
        wait: for so many seconds.
    """
    young: dict[Path, Stamp] = {}
    rest = 0.0
    for one in found:
        if one.stamp is None:
            continue
        age = now() - one.stamp[1] / 10**9
        # Another machine's clock may be ahead: then age tells nothing, and a look does.
        if age < seconds:
            young[one.path] = one.stamp
            rest = max(rest, min(seconds, seconds - age))
    if young:
        wait(rest)
    return {path for path, stamp in young.items() if stamp_of(path) != stamp}


class Settling:
    """Looks at inputs again and again, and tells which have come to rest.

    Args:
        seconds: that size and time of change have to stay what they are.
        clock: in seconds, from anywhere.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[Path, tuple[Stamp | None, float]] = {}

    def at_rest(self, found: Found) -> bool:
        """Whether an input has come to rest, and can be opened."""
        now = self._clock()
        stamp, since = self._seen.get(found.path, (None, now))
        if found.stamp is None or stamp != found.stamp:
            self._seen[found.path] = found.stamp, now
            return False
        if now - since < self._seconds:
            return False
        try:
            # Windows keeps a file that is written from being opened.
            found.path.open("rb").close()
        except OSError:
            return False
        return True
