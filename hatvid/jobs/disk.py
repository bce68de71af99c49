"""Whether a disk will hold the segments of a job and its output, which need about as much
again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from hatvid.errors import OutputError
from hatvid.jobs.course import Course
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.records import Record

__all__ = ["check_room", "say_if_full"]

_LEAST_BITS = 0.01
"""Bits that a pixel takes at least, in any video worth to be kept; most take ten times that."""


def check_room(folder: Path, course: Course, plan: OutputPlan) -> None:
    """Refuse a job that cannot end well on this disk.

    Raises:
        OutputError: there is less room than any output of this size takes.
    """
    pixels = course.frames * plan.padded[0] * plan.padded[1]
    there = sum(path.stat().st_size for path in folder.glob("*.nut"))
    needed = int(2 * pixels * _LEAST_BITS / 8) - there
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{_size(free)} are free beside the output, and it takes {_size(needed)} at the very "
            "least (its segments, and the whole); free some, or write elsewhere with -o"
        )


def say_if_full(
    folder: Path, course: Course, done: Sequence[Record], say: Callable[[str], None]
) -> None:
    """Warn once it can be foreseen that the disk will be full, by the segments there are."""
    frames = sum(len(record.times) for record in done)
    if not frames:
        return
    size = sum(record.size for record in done)
    whole = size * max(course.frames, frames) // frames
    needed = 2 * whole - size
    if shutil.disk_usage(folder).free < needed:
        say(
            "the disk will be full before the end, by what is done so far: free some meanwhile "
            "(what is done stays in any case)"
        )


def _size(count: int) -> str:
    return (
        f"{max(0, count) / 10**9:.1f} GB" if count >= 10**8 else f"{max(0, count) / 10**6:.1f} MB"
    )
