"""What a worker on another machine sees of a job, and what is sent to it where it sees nothing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from hatvid.errors import DecodeError, InputError
from hatvid.jobs.course import Course, stamp_of
from hatvid.jobs.partial import store
from hatvid.jobs.segment import Segment
from hatvid.jobs.worker import Task
from hatvid.video.excerpt import Excerpt, Opener, excerpt, whole_file
from hatvid.video.window import WindowSource

__all__ = ["Mark", "sees", "with_input"]


class Mark:
    """A file by which a folder is known, as long as the ``with`` block lasts: only who sees
    this very folder finds it there.

    Args:
        folder: of a journal.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f".{secrets.token_hex(8)}.part"
        self._path = folder / self.name

    def __enter__(self) -> Self:
        store(self._path, b"")
        return self

    def __exit__(self, *reason: object) -> None:
        self._path.unlink(missing_ok=True)


def sees(course: Course, folder: Path, mark: str) -> tuple[bool, bool]:
    """Whether the input, and the journal's folder, are here what they are for the driver.

    Args:
        mark: name of a :class:`Mark` in the folder.
    """
    try:
        there = stamp_of(course.path) == course.stamp
    except InputError:
        there = False
    return there, (folder / mark).is_file()


def with_input(task: Task, part: Sequence[Segment], level: int) -> Task:
    """A task that brings along what decoding some segments takes of the input.

    Args:
        part: segments that follow one another.
        level: 0 for what their window reads; 1 for all from the beginning of the file; 2 for
            the whole file.

    Raises:
        InputError: the input was changed, or cannot be read.
    """
    course = task.course
    course.check_input()
    begin = level > 0
    sent = _excerpt(course, part, begin=begin) if level < 2 else None
    sent = sent or whole_file(course.path)
    course.check_input()
    return replace(task, excerpt=sent, begin=begin)


def _excerpt(course: Course, part: Sequence[Segment], *, begin: bool) -> Excerpt | None:
    """None where the input's packets do not tell."""

    def read(opener: Opener) -> None:
        with WindowSource(
            course.path,
            course.info,
            course.kind,
            course.window(part, begin=begin),
            reading=replace(course.reading, hwaccel=None),
            streams=course.streams,
            opener=opener,
        ) as source:
            source.read_through()

    try:
        return excerpt(course.path, read)
    except DecodeError:
        return None
