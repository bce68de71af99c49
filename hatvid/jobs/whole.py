"""The output of a job in segments: joined, compared with the input, and given its name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction

import torch

from hatvid.jobs.account import Account
from hatvid.jobs.course import Course
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.join import Damage, Joinable, examine, join, origin_of
from hatvid.jobs.journal import Journal
from hatvid.jobs.receipt import Receipt
from hatvid.jobs.remarks import Met, remarks
from hatvid.upscaler import Description
from hatvid.video.beside import Beside
from hatvid.video.sink import VideoSink
from hatvid.video.source import SourceInfo, VideoSource
from hatvid.video.streams import StreamPlan

__all__ = ["make_whole"]


def make_whole(
    account: Account,
    source: VideoSource,
    plan: OutputPlan,
    streams: StreamPlan,
    course: Course,
    journal: Journal,
    facts: Description,
    began: float,
) -> Receipt | Sequence[Damage]:
    """Join all segments, and prove the result, before it gets its name.

    Args:
        account: of the run.
        source: opened; none of its frames is taken.
        plan: of the output.
        streams: that are carried over.
        course: the segments.
        journal: that has them.
        facts: of what computed them.
        began: when the run did, by the monotonic clock.

    Returns:
        What was done; or the segments that have to be done again first.

    Raises:
        HatvidError: nothing lies under the output's name, and all segments are kept.
    """
    job = account.job
    assert plan.form is not None
    course.check_input()
    device = torch.device(facts.device)
    with journal.partial(overwrite=job.options.overwrite) as place:
        sink = VideoSink(
            place.file,
            plan.form,
            source,
            cut=job.cut,
            plan=streams,
            device=device if device.type == "cuda" else None,
        )
        try:
            found = examine(journal, course, sink.extradata)
            if not isinstance(found, Joinable):
                sink.abort()
                return found
            for note in sink.notes:
                account.note(note)
            beside = Beside(
                course.path,
                course.scan,
                origin_of(course),
                reading=course.reading,
                streams=course.streams,
                start=job.options.start,
                end=job.options.end,
                copied=sink.copied,
            )
            join(found, sink, beside, course)
            sink.finish()
        except BaseException:
            sink.abort()
            raise
        place.seal()
        told = _Read(course, beside)
        account.met = _met(found, sink)
        for note in (*course.scan.notes, *remarks(told, sink, account.met, cut=job.cut)):
            account.note(note)
        seconds = time.monotonic() - began
        verification = account.verified(place, plan, spoilt=account.spoilt(told, sink))
        # From here on the output is whole; breaking off would tell an untruth.
        account.progress.publishing()
        place.publish()
    return account.receipt(told, sink, plan, facts, seconds, verification)


def _met(found: Joinable, sink: VideoSink) -> Met:
    """What was met with in all segments, in whatever run."""
    met = Met()
    for _, record in found.files:
        met.add(record)
        sink.side_data_lost.update(record.side_data_lost)
    return met


class _Read:
    """What is known of the input when it was read by segments."""

    def __init__(self, course: Course, beside: Beside) -> None:
        self.info: SourceInfo = course.info
        self._course = course
        self._beside = beside

    @property
    def residue(self) -> dict[int, tuple[Fraction, Fraction]]:
        return self._beside.residue

    @property
    def ended_early(self) -> str | None:
        return self._course.scan.ended_early
