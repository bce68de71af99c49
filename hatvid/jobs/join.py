"""Segments put together: their packets, with decoding times made anew, and beside them the
streams that are copied. Nothing is encoded."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hatvid.errors import OutputError
from hatvid.jobs.course import Course
from hatvid.jobs.journal import Journal
from hatvid.jobs.records import Record
from hatvid.model.catalog import file_sha256
from hatvid.video.beside import Beside, seconds_of
from hatvid.video.pictures import AnyPacket
from hatvid.video.segment_file import PACKET_ERRORS, read_packets
from hatvid.video.sink import VideoSink

__all__ = ["Damage", "Joinable", "examine", "join", "origin_of"]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A segment that has to be done again."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Joinable:
    """Segments that were found whole.

    Args:
        files: each one's path and record, in order.
        delay: by how many frames decoding is ahead of presentation.
    """

    files: tuple[tuple[Path, Record], ...]
    delay: int


def examine(journal: Journal, course: Course, extradata: bytes) -> Joinable | list[Damage]:
    """Look whether all segments are what their records say, and fit each other.

    Args:
        extradata: parameter sets that the output has beside its packets.

    Returns:
        What can be joined; or what has to be done again.
    """
    wanted = hashlib.sha256(extradata).hexdigest()
    files, damages, delay = [], [], 0
    for segment in course.segments:
        record = journal.record(segment.number)
        path = journal.segment(segment.number)
        if record is None:
            damages.append(Damage(number=segment.number, reason="it is missing"))
            continue
        if not all(segment.owns(pts + course.shift) for pts, _ in record.times):
            damages.append(Damage(number=segment.number, reason="it holds frames of others"))
            continue
        if record.extradata != wanted:
            reason = "its encoder's parameters (extradata) differ from the others'"
            damages.append(Damage(number=segment.number, reason=reason))
            continue
        late = _delay(path, record, course.info.time_base)
        if isinstance(late, str):
            damages.append(Damage(number=segment.number, reason=late))
            continue
        delay = max(delay, late)
        files.append((path, record))
    return damages or Joinable(files=tuple(files), delay=delay)


def join(segments: Joinable, sink: VideoSink, beside: Beside, course: Course) -> None:
    """Write all packets to the output, in the order of their times.

    Args:
        sink: with its header written; is not finished here.
        beside: packets of the streams that are copied.

    Raises:
        OutputError: the output cannot be written, or a segment changed meanwhile.
    """
    tick = course.info.time_base
    offset = course.shift * tick
    sink.begin(offset)
    video = _timed(segments, tick)
    others = iter(beside)
    due = next(others, None)
    for packet in video:
        assert packet.dts is not None
        now = packet.dts * tick + offset
        while due is not None and ((at := seconds_of(due)) is None or at <= now):
            sink.write(due)
            due = next(others, None)
        sink.copy_video(packet)
    while due is not None:
        sink.write(due)
        due = next(others, None)


def _delay(path: Path, record: Record, tick: Fraction) -> int | str:
    """By how many frames a segment's packets come before they are shown; or what is wrong."""
    try:
        if file_sha256(path) != record.sha256:
            return "its file was changed"
        if not record.times:
            return 0
        stamps = [packet.pts or 0 for packet in read_packets(path, record.lead, tick)]
    except PACKET_ERRORS as error:
        return f"its file cannot be read ({error})"
    shown = [pts for pts, _ in record.times]
    if sorted(stamps) != shown:
        return f"it holds {len(stamps)} packets for {len(shown)} frames, or at other times"
    return max(place - bisect_left(shown, pts) for place, pts in enumerate(stamps))


def _timed(segments: Joinable, tick: Fraction) -> Iterator[AnyPacket]:
    """All packets in order of decoding, with times that rise over the whole."""
    shown = [pts for _, record in segments.files for pts, _ in record.times]
    delay = segments.delay
    number = 0
    for path, record in segments.files:
        durations = dict(record.times)
        try:
            for packet in read_packets(path, record.lead, tick) if record.times else ():
                assert packet.pts is not None
                # As encoders do: each is decoded when the one `delay` before it is shown, and
                # the first ones as much before the first is.
                ahead = shown[delay] - shown[0] if number < delay else 0
                packet.dts = shown[number] - ahead if number < delay else shown[number - delay]
                packet.duration = durations[packet.pts]
                number += 1
                yield packet
        except PACKET_ERRORS as error:
            raise OutputError(
                f"{path} changed meanwhile ({error}); run the command again"
            ) from error
    if number != len(shown):
        raise OutputError(f"{number} packets came for {len(shown)} frames; run the command again")


def origin_of(course: Course) -> int:
    """pts of the first frame of the file, in the scan's own time base."""
    return course.info.start // course.fields
