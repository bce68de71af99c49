"""A video in segments: those that are done stay done, whatever happens to the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import cached_property

from hatvid.errors import EngineError, OptionError, OutOfMemoryError, OutputError, UsageError
from hatvid.jobs.account import Account
from hatvid.jobs.course import Course, digest_of, plan_course
from hatvid.jobs.crew import Alone, Crew
from hatvid.jobs.disk import check_room, say_if_full
from hatvid.jobs.fingerprint import Described, resolved_of, settings_by, settings_of
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.job import Job
from hatvid.jobs.join import Damage
from hatvid.jobs.journal import Journal
from hatvid.jobs.receipt import Receipt, ShardReceipt
from hatvid.jobs.records import Header, Record
from hatvid.jobs.segment import Segment
from hatvid.jobs.upscalers import Load, own_upscaler, settled
from hatvid.jobs.whole import make_whole
from hatvid.jobs.worker import Task
from hatvid.jobs.workers import Processes, devices_for
from hatvid.reuse import Reused
from hatvid.upscaler import Upscaler
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
        self._asked = self._plan = plan
        self._streams = streams
        self._course = course
        self._wanted = account.job.options.segments
        self._threads = 1

    def carry_out(
        self, upscaler: Upscaler | None, scale: int | None, load: Load = own_upscaler
    ) -> Receipt | ShardReceipt:
        """Do what is left of the job, and join it.

        Args:
            upscaler: that the caller brings; None takes the one that the job describes.
            scale: of the latter.
            load: where that comes from, if it computes in this process.

        Raises:
            HatvidError: what is done is kept, and said in a note of the error.
        """
        job, wanted = self._account.job, self._wanted
        with ExitStack() as stack:
            journal = stack.enter_context(
                Journal(job.output, shard=wanted.shard, restart=wanted.restart)
            )
            check_room(journal.folder, self._course, self._plan)
            self._fix_threads(journal)
            try:
                if wanted.join_only:
                    return self._joined_alone(journal)
                first = journal.header is None
                crews = stack.enter_context(ExitStack())
                crew = self._crew(crews, journal, upscaler, scale, load)
                while True:
                    try:
                        return self._attempt(journal, crew)
                    except OutOfMemoryError as error:
                        # One output has one tiling: what is done with another is of no use.
                        # But what others do is theirs.
                        if wanted.shard is not None or not isinstance(crew, Alone):
                            raise
                        self._account.start_over(self._source, crew.upscaler, error)
                        journal.restart()
                    except UsageError:
                        if not first or journal.header is None:
                            raise
                        # Another shard began meanwhile: what ``auto`` stood for there holds.
                        first = False
                        crews.close()
                        self._fix_threads(journal)
                        crew = self._crew(crews, journal, upscaler, scale, load)
            except BaseException as error:
                self._tell_what_is_kept(journal, error)
                raise

    def _attempt(self, journal: Journal, crew: Crew) -> Receipt | ShardReceipt:
        account = self._account
        header = self._begun(journal, crew.describe())
        done = self._done(journal)
        frames = sum(len(record.times) for record in done)
        if done:
            account.note(
                f"going on: {len(done)} of {len(self._course.segments)} segments "
                f"({frames} frames) were done before"
            )
        account.done = frames
        account.met.reused = sum((record.reused for record in done), Reused())
        began = self._start(header)
        self._compute(journal, header, crew, self._left(journal))
        if self._wanted.shard is not None:
            return ShardReceipt(
                input=self._course.path,
                output=account.job.output,
                frames=account.done - frames,
                done=len(self._done(journal)),
                segments=len(self._course.segments),
                seconds=time.monotonic() - began,
                notes=tuple(account.notes),
            )
        for last in (False,) * _REPAIRS + (True,):
            receipt = self._made_whole(journal, header, began)
            if isinstance(receipt, Receipt):
                return receipt
            if last:
                raise _beyond_repair(receipt[0])
            self._compute(journal, header, crew, self._condemned(journal, receipt))
        raise AssertionError("the last time ends it")

    def _joined_alone(self, journal: Journal) -> Receipt:
        """Join what others computed: that needs neither their network nor their devices."""
        account, segments = self._account, self._course.segments
        header = journal.header
        if header is None:
            raise OutputError("its segments are not done yet; run hatvid upscale --shard 1/N first")
        journal.begin(
            header.model_copy(
                update={"settings": header.settings | self._settings(), "segments": self._owned()}
            )
        )
        left = self._left(journal)
        if left:
            numbers = ", ".join(str(segment.number) for segment in left[:8])
            raise OutputError(
                f"{len(left)} of {len(segments)} segments are not done yet "
                f"({numbers}{' and more' * (len(left) > 8)}); run the shards that have them"
            )
        account.done = sum(segment.frames for segment in segments) * self._course.fields
        receipt = self._made_whole(journal, header, self._start(header))
        if not isinstance(receipt, Receipt):
            raise _beyond_repair(receipt[0])
        return receipt

    # What is to be done, and by whom.

    def _crew(
        self,
        stack: ExitStack,
        journal: Journal,
        upscaler: Upscaler | None,
        scale: int | None,
        load: Load,
    ) -> Crew:
        account, wanted = self._account, self._wanted
        course = self._course
        size, frames = (course.info.height, course.info.width), course.frames
        if upscaler is not None:
            if wanted.shared:
                raise OptionError("an upscaler cannot be shared by several workers; name a model")
            account.note_scale(upscaler.name, upscaler.network_scale, upscaler.scale)
            return Alone(account, upscaler, size=size, frames=frames)
        job = account.job
        if journal.header is not None:
            job = replace(job, options=settled(job.options, journal.header.resolved))
        if wanted.cluster is not None:
            return stack.enter_context(self._on_cluster(job, scale, wanted.cluster))
        if wanted.workers is not None:
            devices = devices_for(wanted.workers)
            return Processes(account, job, scale, devices, size=size, frames=frames)
        own = stack.enter_context(load(job, scale))
        return Alone(account, own, size=size, frames=frames)

    def _on_cluster(
        self, job: Job, scale: int | None, address: str
    ) -> AbstractContextManager[Crew]:
        try:
            from hatvid.jobs.cluster import OnCluster  # Ray, an extra
        except ImportError as error:
            raise EngineError(
                f"Ray cannot be loaded ({error}); install hatvid[cluster] here and on each node"
            ) from error
        workers, course = self._wanted.workers, self._course
        assert not isinstance(workers, tuple)  # see SegmentOptions
        return OnCluster(
            self._account,
            job,
            scale,
            address=address,
            count=workers,
            most=len(course.segments),
            size=(course.info.height, course.info.width),
            frames=course.frames,
        )

    def _fix_threads(self, journal: Journal) -> None:
        """Fix the threads of the encoder, as packets hang on them."""
        form = self._asked.form
        assert form is not None
        if journal.header is not None:
            self._threads = journal.header.resolved.encoder_threads
        else:
            self._threads = max(1, min(_MOST_THREADS, os.cpu_count() or 1))
        encoder = with_threads(form.encoder, self._threads)
        self._plan = replace(self._asked, form=replace(form, encoder=encoder))

    def _settings(self) -> dict[str, str]:
        return settings_of(self._account.job, self._course, self._plan, source=self._digest)

    @cached_property
    def _digest(self) -> str:
        """Of the input, read once: large files take minutes, and a job may start over."""
        return digest_of(self._course.path)

    def _owned(self) -> list[tuple[int, int]]:
        return [(segment.first, segment.frames) for segment in self._course.segments]

    def _begun(self, journal: Journal, described: Described) -> Header:
        """The header, once it lies in the journal."""
        job, facts = self._account.job, described.facts
        self._account.note_scale(described.name, described.network_scale, facts.scale)
        by = settings_by(described, compiled=job.options.engine.compiled, mixed=self._wanted.mixed)
        header = Header(
            input=os.fsencode(self._course.path.absolute()).decode("utf-8", "backslashreplace"),
            output=os.fsencode(job.output.name).decode("utf-8", "backslashreplace"),
            settings=self._settings() | by,
            resolved=resolved_of(described, self._threads),
            facts=facts if facts.snr is not None else replace(facts, fidelity=None),
            segments=self._owned(),
        )
        journal.begin(header)
        return header

    def _start(self, header: Header) -> float:
        """Tell what is known now; when that was."""
        account = self._account
        account.note_checks(header.facts)
        started = account.started(self._source, self._plan, header.facts, done=account.done)
        account.progress.started(started)
        return time.monotonic()

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
        self, journal: Journal, header: Header, crew: Crew, left: Sequence[Segment]
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

        crew.compute(task, header, left, advanced=advanced, finished=finished)

    def _condemned(self, journal: Journal, damages: Sequence[Damage]) -> list[Segment]:
        """Take damaged segments away, and say so."""
        for damage in damages:
            self._account.note(f"segment {damage.number} is done again: {damage.reason}")
            record = journal.record(damage.number)
            self._account.done -= len(record.times) if record is not None else 0
            journal.discard(damage.number)
        numbers = {damage.number for damage in damages}
        return [segment for segment in self._course.segments if segment.number in numbers]

    def _made_whole(
        self, journal: Journal, header: Header, began: float
    ) -> Receipt | Sequence[Damage]:
        made = make_whole(
            self._account,
            self._source,
            self._plan,
            self._streams,
            self._course,
            journal,
            header.facts,
            began,
        )
        if isinstance(made, Receipt):
            journal.remove()
        return made

    def _tell_what_is_kept(self, journal: Journal, error: BaseException) -> None:
        done = self._done(journal) if journal.header is not None else []
        if done:
            error.add_note(
                f"{len(done)} of {len(self._course.segments)} segments are kept in "
                f"{journal.folder}: the same command goes on from there"
            )


def _beyond_repair(damage: Damage) -> OutputError:
    return OutputError(
        f"segment {damage.number} cannot be joined: {damage.reason}; run the job again, and look "
        "whether the disk is sound"
    )
