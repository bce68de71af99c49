"""Twins: streams of the output that carry what a stream of the input carries."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

import av
from av.codec.context import CodecContext
from av.container import InputContainer, OutputContainer
from av.stream import AttachmentStream, DataStream, Disposition, Stream
from av.subtitles.stream import SubtitleStream

from hatvid.video.pictures import AnyPacket
from hatvid.video.subtitles import ConvertedSubtitles
from hatvid.video.tags import stream_tags

__all__ = ["COVERS", "Twin", "add_twin", "codec_of", "cover_of", "is_cover"]

COVERS = {
    "matroska": frozenset({"bmp", "gif", "mjpeg", "png", "tiff", "webp"}),
    "mp4": frozenset({"bmp", "mjpeg", "png"}),
}
"""What cover pictures may be coded as, by muxer; the others hold none."""

_MIMETYPES = {"mjpeg": "image/jpeg"}
_EXTENSIONS = {"mjpeg": "jpg"}


class Twin(Protocol):
    """Takes the packets of one input stream, gives those of the output.

    Attributes:
        lost: how many packets could not be converted.
    """

    lost: int

    def packets(self, packet: AnyPacket) -> list[AnyPacket]:
        """What is to be muxed after this packet; its times are already the output's."""

    def finish(self) -> list[AnyPacket]:
        """What is left to be muxed at the end."""


class _Copied:
    """Every packet as it is."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.lost = 0

    def packets(self, packet: AnyPacket) -> list[AnyPacket]:
        packet.stream = self._stream
        return [packet]

    def finish(self) -> list[AnyPacket]:
        return []


class _Adts(_Copied):
    """AAC with a header in each packet, of which the muxer takes the first for all.

    One that names no sampling rate would end the whole job, when FFmpeg writes what it
    has queued; so packets count from the first that does.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._begun = False

    def packets(self, packet: AnyPacket) -> list[AnyPacket]:
        # ISO/IEC 14496-3, table 1.A.5: 12 bits of sync word, then 6 bits to the index of the
        # sampling rate, of which 13 to 15 mean none.
        head = bytes(memoryview(packet)[:3])
        sync, rate = int.from_bytes(head[:2]) & 0xFFF6, int.from_bytes(head[2:]) >> 2 & 15
        sound = len(head) == 3 and sync == 0xFFF0 and rate < 13
        self._begun = self._begun or sound
        if not self._begun:
            self.lost += 1
            return []
        return super().packets(packet)


class _Cover:
    """One picture, at the first opportunity: a cover has no time."""

    def __init__(self, stream: Stream | None, picture: bytes) -> None:
        self._stream = stream
        self._picture = picture
        self.lost = 0

    def packets(self, packet: AnyPacket) -> list[AnyPacket]:
        return self.finish()

    def finish(self) -> list[AnyPacket]:
        if self._stream is None:
            return []
        packet: AnyPacket = av.Packet(self._picture)
        packet.stream, self._stream = self._stream, None
        packet.pts = packet.dts = 0
        packet.is_keyframe = True
        return [packet]


class _FromZero:
    """What a cut leaves of lines that began before it."""

    def __init__(self, inner: Twin) -> None:
        self._inner = inner
        self.lost = 0

    def packets(self, packet: AnyPacket) -> list[AnyPacket]:
        if packet.pts is not None and packet.pts < 0:
            packet.duration = max(0, (packet.duration or 0) + packet.pts)
            packet.pts = packet.dts = 0
        made = self._inner.packets(packet)
        self.lost = self._inner.lost
        return made

    def finish(self) -> list[AnyPacket]:
        return self._inner.finish()


def codec_of(stream: Stream) -> str:
    """FFmpeg's name of a stream's codec, empty if unknown."""
    context: CodecContext | None = stream.codec_context  # None where there is no decoder
    if context is not None:
        return context.codec.canonical_name
    return (stream.name or "") if isinstance(stream, DataStream) else ""


def is_cover(stream: Stream) -> bool:
    """Whether a stream is one picture that stands for the whole file."""
    return bool(stream.disposition & Disposition.attached_pic)


def cover_of(source: InputContainer, index: int) -> bytes | None:
    """The cover picture that is stream ``index``, None if it cannot be read.

    It is read by opening the file again, as the source's packets pass only once.
    """
    path = source.name.removeprefix("file:")
    if not Path(path).is_file():
        return None
    try:
        demuxer = source.format.name.split(",")[0]
        options = {"protocol_whitelist": "file"}
        with av.open(f"file:{path}", format=demuxer, options=options) as again:
            # FFmpeg gives the pictures before everything else.
            for _, packet in zip(range(len(again.streams)), again.demux(), strict=False):
                if packet.stream_index == index and packet.size:
                    return bytes(packet)
    except (av.error.FFmpegError, ValueError):
        pass
    return None


def add_twin(
    stream: Stream,
    output: OutputContainer,
    *,
    target: str = "",
    picture: bytes | None = None,
    cut: bool = False,
) -> Twin | None:
    """Give the output a stream for this one of the input, with its tags and dispositions.

    Args:
        stream: of the input.
        output: nothing is written to it yet.
        target: codec of the twin, empty to copy the packets.
        picture: of a cover.
        cut: the output is a part of the input; a subtitle that is shown when it begins
            is shown from its first moment.

    Returns:
        None for what is written with the header and has no packets.

    Raises:
        ValueError, av.error.FFmpegError: the container does not take it.
    """
    muxer = output.format.name
    tags = stream_tags(stream, muxer, changed=bool(target), cut=cut)
    if isinstance(stream, AttachmentStream):
        _attach(output, tags, "attachment", "application/octet-stream", stream.data or b"")
        return None
    if picture is not None and muxer == "matroska":
        codec = codec_of(stream)
        name = f"cover.{_EXTENSIONS.get(codec, codec)}"
        _attach(output, tags, name, _MIMETYPES.get(codec, f"image/{codec}"), picture)
        return None
    twin: Twin
    if target:
        twin = ConvertedSubtitles(cast(SubtitleStream, stream), output, target)
        made = twin.stream
    else:
        # The parameters of the input itself: there may be no encoder of that name.
        made = output.add_stream_from_template(stream, opaque=True)
        if picture is not None:
            twin = _Cover(made, picture)
        else:
            twin = _Adts(made) if _has_adts(stream) else _Copied(made)
    made.metadata.clear()
    made.metadata.update(tags)
    made.disposition = stream.disposition
    return _FromZero(twin) if cut and stream.type == "subtitle" else twin


def _has_adts(stream: Stream) -> bool:
    """Whether its packets bring their configuration, in place of the container."""
    context = stream.codec_context
    return (
        codec_of(stream) == "aac"
        and context.extradata is None
        and "mpegts" in stream.container.format.name
    )


def _attach(
    output: OutputContainer, tags: dict[str, str], name: str, mimetype: str, data: bytes
) -> None:
    name, mimetype = tags.get("filename") or name, tags.get("mimetype") or mimetype
    made = output.add_attachment(name, mimetype, data)
    made.metadata.update(tags | {"filename": name, "mimetype": mimetype})
