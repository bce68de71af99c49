"""What becomes of every stream that is not the upscaled video."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import av
from av.stream import AttachmentStream, Disposition, Stream

from hatvid.errors import OutputError

__all__ = ["StreamFate", "copy_metadata", "copy_streams", "described"]

# Written by the muxer about the old file; they would be untrue of the new one.
_CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
_ANY_AUDIO = ".mkv"

# What these muxers really hold. They take anything: MPEG-TS then writes it as nameless
# data, and FLV ends the whole process.
_HELD = {
    "flv": {"aac", "mp3"},
    "mpegts": {
        *("aac", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "opus"),
        *("dvb_subtitle", "dvb_teletext"),
    },
}


@dataclass(frozen=True, kw_only=True)
class StreamFate:
    """What became of one input stream.

    Args:
        index: in the input.
        kind: ``video``, ``audio``, ``subtitle``, ``data`` or ``attachment``.
        codec: FFmpeg's name, empty if unknown.
        fate: upscaled, copied packet by packet, or dropped.
        reason: why it was dropped.
    """

    index: int
    kind: str
    codec: str
    fate: Literal["upscaled", "copied", "dropped"]
    reason: str = ""


def copy_streams(
    source: av.container.InputContainer,
    video: av.VideoStream,
    output: av.container.OutputContainer,
) -> tuple[dict[int, Stream], list[StreamFate]]:
    """Give the output a twin of each stream that its container can hold.

    Returns:
        The output stream for each copied input stream's index, and the fate of every
        input stream.

    Raises:
        OutputError: the container cannot hold an audio stream.
    """
    twins: dict[int, Stream] = {}
    fates: list[StreamFate] = []
    for stream in source.streams:
        codec = stream.codec_context.name if stream.codec_context is not None else ""
        reason = ""
        if stream is video:
            fate = StreamFate(index=stream.index, kind="video", codec=codec, fate="upscaled")
            fates.append(fate)
            continue
        if isinstance(stream, AttachmentStream):
            reason = _attach(stream, output)
        elif isinstance(stream, av.VideoStream):
            cover = bool(stream.disposition & Disposition.attached_pic)
            reason = "cover pictures are not copied" if cover else "a second video stream"
        elif stream.type not in ("audio", "subtitle"):
            reason = f"{stream.type} streams are not copied"
        elif stream.type == "audio" and not _audible(stream):
            reason = "its parameters are unknown, as no packet of it can be read"
        else:
            try:
                if not _held(stream, output):
                    raise ValueError(f"{output.format.name} does not hold it")
                twin = output.add_stream_from_template(stream)
            except (ValueError, av.error.FFmpegError):
                if stream.type == "audio":
                    raise OutputError(
                        f"{output.format.name} cannot hold {codec or 'this'} audio (stream "
                        f"{stream.index}); write to a {_ANY_AUDIO} file instead"
                    ) from None
                reason = f"{output.format.name} cannot hold {codec or 'it'}"
            else:
                twin.metadata.update(stream.metadata)
                twin.disposition = stream.disposition
                twins[stream.index] = twin
        fates.append(
            StreamFate(
                index=stream.index,
                kind=stream.type,
                codec=codec,
                fate="dropped" if reason else "copied",
                reason=reason,
            )
        )
    return twins, fates


def copy_metadata(
    source: av.container.InputContainer, output: av.container.OutputContainer, *, cut: bool
) -> list[str]:
    """Carry the file's tags and chapters over.

    Args:
        cut: the output is a part of the input; chapters would point elsewhere.

    Returns:
        What was not carried, one line each.
    """
    tags = {k: v for k, v in source.metadata.items() if k.lower() not in _CONTAINER_TAGS}
    output.metadata.update(tags)
    chapters = source.chapters()
    if chapters and cut:
        return ["chapters are dropped: the output is a part of the input"]
    if chapters:
        output.set_chapters(chapters)
    return []


def described(fates: Iterable[StreamFate]) -> list[str]:
    """One line for each stream that is dropped."""
    return [
        f"stream {fate.index} ({fate.kind}{' ' + fate.codec if fate.codec else ''}) is dropped: "
        f"{fate.reason}"
        for fate in fates
        if fate.fate == "dropped"
    ]


def _held(stream: Stream, output: av.container.OutputContainer) -> bool:
    held = _HELD.get(output.format.name)
    if held is None:
        return True
    return stream.codec_context is not None and stream.codec_context.codec.canonical_name in held


def _audible(stream: Stream) -> bool:
    context = stream.codec_context
    return not isinstance(context, av.AudioCodecContext) or bool(context.sample_rate)


def _attach(stream: AttachmentStream, output: av.container.OutputContainer) -> str:
    if output.format.name != "matroska":
        return f"{output.format.name} holds no attachments"
    output.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data or b"")
    return ""
