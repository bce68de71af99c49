"""A video in segments: those that are done stay done, whatever happens to the rest."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from hatvid.engine import resolve_engine
from hatvid.engine.memory import available_memory
from hatvid.errors import OptionError, OutOfMemoryError, OutputError
from hatvid.jobs.account import Account
from hatvid.jobs.course import Course, digest_of, plan_course
from hatvid.jobs.disk import check_room, say_if_full
from hatvid.jobs.fingerprint import device_kind, resolved_of, settings_of
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.job import Job
from hatvid.jobs.join import Damage
from hatvid.jobs.journal import Journal
from hatvid.jobs.receipt import Receipt, ShardReceipt
from hatvid.jobs.records import Header, Record
from hatvid.jobs.segment import Segment, spans
from hatvid.jobs.upscalers import own_upscaler, settled
from hatvid.jobs.whole import make_whole
from hatvid.jobs.worker import Task, Worker
from hatvid.jobs.workers import Assignment, devices_for, share
from hatvid.options import JobOptions, ReuseOptions
from hatvid.reuse import Reused, default_budget
from hatvid.upscaler import Description, Upscaler
from hatvid.video.encoder_segments import with_threads
from hatvid.video.source import VideoSource
from hatvid.video.streams import StreamPlan

__all__ = ["InSegments", "course_for"]

_REPAIRS = 2
"""How often segments that turn out damaged are done again before a job gives up."""

_MOST_THREADS = 16
"""Of an encoder; more gain little, and each takes memory."""


def course_for(
    account: Account, source: VideoSource, plan: OutputPlan, upscaler: Upscaler | None
) -> Course | None:
    """The segments of a job; None where it runs straight through, which is said if it matters.

    Args:
        upscaler: that the caller brings.

    Raises:
        OptionError: segments were asked for, and there can be none.
    """
    if plan.form is None:
        if account.job.options.segments.asked:
            raise OptionError("pictures are not cut into segments; leave --segment out")
        return None
    if upscaler is not None and upscaler.fingerprint is None:
        if account.job.options.segments.asked:
            raise OptionError(
                "an upscaler without a fingerprint cannot be told from another one; give it one"
            )
        return None
    if upscaler is not None and upscaler.reuse.tolerance and upscaler.reuse.memory is None:
        if account.job.options.segments.asked:
            raise OptionError(
                "with a reuse tolerance bits hang on what is kept; give the upscaler a reuse memory"
            )
        return None
    course = plan_course(account.job, source, plan)
    if isinstance(course, str):
        account.note(f"not in segments, so that a stop would lose what is done: {course}")
        return None
    return course


class InSegments:
    """One run of a job that is kept in a journal.

    Args:
        account: of the run.
        source: opened; none of its frames is taken.
        plan: of the output.
        streams: that are carried over.
        course: the segments.
    """

    def __init__(
        self,
        account: Account,
        source: VideoSource,
        plan: OutputPlan,
        streams: StreamPlan,
        course: Course,
    ) -> None:
        self._account = account
        self._source = source
        self._plan = plan
        self._streams = streams
        self._course = course
        self._wanted = account.job.options.segments
        self._size = course.info.height, course.info.width
        self._scale: int | None = None

    def carry_out(self, upscaler: Upscaler | None, scale: int | None) -> Receipt | ShardReceipt:
        """Do what is left of the job, and join it.

        Args:
            upscaler: that the caller brings; None takes the one that the job describes.
            scale: of the latter.

        Raises:
            HatvidError: what is done is kept, and said in a note of the error.
        """
        job, wanted = self._account.job, self._wanted
        with ExitStack() as stack:
            journal = stack.enter_context(
                Journal(job.output, shard=wanted.shard, restart=wanted.restart)
            )
            check_room(journal.folder, self._course, self._plan)
            encoder_threads = self._fix(journal)
            own = upscaler is None
            self._scale = scale
            if not own and wanted.workers is not None:
                raise OptionError("an upscaler cannot be shared by several workers; name a model")
            if upscaler is None:
                upscaler = stack.enter_context(own_upscaler(self._described(journal), scale))
            self._account.note_scale(upscaler)
            try:
                while True:
                    try:
                        return self._attempt(journal, upscaler, encoder_threads, own=own)
                    except OutOfMemoryError as error:
                        # One output has one tiling: what is done with another is of no use.
                        # But what others do is theirs.
                        if wanted.shard is not None or wanted.workers is not None:
                            raise
                        self._account.start_over(self._source, upscaler, error)
                        journal.restart()
            except BaseException as error:
                self._tell_what_is_kept(journal, error)
                raise

    def _attempt(
        self, journal: Journal, upscaler: Upscaler, encoder_threads: int, *, own: bool
    ) -> Receipt | ShardReceipt:
        account, info = self._account, self._course.info
        facts = upscaler.warm_up(*self._size)
        account.note_reuse(upscaler, facts)
        header = self._header(upscaler, facts, encoder_threads)
        journal.begin(header)
        done = self._done(journal)
        frames = sum(len(record.times) for record in done)
        if done:
            account.note(
                f"going on: {len(done)} of {len(self._course.segments)} segments "
                f"({frames} frames) were done before"
            )
        account.done = frames
        account.met.reused = sum((record.reused for record in done), Reused())
        account.progress.started(account.started(self._source, self._plan, facts, done=frames))
        began = time.monotonic()
        left = self._left(journal)
        if left and self._wanted.join_only:
            numbers = ", ".join(str(segment.number) for segment in left[:8])
            raise OutputError(
                f"{len(left)} of {len(self._course.segments)} segments are not done yet "
                f"({numbers}{' and more' * (len(left) > 8)}); run the shards that have them"
            )
        self._compute(journal, header, upscaler, facts, left, own=own)
        if self._wanted.shard is not None:
            return ShardReceipt(
                input=info.path,
                output=account.job.output,
                frames=account.done - frames,
                done=len(self._done(journal)),
                segments=len(self._course.segments),
                seconds=time.monotonic() - began,
                notes=tuple(account.notes),
            )
        for last in (False,) * _REPAIRS + (True,):
            receipt = self._made_whole(journal, facts, began)
            if isinstance(receipt, Receipt):
                journal.remove()
                return receipt
            if last or self._wanted.join_only:
                raise OutputError(
                    f"segment {receipt[0].number} cannot be joined: {receipt[0].reason}; run the "
                    "job again, and look whether the disk is sound"
                )
            again = self._condemned(journal, receipt)
            self._compute(journal, header, upscaler, facts, again, own=own)
        raise AssertionError("the last time ends it")

    def _made_whole(
        self, journal: Journal, facts: Description, began: float
    ) -> Receipt | Sequence[Damage]:
        return make_whole(
            self._account,
            self._source,
            self._plan,
            self._streams,
            self._course,
            journal,
            facts,
            began,
        )

    # What is to be done.

    def _fix(self, journal: Journal) -> int:
        """Fix the threads of the encoder, as packets hang on them."""
        form = self._plan.form
        assert form is not None
        if journal.header is not None:
            threads = journal.header.resolved.encoder_threads
        else:
            threads = max(1, min(_MOST_THREADS, os.cpu_count() or 1))
        encoder = with_threads(form.encoder, threads)
        self._plan = replace(self._plan, form=replace(form, encoder=encoder))
        return threads

    def _described(self, journal: Journal) -> Job:
        """The job, with ``auto`` as it was decided when it was begun."""
        job = self._account.job
        if journal.header is not None:
            job = replace(job, options=settled(job.options, journal.header.resolved))
        options = job.options
        if self._wanted.workers is not None:
            devices = devices_for(self._wanted.workers)
            engine = replace(
                options.engine,
                device=devices[0],
                threads=options.engine.threads or max(1, torch.get_num_threads() // len(devices)),
                sharers=Counter(devices).most_common(1)[0][1],
            )
            options = replace(options, engine=engine)
        return replace(job, options=replace(options, reuse=_fixed(options)))

    def _decided(self, header: Header) -> Job:
        """The job with nothing left to decide."""
        job = self._account.job
        return replace(job, options=settled(job.options, header.resolved))

    def _header(self, upscaler: Upscaler, facts: Description, encoder_threads: int) -> Header:
        job, course = self._account.job, self._course
        settings = settings_of(
            job,
            course,
            self._plan,
            facts,
            source=digest_of(course.path),
            reuse=upscaler.reuse,
            model=upscaler.fingerprint or "",
        )
        return Header(
            input=os.fsencode(course.path.absolute()).decode("utf-8", "backslashreplace"),
            output=os.fsencode(job.output.name).decode("utf-8", "backslashreplace"),
            settings=settings,
            resolved=resolved_of(facts, upscaler.reuse, encoder_threads),
            segments=[(segment.first, segment.frames) for segment in course.segments],
        )

    def _done(self, journal: Journal) -> list[Record]:
        records = (journal.record(segment.number) for segment in self._course.segments)
        return [record for record in records if record is not None]

    def _left(self, journal: Journal) -> list[Segment]:
        """What this run has to do, of what nobody has done."""
        segments = self._course.segments
        if self._wanted.shard is not None:
            part, parts = self._wanted.shard
            count = len(segments)
            # Neighbours, so that each shard decodes one stretch.
            segments = segments[count * (part - 1) // parts : count * part // parts]
        return [segment for segment in segments if journal.record(segment.number) is None]

    def _compute(
        self,
        journal: Journal,
        header: Header,
        upscaler: Upscaler,
        facts: Description,
        left: Sequence[Segment],
        *,
        own: bool,
    ) -> None:
        if not left:
            return
        account = self._account
        task = Task(course=self._course, plan=self._plan, key=header.key, folder=journal.folder)

        def advanced(frames: int, reused: Reused) -> None:
            account.done += frames
            account.met.reused += reused
            account.progress.reused(account.met.reused)
            account.progress.advanced(account.done)

        def finished(record: Record) -> None:
            say_if_full(journal.folder, self._course, self._done(journal), account.note)

        if self._wanted.workers is not None and own:
            assignment = Assignment(
                task=task,
                job=self._decided(header),
                scale=self._scale,
                facts=facts,
                kind=device_kind(facts.device),
            )
            upscaler.close()  # each worker has its own
            share(
                assignment,
                devices_for(self._wanted.workers),
                left,
                advanced=advanced,
                finished=finished,
                note=account.note,
            )
            return
        stay = upscaler.device if account.job.options.reading.hwaccel == "cuda" else None
        worker = Worker(
            task, upscaler, facts, device=stay if stay is not None and stay.type == "cuda" else None
        )
        for span in spans(left):
            worker.work(span, advanced=advanced, finished=finished)
        account.note_reuse(upscaler, upscaler.describe(*self._size))

    def _condemned(self, journal: Journal, damages: Sequence[Damage]) -> list[Segment]:
        """Take damaged segments away, and say so."""
        for damage in damages:
            self._account.note(f"segment {damage.number} is done again: {damage.reason}")
            record = journal.record(damage.number)
            self._account.done -= len(record.times) if record is not None else 0
            journal.discard(damage.number)
        numbers = {damage.number for damage in damages}
        return [segment for segment in self._course.segments if segment.number in numbers]

    def _tell_what_is_kept(self, journal: Journal, error: BaseException) -> None:
        done = self._done(journal) if journal.header is not None else []
        if done:
            error.add_note(
                f"{len(done)} of {len(self._course.segments)} segments are kept in "
                f"{journal.folder}: the same command goes on from there"
            )


def _fixed(options: JobOptions) -> ReuseOptions:
    """With a tolerance bits hang on what is still kept: that must not be decided twice."""
    reuse, device = options.reuse, resolve_engine(options.engine).device
    if not reuse.tolerance or reuse.memory is not None:
        return reuse
    free = available_memory(device) // options.engine.sharers
    return replace(reuse, memory=max(1, default_budget(free) // 2**20))
