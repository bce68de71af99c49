"""A worker that lives on a device of another machine, and keeps its engine between segments."""

from __future__ import annotations

import contextlib
import queue
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hatvid.errors import EngineError, HatvidError, InputError
from hatvid.jobs.course import Course
from hatvid.jobs.crew import stays_on
from hatvid.jobs.fingerprint import Described
from hatvid.jobs.job import Job
from hatvid.jobs.reach import sees
from hatvid.jobs.records import Record
from hatvid.jobs.segment import Segment
from hatvid.jobs.upscalers import own_upscaler
from hatvid.jobs.worker import Task, Worker
from hatvid.reuse import Reused

__all__ = ["Actor", "Word"]

type Word = tuple[str, *tuple[Any, ...]]
"""What a worker says: ``advanced`` (frames, reused), ``stored`` (record, its file or None),
``short`` (the excerpt of the input does not do), ``failed`` (error)."""


class Actor:
    """Computes segments where it is; its methods are called from elsewhere.

    Args:
        scale: of the model, None where the model decides.
        size: (height, width) of the frames, in pixels.
    """

    def __init__(self, scale: int | None, size: tuple[int, int]) -> None:
        self._scale = scale
        self._size = size

    def load(self, job: Job, frames: int = 0) -> tuple[str, Described | HatvidError]:
        """Build the upscaler that a job describes; what ``auto`` stands for may be decided
        here.

        Args:
            frames: that lie ahead, to decide by.

        Returns:
            The name of this machine, and what computes here, or why nothing does.
        """
        where = socket.gethostname()
        try:
            self._upscaler = own_upscaler(job, self._scale)
            self._facts = self._upscaler.warm_up(*self._size, ahead=frames)
        except HatvidError as error:
            return where, _to_travel(error)
        return where, Described.of(self._upscaler, self._facts)

    def sees(self, course: Course, folder: Path, mark: str) -> tuple[bool, bool]:
        """See :func:`hatvid.jobs.reach.sees`."""
        return sees(course, folder, mark)

    def work(self, task: Task, part: Sequence[Segment], stores: bool) -> Iterator[Word]:
        """Do segments that follow one another, and tell what comes.

        Args:
            stores: the journal's folder is seen from here; else each segment is told.
        """
        said: queue.SimpleQueue[Word | None] = queue.SimpleQueue()
        with contextlib.ExitStack() as stack:
            if not stores:
                own = stack.enter_context(tempfile.TemporaryDirectory(prefix="hatvid-"))
                task = replace(task, folder=Path(own))
            thread = threading.Thread(
                target=self._say, args=(said, task, part, stores), daemon=True
            )
            thread.start()
            while (word := said.get()) is not None:
                yield word
            thread.join()

    def _say(
        self,
        said: queue.SimpleQueue[Word | None],
        task: Task,
        part: Sequence[Segment],
        stores: bool,
    ) -> None:
        device = stays_on(self._upscaler, task.course.reading)
        worker = Worker(task, self._upscaler, self._facts, device=device)

        def advanced(frames: int, reused: Reused) -> None:
            said.put(("advanced", frames, reused))

        def finished(record: Record) -> None:
            said.put(("stored", record, None if stores else _taken(task.folder, record)))

        try:
            worker.work(part, advanced=advanced, finished=finished)
        except InputError as error:
            short = task.excerpt is not None and not task.excerpt.complete
            said.put(("short",) if short else ("failed", _to_travel(error)))
        except HatvidError as error:
            said.put(("failed", _to_travel(error)))
        except BaseException as error:
            what = f"{type(error).__name__} in a worker on {socket.gethostname()}: {error}"
            said.put(("failed", EngineError(what)))
        said.put(None)


def _taken(folder: Path, record: Record) -> bytes:
    path = folder / f"{record.number:05d}.nut"
    data = path.read_bytes()
    path.unlink()
    return data


def _to_travel(error: HatvidError) -> HatvidError:
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
