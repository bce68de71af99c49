"""Tags and chapters: of the file, and of each stream."""

from __future__ import annotations

import contextlib
import io
import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.container import InputContainer, OutputContainer
from av.stream import Stream

from hatvid.video.pictures import fraction

if TYPE_CHECKING:
    from av.container.core import Chapter  # known to type checkers only

__all__ = ["MOV_FAMILY", "container_options", "copy_metadata", "file_tags", "stream_tags"]

MOV_FAMILY = frozenset({"mov", "mp4"})
"""Muxers of QuickTime's structure."""

# Written by the muxer about the old file; they would be untrue of the new one.
_OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
# Matroska's statistics, with or without a language behind (mkvmerge writes BPS-eng).
_STATISTICS = re.compile(
    r"(_STATISTICS_\w+|BPS|DURATION|NUMBER_OF_FRAMES|NUMBER_OF_BYTES)(-\w+)?", re.IGNORECASE
)
_NO_CHAPTERS = {"flv": ".mkv", "mpegts": ".mkv"}


def file_tags(source: InputContainer) -> dict[str, str]:
    """The file's own tags, without those that only describe its old container."""
    tags = {key: text for key, text in source.metadata.items() if key.lower() not in _OF_THE_FILE}
    for key, text in tags.items():
        # MP4 holds this one twice where any key may be one; FFmpeg 8 and later read both.
        first, _, second = text.partition(";")
        if key.lower() == "creation_time" and first == second:
            tags[key] = first
    return tags


def stream_tags(stream: Stream, muxer: str, *, changed: bool, cut: bool = False) -> dict[str, str]:
    """The tags that a stream's twin gets.

    Args:
        stream: of the input.
        muxer: of the output.
        changed: the twin has other packets: statistics and the encoder's name are no
            longer true.
        cut: the output is a part of the input: statistics and the timecode of the first
            frame are not true either.
    """
    kept = {}
    for key, text in stream.metadata.items():
        name = key.lower()
        if (changed or cut) and _STATISTICS.fullmatch(key):
            continue
        if name == "duration" or (changed and name == "encoder") or (cut and name == "timecode"):
            continue
        if name in ("handler_name", "vendor_id") and muxer not in MOV_FAMILY:
            continue  # QuickTime's inner names, of no meaning elsewhere
        # FFmpeg writes a stream's title into QuickTime as a name, and reads it as such.
        kept["title" if name == "name" and "title" not in stream.metadata else key] = text
    return kept


def container_options(source: InputContainer, muxer: str, *, cover: bool) -> dict[str, str]:
    """What :func:`av.open` must be told so that the file's tags and all times are kept.

    MP4 has a fixed list of tags, or any but then no cover picture; QuickTime likewise.
    Matroska's muxer would move a file in which one packet begins before zero, as sound
    that an encoder primed does, and leave its chapters behind.

    Args:
        source: whose tags are to be kept.
        muxer: FFmpeg's name.
        cover: a cover picture will be written.
    """
    if muxer in MOV_FAMILY and not cover and _not_held(file_tags(source), muxer):
        return {"movflags": "use_metadata_tags"}
    # It counts a block from its cluster's time, which is not negative, in 16 bits of ms.
    near = (source.start_time or 0) > -30 * av.time_base
    if muxer in ("matroska", "webm") and near:
        return {"avoid_negative_ts": "disabled"}
    return {}


def copy_metadata(
    source: InputContainer,
    output: OutputContainer,
    *,
    cut: bool,
    start: Fraction | None = None,
    end: Fraction | None = None,
) -> list[str]:
    """Carry the file's tags and chapters over.

    Args:
        source: the input.
        output: nothing is written to it yet.
        cut: the output is a part of the input.
        start: of that part, in seconds on the input's time line (that of its packets);
            None is its beginning.
        end: of that part; None is the input's end.

    Returns:
        What was not carried, one line each.
    """
    muxer = output.format.name
    notes = []
    tags = file_tags(source)
    if cut:
        tags = {key: text for key, text in tags.items() if key.lower() != "timecode"}
    if "use_metadata_tags" not in output.container_options.get("movflags", ""):
        lost = _not_held(tags, muxer)
        if lost:
            notes.append(f"{muxer} holds no tag {', '.join(lost)}: dropped; .mkv holds any")
    output.metadata.update(tags)
    chapters = source.chapters()
    if chapters and muxer in _NO_CHAPTERS:
        notes.append(f"{muxer} holds no chapters: dropped; {_NO_CHAPTERS[muxer]} holds them")
    elif chapters and cut and start is None and end is None:
        notes.append("chapters are dropped: the output is a part of the input")
    elif chapters:
        if cut:
            chapters = _clipped(chapters, start or Fraction(0), end)
        output.set_chapters(chapters)
    return notes


def _clipped(chapters: list[Chapter], start: Fraction, end: Fraction | None) -> list[Chapter]:
    """The chapters, or their parts, from ``start`` to ``end``, counted from ``start``."""
    kept = []
    for chapter in chapters:
        tick = fraction(chapter["time_base"])
        first = max(chapter["start"], math.floor(start / tick))
        last = chapter["end"] if end is None else min(chapter["end"], math.ceil(end / tick))
        if first < last:
            shift = math.floor(start / tick)
            part = chapter.copy()
            part["start"], part["end"] = first - shift, last - shift
            kept.append(part)
    return kept


def _not_held(tags: dict[str, str], muxer: str) -> list[str]:
    """Keys that do not come back from a file of this muxer."""
    if muxer == "mpegts":
        kept = {"service_name", "service_provider"}
    elif muxer in MOV_FAMILY:
        kept = _returned(tags, muxer)
    else:
        return []
    # The timecode is written as a track of its own.
    return sorted(key for key in tags if key.lower() not in kept | {"timecode"})


def _returned(tags: dict[str, str], muxer: str) -> set[str]:
    """Which of the tags a file with nothing but tags gives back."""
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as output:
        video = output.add_mux_stream("mpeg4", width=16, height=16)
        output.metadata.update(tags)
        packet = av.Packet(bytes(16))
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = video, 0, 0, True
        output.mux(packet)
    file.seek(0)
    with contextlib.suppress(av.error.FFmpegError), av.open(file, format="mp4") as written:
        return {key.lower() for key in written.metadata}
    return set()
