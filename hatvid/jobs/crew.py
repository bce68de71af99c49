"""Who computes the segments of a job: this process; others are in workers.py and cluster.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from hatvid.jobs.account import Account
from hatvid.jobs.fingerprint import Described
from hatvid.jobs.records import Header, Record
from hatvid.jobs.segment import Segment, spans
from hatvid.jobs.worker import Task, Worker
from hatvid.options import InputOptions
from hatvid.reuse import Reused
from hatvid.upscaler import Upscaler

__all__ = ["Advanced", "Alone", "Crew", "Finished", "stays_on"]

Advanced = Callable[[int, Reused], None]
"""Told how many more frames are computed, and what of them did not have to be."""

Finished = Callable[[Record], None]
"""Told of each segment that is stored."""


class Crew(Protocol):
    """Computes segments."""

    def describe(self) -> Described:
        """By what; asked before anything is computed.

        Raises:
            HatvidError: it cannot be had.
        """
        ...

    def compute(
        self,
        task: Task,
        header: Header,
        segments: Sequence[Segment],
        *,
        advanced: Advanced,
        finished: Finished,
    ) -> None:
        """Let segments be computed and stored.

        Args:
            header: of the journal; what ``auto`` stands for is taken from it.
            advanced: called from this thread.
            finished: likewise, or from another.

        Raises:
            HatvidError: what was met with; what is stored by then stays.
        """
        ...


class Alone:
    """This process, with one upscaler.

    Args:
        account: of the run.
        upscaler: stays open.
        size: (height, width) of the frames, in pixels.
        frames: how many there are.
    """

    def __init__(
        self, account: Account, upscaler: Upscaler, *, size: tuple[int, int], frames: int
    ) -> None:
        self.upscaler = upscaler
        self._account = account
        self._size = size
        self._frames = frames

    def describe(self) -> Described:
        """See :class:`Crew`."""
        facts = self.upscaler.warm_up(*self._size, ahead=self._frames)
        self._account.note_reuse(facts)
        return Described.of(self.upscaler, facts)

    def compute(
        self,
        task: Task,
        header: Header,
        segments: Sequence[Segment],
        *,
        advanced: Advanced,
        finished: Finished,
    ) -> None:
        """See :class:`Crew`."""
        upscaler = self.upscaler
        facts = upscaler.describe(*self._size)
        worker = Worker(task, upscaler, facts, device=stays_on(upscaler, task.course.reading))
        for span in spans(segments):
            worker.work(span, advanced=advanced, finished=finished)
        self._account.note_reuse(upscaler.describe(*self._size))


def stays_on(upscaler: Upscaler, reading: InputOptions) -> torch.device | None:
    """Where frames stay that a GPU decodes."""
    gpu = upscaler.device.type == "cuda" and reading.hwaccel == "cuda"
    return upscaler.device if gpu else None
