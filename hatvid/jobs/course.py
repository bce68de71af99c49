"""Whether a job runs in segments, and in which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hatvid.errors import DecodeError, InputError, OptionError
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.job import Job
from hatvid.jobs.segment import Segment, plan_segments, start_key
from hatvid.model.catalog import file_sha256
from hatvid.options import InputOptions, SegmentOptions, StreamOptions
from hatvid.selectors import is_script
from hatvid.video.encoder_segments import rate_over_all
from hatvid.video.kind import Kind
from hatvid.video.opening import is_pipe
from hatvid.video.picture_names import is_pattern
from hatvid.video.scan import Scan, scan
from hatvid.video.segment_file import unfit
from hatvid.video.source import SourceInfo, VideoSource
from hatvid.video.window import Window

__all__ = ["Course", "digest_of", "plan_course", "why_straight"]


@dataclass(frozen=True, kw_only=True)
class Course:
    """One video and its segments. All pts are in units of ``info.time_base``.

    Args:
        path: of the input.
        info: of the input.
        kind: of its frames.
        scan: of its packets, in its own time base.
        segments: of what lies between the job's start and end.
        shift: what is taken from every pts, so that the output begins where it should.
        reading: how the input is read.
        streams: which of its streams are taken.
        stamp: size and time of change of the input, when it was scanned.
    """

    path: Path
    info: SourceInfo
    kind: Kind
    scan: Scan
    segments: tuple[Segment, ...]
    shift: int
    reading: InputOptions
    streams: StreamOptions
    stamp: tuple[int, int]

    @property
    def frames(self) -> int:
        """Of the output, as packets promise them."""
        return self.fields * sum(segment.frames for segment in self.segments)

    @property
    def fields(self) -> int:
        """Frames of the output for each of the input."""
        return _fields(self.reading)

    def check_input(self) -> None:
        """See that the input is still the file that was scanned.

        Raises:
            InputError: it was changed, or cannot be reached.
        """
        if stamp_of(self.path) != self.stamp:
            raise InputError(
                f"{self.path} was changed while it was read; let it be written to its end, and "
                "run the command again"
            )

    def window(self, span: Sequence[Segment], *, begin: bool) -> Window:
        """What to decode for segments that follow one another.

        Args:
            begin: from the beginning of the file, whatever its packets say.
        """
        first, end = span[0].first, span[-1].end
        stamps = [pts * self.fields for pts in self.scan.pts]
        keys = [pts * self.fields for pts in self.scan.key_frames]
        key = None if begin or not self.scan.steady else start_key(stamps, keys, first)
        inside = (pts for pts in stamps if first <= pts and (end is None or pts < end))
        return Window(
            first=first,
            end=end,
            key=key,
            breaks=tuple(segment.first for segment in span[1:]),
            promised=tuple(inside) if key is not None else (),
        )


def why_straight(job: Job, plan: OutputPlan) -> str | None:
    """Why a job cannot run in segments, None if it can, as far as the input is not read."""
    options = job.options
    if plan.form is None or job.to_stdout:
        return "the output is no file of a video"
    if is_pipe(options.input):
        return "a pipe can be read only once"
    if is_script(options.input):
        return "a script is not run twice"
    if is_pattern(options.input) and not options.input.exists():
        return "the input is pictures"
    if not options.segments.per_segment and (reason := rate_over_all(plan.form.encoder)):
        return reason
    return unfit(plan.form)


def plan_course(job: Job, source: VideoSource, plan: OutputPlan) -> Course | str | None:
    """Cut a job into segments.

    Returns:
        None where the job is no longer than one segment, or none are wanted; or why there
        can be none, in words.

    Raises:
        OptionError: segments were asked for, and there can be none.
        InputError: the input can no longer be read; DecodeError: or ends early, and is to
            be read strictly.
    """
    options, info = job.options, source.info
    asked = options.segments
    if asked.length == 0:
        return None
    length = asked.length or SegmentOptions.DEFAULT_LENGTH
    duration = None if info.duration is None else info.duration * info.time_base
    if duration is None and info.frames is not None and info.average_rate:
        duration = info.frames / info.average_rate
    if not asked.asked and duration is not None and duration <= length:
        return None
    if reason := why_straight(job, plan):
        if asked.asked:
            raise OptionError(f"no segments can be made: {reason}; {_advice(job, plan)}")
        return reason
    stamp = stamp_of(options.input)
    found = scan(options.input, reading=options.reading, streams=options.streams)
    if options.reading.strict and found.ended_early:
        raise DecodeError(
            f"{options.input}: {found.ended_early}; leave out --strict to keep what came before"
        )
    fields = _fields(options.reading)
    stamps, end = _shown(job, source, found)
    if not stamps:
        return "its packets have no times"
    segments = plan_segments(
        [pts * fields for pts in stamps],
        [pts * fields for pts in found.key_frames],
        max(1, round(Fraction(length) / info.time_base)),
        end=None if end is None else end * fields,
    )
    if len(segments) == 1 and not asked.asked:
        return None
    first = stamps[0] * fields
    return Course(
        path=options.input,
        info=info,
        kind=source.kind,
        scan=found,
        segments=segments,
        shift=first if job.cut or first < 0 else 0,
        reading=options.reading,
        streams=options.streams,
        stamp=stamp,
    )


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change of a file, by which it is known again.

    Raises:
        InputError: it is no longer there.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(
            f"{path} can no longer be read ({error.strerror}); is the disk or the network still "
            "there?"
        ) from error
    return found.st_size, found.st_mtime_ns


def digest_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise InputError(
            f"{path}: reading failed ({error.strerror}); is the disk or the network still there?"
        ) from error


def _fields(reading: InputOptions) -> int:
    return 2 if reading.deinterlace == "field" else 1


def _shown(job: Job, source: VideoSource, found: Scan) -> tuple[list[int], int | None]:
    """pts of the frames between the job's start and end, and of the first after them."""
    options = job.options
    origin = source.info.start // _fields(options.reading)
    stamps = [pts for pts in found.pts if pts >= origin]
    end = None
    if options.end is not None:
        for number, pts in enumerate(stamps):
            if options.end.reached((pts - origin) * found.time_base, number):
                end = pts
                break
    return [p for p in stamps if p >= source.first and (end is None or p < end)], end


def _advice(job: Job, plan: OutputPlan) -> str:
    if plan.form is not None and rate_over_all(plan.form.encoder):
        return "choose --crf or --lossless, or accept a rate for each segment with --per-segment"
    return "leave --segment, --workers and the like out"
