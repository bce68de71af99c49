"""What becomes of every stream that is not the upscaled video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import av
from av.codec.context import CodecContext
from av.container import InputContainer, OutputContainer
from av.stream import Discard, Stream

from hatvid.errors import OptionError, OutputError
from hatvid.options import StreamOptions
from hatvid.video.fates import CHAPTERS, LEFT_OUT, TIMECODE, StreamFate, described
from hatvid.video.opening import selected
from hatvid.video.subtitles import TEXT_CODECS, TEXT_TARGETS
from hatvid.video.tags import container_options, copy_metadata, stream_tags
from hatvid.video.trial import added, refusal, refused
from hatvid.video.twins import Twin, codec_of, cover_of, is_cover

__all__ = [
    "LEFT_OUT",
    "StreamFate",
    "StreamPlan",
    "Twin",
    "container_options",
    "copy_metadata",
    "described",
    "open_streams",
    "plan_streams",
    "stream_tags",
]

PICTURE_ONLY = frozenset({"rawvideo", "yuv4mpegpipe"})
"""Muxers of one video and nothing else."""

# Tried in this order for what the asked container cannot hold.
_OTHERS = {"matroska": ".mkv", "mp4": ".mp4", "mov": ".mov", "mpegts": ".ts", "nut": ".nut"}

_STREAMS_ONLY = frozenset({"flv", "mpegts"})
"""Muxers of no chapters and no tags of a stream."""

_ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb", "vvc": "vvc_mp4toannexb"}


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """What is to become of all streams of one input.

    Args:
        muxer: FFmpeg's name.
        fates: of every input stream, in the input's order.
        order: indices of those that the output has, in its order; the upscaled one is
            among them.
        pictures: the covers, by index.
        cut: the output is a part of the input.
    """

    muxer: str
    fates: tuple[StreamFate, ...]
    order: tuple[int, ...]
    pictures: dict[int, bytes] = field(repr=False)
    cut: bool


def plan_streams(
    source: InputContainer,
    video: Stream,
    options: StreamOptions,
    muxer: str,
    *,
    cut: bool,
) -> StreamPlan:
    """Decide for each stream of an input, by trying headers that are kept nowhere.

    Args:
        source: the input; no packet of it is taken.
        video: the stream that is upscaled.
        options: which streams are wanted.
        muxer: FFmpeg's name.
        cut: the output is a part of the input.

    Raises:
        OptionError: a specifier matches nothing, or the video is not among the mapped.
        OutputError: the container cannot hold an audio stream.
    """
    streams = list(source.streams)
    wanted = [stream.index for stream in selected(streams, options.map)]
    if video.index not in wanted:
        raise OptionError(
            f"--map leaves out the video (stream {video.index}); add --map {video.index}"
        )
    pictures: dict[int, bytes] = {}
    fates: dict[int, StreamFate] = {}
    for stream in streams:
        plain = StreamFate(
            index=stream.index, kind=stream.type, codec=codec_of(stream), fate="copied"
        )
        if stream.index == video.index:
            fates[stream.index] = replace(plain, fate="upscaled")
        elif stream.index not in wanted or not _asked(stream, options):
            fates[stream.index] = replace(plain, fate="dropped", reason=LEFT_OUT)
        elif muxer in PICTURE_ONLY:
            reason = f"{muxer} holds nothing but the picture; nut and matroska hold more"
            fates[stream.index] = replace(plain, fate="dropped", reason=reason)
        else:
            if is_cover(stream) and (picture := cover_of(source, stream.index)) is not None:
                pictures[stream.index] = picture
            fates[stream.index] = _fate(stream, plain, video, muxer, pictures, cut=cut)
    plan = StreamPlan(
        muxer=muxer,
        fates=tuple(fates.values()),
        order=tuple(i for i in wanted if _has_stream(fates[i]) or i == video.index),
        pictures={i: p for i, p in pictures.items() if fates[i].fate == "copied"},
        cut=cut,
    )
    kept = [(streams[i], fates[i]) for i in plan.order if i != video.index]
    refused_all = None if muxer in PICTURE_ONLY else refusal(muxer, kept, pictures)
    if refused_all:
        raise OutputError(
            f"{muxer} does not take these streams together ({refused_all}); leave some out with "
            "--map, or write to a .mkv file"
        )
    return plan


def open_streams(
    plan: StreamPlan,
    source: InputContainer,
    output: OutputContainer,
    add_video: Callable[[], object],
) -> dict[int, Twin]:
    """Give the output its streams, in the plan's order, with tags and dispositions.

    Args:
        plan: made for this input and this muxer.
        source: the input, or the same opened again.
        output: nothing is written to it yet.
        add_video: called where the upscaled video has its place among the streams.

    Returns:
        By input index, what takes the packets of each stream that has any.
    """
    fates = {fate.index: fate for fate in plan.fates}
    twins: dict[int, Twin] = {}
    for index in plan.order:
        if fates[index].fate == "upscaled":
            add_video()
            continue
        twin = added(source.streams[index], output, fates[index], plan.pictures, cut=plan.cut)
        if twin is not None:
            twins[index] = twin
    return twins


def _asked(stream: Stream, options: StreamOptions) -> bool:
    return {"audio": options.audio, "subtitle": options.subtitles}.get(stream.type, True)


def _has_stream(fate: StreamFate) -> bool:
    return fate.fate == "copied" or (
        fate.fate == "converted" and fate.target_codec not in (CHAPTERS, TIMECODE)
    )


def _fate(
    stream: Stream,
    plain: StreamFate,
    video: Stream,
    muxer: str,
    pictures: dict[int, bytes],
    *,
    cut: bool,
) -> StreamFate:
    """What becomes of a stream that is wanted and is not upscaled."""
    if from_metadata := _from_metadata(stream, plain, video, muxer, cut=cut):
        return from_metadata
    if is_cover(stream) and stream.index not in pictures:
        return replace(plain, fate="dropped", reason="the cover picture cannot be read")
    if stream.type == "audio" and not _audible(stream):
        reason = "its parameters are unknown, as no packet of it can be read"
        return replace(plain, fate="dropped", reason=reason)
    if stream.type == "subtitle" and not plain.codec:
        reason = "its codec is none that is known here"
        return replace(plain, fate="dropped", reason=reason)
    copied = replace(plain, filter=_filter(stream, plain.codec, muxer))
    if not refused(stream, copied, muxer, pictures):
        return copied
    if plain.codec in TEXT_CODECS and (target := TEXT_TARGETS.get(muxer)):
        reason = f"{muxer} cannot hold {plain.codec}"
        if plain.codec in ("ass", "ssa"):
            reason += f"; positions, effects and fonts, of which {target} knows none, are lost"
        converted = replace(plain, fate="converted", target_codec=target, reason=reason)
        if not refused(stream, converted, muxer, pictures):
            return converted
    others = [name for name in _OTHERS if name != muxer]
    holder = next((o for o in others if not refused(stream, copied, o, pictures)), None)
    what = plain.codec or "this"
    if is_cover(stream):
        what = f"a cover picture in {plain.codec}"
    elif stream.type == "attachment":
        what = "attachments"
    if stream.type == "audio":
        end = f"write to a {_OTHERS[holder]} file instead" if holder else "convert it first"
        raise OutputError(
            f"{muxer} cannot hold {what} audio (stream {stream.index}); {end}, or leave it out "
            "with --no-audio"
        )
    reason = f"{muxer} cannot hold {what}"
    return replace(
        plain, fate="dropped", reason=f"{reason}; {_OTHERS[holder]} can" if holder else reason
    )


def _from_metadata(
    stream: Stream, plain: StreamFate, video: Stream, muxer: str, *, cut: bool
) -> StreamFate | None:
    """The fate of QuickTime's tracks that are metadata in disguise."""
    dropped = replace(plain, fate="dropped")
    if stream.type == "data" and stream.metadata.get("timecode"):
        if cut:
            reason = "the output is a part of the input, whose timecode begins elsewhere"
        elif muxer in _STREAMS_ONLY:
            reason = f"{muxer} cannot hold a timecode; .mkv can"
        elif not video.metadata.get("timecode"):
            reason = "it is the timecode of another stream"
        else:
            reason = "written anew from the video's tag"
            return replace(plain, fate="converted", target_codec=TIMECODE, reason=reason)
        return replace(dropped, reason=reason)
    # Only tracks of chapters are marked so that no demuxer's user reads them.
    if stream.discard == Discard.all and is_cover(stream):
        return replace(dropped, reason="pictures of chapters are not kept")
    if stream.discard == Discard.all and stream.type == "data":
        if muxer in _STREAMS_ONLY:
            return replace(dropped, reason=f"{muxer} cannot hold chapters; .mkv can")
        reason = "written anew from the file's chapters"
        return replace(plain, fate="converted", target_codec=CHAPTERS, reason=reason)
    return None


def _audible(stream: Stream) -> bool:
    context = stream.codec_context
    return not isinstance(context, av.AudioCodecContext) or bool(context.sample_rate)


def _filter(stream: Stream, codec: str, muxer: str) -> str:
    """What the muxer does to packets, or undoes."""
    context: CodecContext | None = stream.codec_context
    if context is None or muxer == "nut":
        return ""
    extradata = context.extradata or b""
    if codec == "aac" and bool(extradata) == (muxer == "mpegts"):
        return "aac_adtstoasc"
    if codec in _ANNEX_B and extradata.startswith(b"\1") == (muxer == "mpegts"):
        return _ANNEX_B[codec]
    if codec == "hdmv_pgs_subtitle" and muxer == "matroska":
        return "pgs_frame_merge"
    return ""
