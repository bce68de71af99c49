"""One worker: an upscaler and segments to do, each stored as soon as it is whole."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hatvid.jobs.course import Course
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.partial import PartialFile, settle, store
from hatvid.jobs.pipeline import pump
from hatvid.jobs.receipt import MendedPlace
from hatvid.jobs.records import Record
from hatvid.jobs.remarks import Met, mended_place
from hatvid.jobs.segment import Segment
from hatvid.model.catalog import file_sha256
from hatvid.reuse import Reused
from hatvid.upscaler import Description, MendedTile, Upscaler
from hatvid.video.batch import FrameBatch
from hatvid.video.excerpt import Excerpt
from hatvid.video.pictures import AnyPacket
from hatvid.video.segment_file import SegmentWriter
from hatvid.video.window import AstrayError, WindowSource

__all__ = ["Task", "Worker", "worker_name"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all workers of a job are given; it can be sent to other processes.

    Args:
        course: which segments there are, and how they are read.
        plan: of the output, with an encoder whose threads are fixed.
        key: of the journal's header.
        folder: where segments are stored.
        excerpt: of the input, where that cannot be reached.
        begin: decode from the beginning of the file.
    """

    course: Course
    plan: OutputPlan
    key: str
    folder: Path
    excerpt: Excerpt | None = None
    begin: bool = False


class Worker:
    """Does segments of a task, one after the other.

    Args:
        task: of the job.
        upscaler: with all that ``auto`` stands for decided.
        facts: of it, for frames of the task's size.
        device: where frames stay that a GPU decodes.
    """

    def __init__(
        self,
        task: Task,
        upscaler: Upscaler,
        facts: Description,
        *,
        device: torch.device | None = None,
    ) -> None:
        self._task = task
        self._upscaler = upscaler
        self._facts = facts
        self._device = device

    def work(
        self,
        span: Sequence[Segment],
        *,
        advanced: Callable[[int, Reused], None],
        finished: Callable[[Record], None],
    ) -> None:
        """Compute segments that follow one another, decoding once.

        Args:
            advanced: told how many more frames are computed, and what of them did not have
                to be, from this thread.
            finished: told of each segment that is stored, from another.

        Raises:
            AstrayError: there is an excerpt, which would have to begin with the file.
            HatvidError: what is stored by then stays.
        """
        left = list(span)

        def stored(record: Record) -> None:
            del left[0]
            finished(record)

        try:
            self._read(list(left), stored, advanced, begin=self._task.begin)
        except AstrayError:
            if self._task.excerpt is not None:  # which does not hold the beginning
                raise
            # Its packets promised what its decoder does not keep, unless it begins earlier.
            self._read(list(left), stored, advanced, begin=True)

    def _read(
        self,
        span: Sequence[Segment],
        stored: Callable[[Record], None],
        advanced: Callable[[int, Reused], None],
        *,
        begin: bool,
    ) -> None:
        task = self._task
        course, plan = task.course, task.plan
        window = course.window(span, begin=begin)
        with WindowSource(
            course.path,
            course.info,
            course.kind,
            window,
            reading=course.reading,
            streams=course.streams,
            device=self._device,
            opener=None if task.excerpt is None else task.excerpt.open,
        ) as source:
            device = self._upscaler.device if self._upscaler.device.type == "cuda" else None
            with _Shelf(task, span, stored, device=device) as shelf:

                def done(batch: FrameBatch, reused: Reused) -> None:
                    shelf.reuse(batch, reused)
                    advanced(len(batch.times), reused)

                pump(
                    source,
                    shelf,
                    self._upscaler,
                    self._facts,
                    plan,
                    done,
                    shelf.mend,
                )
                shelf.finish()


class _Shelf:
    """Takes larger frames, and stores them segment by segment."""

    copied: frozenset[int] = frozenset()

    def __init__(
        self,
        task: Task,
        span: Sequence[Segment],
        stored: Callable[[Record], None],
        *,
        device: torch.device | None,
    ) -> None:
        self._task = task
        self._left = list(span)
        self._stored = stored
        self._device = device
        self._open: tuple[PartialFile, SegmentWriter] | None = None
        self._met = Met()
        self._began = time.monotonic()
        # With the pts of a frame that each belongs to.
        self._mended: list[tuple[int, MendedPlace]] = []
        self._reused: list[tuple[int, Reused]] = []

    def __enter__(self) -> _Shelf:
        self._begin()
        return self

    def __exit__(self, *reason: object) -> None:
        if self._open is not None:
            partial, writer = self._open
            self._open = None
            writer.abort()
            partial.__exit__(None, None, None)

    @property
    def on_device(self) -> bool:
        """Whether the encoder takes planes where they lie in a GPU's memory."""
        return self._open is not None and self._open[1].on_device

    def write(self, item: FrameBatch | AnyPacket) -> None:
        """Encode a batch, which lies in one segment."""
        assert isinstance(item, FrameBatch)
        first = item.times[0].pts
        while not self._left[0].owns(first):
            self._finish()
            self._begin()
        assert self._open is not None
        self._open[1].write(item)
        self._met.count(self._task.course.info, item, Reused())

    def mend(self, batch: FrameBatch, tile: MendedTile) -> None:
        """Told of a tile that was computed again, before its batch comes."""
        place = mended_place(self._task.course.info, batch, tile)
        self._mended.append((batch.times[tile.frame].pts, place))

    def reuse(self, batch: FrameBatch, reused: Reused) -> None:
        """Told what did not have to be computed of a batch, before it comes."""
        self._reused.append((batch.times[0].pts, reused))

    def finish(self) -> None:
        """Store the last segment."""
        while self._left:
            if self._open is None:
                self._begin()
            self._finish()

    def _begin(self) -> None:
        task = self._task
        assert task.plan.form is not None
        name = task.folder / f"{self._left[0].number:05d}.nut"
        partial = PartialFile(name, overwrite=True)
        partial.__enter__()
        try:
            writer = SegmentWriter(
                partial.file, task.plan.form, shift=task.course.shift, device=self._device
            )
        except BaseException:
            partial.__exit__(None, None, None)
            raise
        self._open = partial, writer
        self._met = Met()
        self._began = time.monotonic()

    def _finish(self) -> None:
        assert self._open is not None
        partial, writer = self._open
        facts = writer.finish()
        if self._task.excerpt is None:
            self._task.course.check_input()
        partial.seal()
        segment = self._left[0]
        mended = [place for pts, place in self._mended if segment.owns(pts)]
        reused = [count for pts, count in self._reused if segment.owns(pts)]
        record = Record(
            job=self._task.key,
            number=segment.number,
            size=partial.written.stat().st_size,
            sha256=file_sha256(partial.written),
            lead=facts.lead,
            extradata=hashlib.sha256(facts.extradata).hexdigest(),
            times=list(facts.times),
            repeated=self._met.repeated,
            damaged=self._met.damaged,
            moved=self._met.moved,
            mended=mended,
            reused=sum(reused, Reused()),
            side_data_lost=dict(facts.side_data_lost),
            worker=worker_name(),
            seconds=round(time.monotonic() - self._began, 3),
        )
        partial.publish()
        partial.__exit__(None, None, None)
        self._open = None
        settle(self._task.folder)
        path = self._task.folder / f"{segment.number:05d}.json"
        store(path, record.model_dump_json().encode(), overwrite=True)
        del self._left[0]
        self._stored(record)


def worker_name() -> str:
    """Who works here, for the journal."""
    return f"{socket.gethostname()}:{os.getpid()}"
