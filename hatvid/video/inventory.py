"""What a file holds, read packet by packet and without decoding any picture.

Written for proofs: nothing here is shared with what reads and writes videos in a job.
"""

from __future__ import annotations

import hashlib
import io
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av.bitstream import BitStreamFilterContext
from av.codec.context import CodecContext
from av.stream import AttachmentStream, DataStream, Discard, Disposition, Stream

from hatvid.errors import InputError
from hatvid.options import InputOptions
from hatvid.selectors import StreamSpecifier
from hatvid.video.opening import choose_video, open_input, selected
from hatvid.video.timeline import Timeline

__all__ = [
    "Chapter",
    "Event",
    "Inventory",
    "NO_PTS",
    "StreamContents",
    "TEXT_SUBTITLES",
    "filtered",
    "holds",
    "open_file",
    "read_packets",
    "take_stock",
]

NO_PTS = -(1 << 63)
"""Stands in an array for a packet without pts."""

_REORDERED_FREELY = frozenset({"h264", "hevc", "vvc"})

TEXT_SUBTITLES = frozenset({"ass", "ssa", "subrip", "srt", "mov_text", "webvtt", "text"})

Kind = Literal["video", "cover", "audio", "subtitle", "data", "attachment", "chapters", "timecode"]


@dataclass(frozen=True)
class Event:
    """One text subtitle: begin and length in ticks, and its bare text."""

    pts: int
    duration: int
    text: str


@dataclass(frozen=True)
class Chapter:
    """Begin and end in seconds, and the precision of both."""

    start: Fraction
    end: Fraction
    tick: Fraction
    title: str


@dataclass(kw_only=True)
class StreamContents:
    """One stream, with a digest of each packet that a job would copy.

    Args:
        index: in its file.
        codec: FFmpeg's name, empty if unknown.
        extradata: what the decoder needs before the first packet.
        pts: of each packet in the order of the file, :data:`NO_PTS` where it has none.
        digests: 32 bytes of SHA-256 for each packet; empty for the upscaled video. An
            attachment counts as one packet.
        events: of text subtitles, those that show something.
    """

    index: int
    kind: Kind
    codec: str
    time_base: Fraction
    metadata: dict[str, str]
    disposition: frozenset[str]
    extradata: bytes = b""
    pts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)
    events: list[Event] = field(default_factory=list)

    @property
    def packets(self) -> int:
        return len(self.digests) // 32

    def digest(self, number: int) -> bytes:
        return bytes(self.digests[32 * number : 32 * number + 32])


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All that a file holds.

    Args:
        container: FFmpeg's name of the demuxer.
        muxer: FFmpeg's name of the muxer that writes such files.
        video: index of the stream that is upscaled (in an output: was).
        wanted: indices of the streams that were asked for.
        ended_early: why reading stopped before the end, if it did.
    """

    path: Path
    container: str
    muxer: str
    streams: tuple[StreamContents, ...]
    video: int
    wanted: frozenset[int]
    metadata: dict[str, str]
    chapters: tuple[Chapter, ...]
    ended_early: str | None

    def stream(self, index: int) -> StreamContents:
        return next(stream for stream in self.streams if stream.index == index)


def open_file(path: Path, reading: InputOptions | None = None) -> av.container.InputContainer:
    """Open a file for reading; no other file and no network is touched.

    Raises:
        InputError: it cannot be read.
    """
    container = open_input(path, reading)
    if any(_codec(stream) in _REORDERED_FREELY for stream in container.streams.video):
        # FFmpeg would make up times in the order of decoding.
        container.flags &= ~av.container.Flags.gen_pts.value  # type: ignore[operator]
    return container


def take_stock(
    path: Path,
    *,
    reading: InputOptions | None = None,
    wanted: Sequence[StreamSpecifier] | None = None,
    name: str = "",
) -> Inventory:
    """Read every packet of a file.

    Args:
        path: of the file.
        reading: how it is read.
        wanted: which streams a job was asked for, as with ``--map``; the first video
            stream among them is the one that matters. None takes the file as an output,
            whose first video stream it is.
        name: that the file will have, where ``path`` is not it: only it tells WebM
            from Matroska.

    Raises:
        InputError: the file cannot be read, or holds no video.
        OptionError: ``wanted`` names no stream, or no video.
    """
    with open_file(path, reading) as container:
        chosen = list(container.streams)
        if wanted is None:
            index = _first_video(container, path)
        else:
            index = choose_video(container, path, wanted).index
            chosen = selected(chosen, wanted)
        contents = {stream.index: _described(stream) for stream in container.streams}
        ended_early = None
        try:
            video = container.streams.video
            clock = None if wanted is None else next(s for s in video if s.index == index)
            for packet in read_packets(container, clock=clock):
                _count(contents[packet.stream_index], packet, counted_only=index)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            ended_early = getattr(error, "strerror", None) or str(error)
        if container.format.name.startswith("mov"):
            promised = len(container.streams[index].index_entries)
            found = len(contents[index].pts)
            if found < promised and ended_early is None:
                ended_early = f"{promised - found} of {promised} pictures are missing"
        return Inventory(
            path=path,
            container=container.format.name,
            muxer=_muxer(container, Path(name or path.name)),
            streams=tuple(contents.values()),
            video=index,
            wanted=frozenset(stream.index for stream in chosen),
            metadata=dict(container.metadata),
            chapters=tuple(_chapter(chapter) for chapter in container.chapters()),
            ended_early=ended_early,
        )


def read_packets(
    container: av.container.InputContainer, *streams: Stream, clock: av.VideoStream | None = None
) -> Iterator[av.Packet[Stream]]:
    """The packets that hold data, in the order of the file.

    Args:
        streams: only theirs; none takes all.
        clock: the video of an input whose clock may jump back, as where two recordings
            were joined: times then go on as :mod:`hatvid.video.timeline` says.
    """
    line = None if clock is None else Timeline(container, clock, [])
    for packet in container.demux(*streams):
        if packet.size:
            yield from [packet] if line is None else line.feed(packet)
    if line is not None:
        yield from line.finish()


def _first_video(container: av.container.InputContainer, path: Path) -> int:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if not _codec(stream):
                raise InputError(f"{path}: no decoder for its video here; is the file whole?")
            return stream.index
    raise InputError(f"{path} holds no video; name a file with a video stream")


def _codec(stream: Stream) -> str:
    if isinstance(stream, DataStream):
        return stream.name or ""
    context: CodecContext | None = stream.codec_context  # None where there is no decoder
    return context.codec.canonical_name if context is not None else ""


def _described(stream: Stream) -> StreamContents:
    context = stream.codec_context
    tick = stream.time_base
    contents = StreamContents(
        index=stream.index,
        kind=_kind(stream),
        codec=_codec(stream),
        time_base=Fraction(tick.numerator, tick.denominator) if tick else Fraction(1),
        metadata=dict(stream.metadata),
        disposition=frozenset(
            flag.name.lower() for flag in Disposition if flag.name and stream.disposition & flag
        ),
        extradata=(context.extradata or b"") if context is not None else b"",
    )
    if isinstance(stream, AttachmentStream):
        contents.digests += hashlib.sha256(stream.data or b"").digest()
        contents.metadata["filename"] = stream.name or ""
        contents.metadata["mimetype"] = stream.mimetype or ""
    return contents


def _kind(stream: Stream) -> Kind:
    if isinstance(stream, AttachmentStream):
        return "attachment"
    if stream.discard == Discard.all:  # only tracks of chapters are marked so
        return "chapters"
    if stream.disposition & Disposition.attached_pic:
        return "cover"
    if stream.type in ("video", "audio", "subtitle"):
        return stream.type
    # QuickTime keeps chapter titles and the timecode in tracks, beside what is made of them.
    if "timecode" in stream.metadata:
        return "timecode"
    return "data"


def _count(contents: StreamContents, packet: av.Packet[Stream], *, counted_only: int) -> None:
    if packet.is_discard and contents.index == counted_only:
        return
    contents.pts.append(NO_PTS if packet.pts is None else packet.pts)
    contents.durations.append(packet.duration or 0)
    if contents.index == counted_only:
        return
    contents.digests += hashlib.sha256(packet).digest()
    if contents.kind == "subtitle" and contents.codec in TEXT_SUBTITLES:
        text = _text_of(packet)
        if text:
            contents.events.append(Event(packet.pts or 0, packet.duration or 0, text))


def _text_of(packet: av.Packet[Stream]) -> str:
    """What a subtitle says, without its style."""
    try:
        parts = packet.stream.codec_context.decode(packet)  # type: ignore[attr-defined]
    except (av.error.FFmpegError, ValueError):
        return ""
    lines = []
    for part in parts:
        # FFmpeg decodes all of them to ASS: ReadOrder, Layer, Style, ..., Text.
        fields = part.ass.decode("utf-8", "replace").split(",", 8)
        text = re.sub(r"\{[^}]*\}", "", fields[-1])
        lines.append(re.sub(r"\\[Nnh]|\s+", " ", text).strip())
    return "\n".join(filter(None, lines))


def _chapter(chapter: av.container.core.Chapter) -> Chapter:
    tick = Fraction(chapter["time_base"].numerator, chapter["time_base"].denominator)
    title = chapter["metadata"].get("title", "")
    return Chapter(chapter["start"] * tick, chapter["end"] * tick, tick, title)


def _muxer(container: av.container.InputContainer, name: Path) -> str:
    demuxer = container.format.name
    if demuxer.startswith("mov"):
        return "mov" if container.metadata.get("major_brand", "").startswith("qt") else "mp4"
    if demuxer.startswith("matroska"):
        return "webm" if name.suffix.lower() == ".webm" else "matroska"
    return demuxer.partition(",")[0]


# What these muxers really hold; they take anything, and FLV ends the whole process.
_HELD = {
    "flv": {"aac", "mp3"},
    "mpegts": {
        *("aac", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "opus"),
        *("dvb_subtitle", "dvb_teletext"),
    },
}
_TEXT_HELD = ("matroska", "webm", "mp4", "mov")
_COVERS_HELD = ("matroska", "mp4", "mov")


def holds(muxer: str, path: Path, stream: StreamContents, reading: InputOptions | None) -> bool:
    """Whether a container can hold a stream of a file, converted if it is text.

    Tried by writing a header.
    """
    if stream.kind == "attachment":
        return muxer == "matroska"
    if stream.kind in ("chapters", "timecode"):
        return False  # made anew from the chapters and the tags
    if stream.codec in TEXT_SUBTITLES:
        return muxer in _TEXT_HELD
    if stream.kind == "cover" and muxer not in _COVERS_HELD:
        return False
    if muxer in _HELD:
        return stream.codec in _HELD[muxer]
    try:
        with open_file(path, reading) as container, av.open(io.BytesIO(), "w", muxer) as trial:
            trial.add_stream_from_template(container.streams[stream.index])
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def filtered(path: Path, index: int, name: str, reading: InputOptions | None = None) -> bytearray:
    """SHA-256 of each packet of a stream behind a bitstream filter, 32 bytes each.

    Empty if the filter does not take the stream.
    """
    digests = bytearray()
    try:
        with open_file(path, reading) as container:
            stream = container.streams[index]
            bitstream = BitStreamFilterContext(name, stream)
            for packet in container.demux(stream):
                for result in bitstream.filter(packet if packet.size else None):
                    digests += hashlib.sha256(result).digest()
    except (av.error.FFmpegError, ValueError):
        return bytearray()
    return digests
