"""Text subtitles from one codec to another, where a container holds only its own."""

from __future__ import annotations

import math
from typing import cast

import av
from av.container import OutputContainer
from av.stream import Stream
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from hatvid.video.pictures import AnyPacket

__all__ = ["ConvertedSubtitles", "OneAtATime", "TEXT_CODECS", "TEXT_TARGETS"]

TEXT_CODECS = frozenset({"ass", "mov_text", "ssa", "subrip", "text", "webvtt"})
"""Subtitles that are lines of text with times."""

TEXT_TARGETS = {
    "matroska": "subrip",
    "mov": "mov_text",
    "mp4": "mov_text",
    "webm": "webvtt",
}
"""What text subtitles become where the muxer does not take them as they are. Others have
no text, or as NUT no end of it."""

# FFmpeg's decoders give a dialogue as eight fields (read order, layer, style, ...) and the
# text: libavcodec/ass.h.
_FIELDS = 8
_STYLE = 2
_PLAIN = b"0,0,Default,,0,0,0,,"
_BREAK = rb"\N"

_LONGEST = 65535
"""Bytes of one packet: no more fit in a sample of MP4 (3GPP TS 26.245, 5.17), and
FFmpeg's time to read a line grows with the square of its length."""


class OneAtATime:
    """Lines that overlap become spans in which one text, of all lines together, is shown.

    A text track of MP4 shows one sample after another (ISO/IEC 14496-12, 8.6.1.2: a
    sample lasts until the next one), so that a line would end where the next begins.
    """

    def __init__(self) -> None:
        self._shown: list[tuple[float, bytes]] = []  # (end, text)
        self._at = 0

    def add(self, start: int, end: float, text: bytes) -> list[tuple[int, int, bytes]]:
        """Take the next line; lines come in the order of their starts.

        Args:
            start: in ticks.
            end: in ticks; infinite where it is unknown, which is until the next line.

        Returns:
            (start, end, text) of the spans that are settled now.
        """
        done = self._until(start)
        self._shown = [line for line in self._shown if line[0] < math.inf]
        if not self._shown:
            self._at = max(self._at, start)
        self._shown.append((end, text))
        return done

    def finish(self) -> list[tuple[int, int, bytes]]:
        """The spans that are left."""
        return self._until(math.inf)

    def _until(self, time: float) -> list[tuple[int, int, bytes]]:
        spans = []
        while self._shown:
            ends = min(time, *(end for end, _ in self._shown))
            # A last line that never ends: its length is as unknown as before.
            stop = self._at if math.isinf(ends) else int(ends)
            if stop > self._at or math.isinf(ends):
                spans.append((self._at, stop, _BREAK.join(text for _, text in self._shown)))
            self._at = max(self._at, stop)
            left = [line for line in self._shown if line[0] > ends]
            if len(left) == len(self._shown):
                break
            self._shown = left
        return spans


class ConvertedSubtitles:
    """Decodes the packets of a stream of text subtitles and encodes them for the output.

    Times and durations are those of the packets, to the tick.

    Args:
        source: the stream of the input.
        output: gets a stream.
        codec: FFmpeg's name of the encoder.

    Raises:
        ValueError: the container does not take the codec.
        av.error.FFmpegError: the decoder or the encoder does not open.
    """

    def __init__(self, source: SubtitleStream, output: OutputContainer, codec: str) -> None:
        known = source.codec_context
        # A decoder of its own: the source's belongs to another thread.
        decoder = av.CodecContext.create(known.codec.name, "r")
        decoder.extradata = known.extradata
        decoder.open()
        self._decoder = cast(SubtitleCodecContext, decoder)
        self.stream: Stream = output.add_stream(codec)
        self.stream.time_base = source.time_base
        self._encoder = cast(SubtitleCodecContext, self.stream.codec_context)
        self._encoder.subtitle_header = self._decoder.subtitle_header or _default_header()
        self._one = OneAtATime() if codec == "mov_text" else None
        self._time_base = source.time_base
        self.lost = 0
        """How many packets could not be read, or written, as text."""

    def packets(self, packet: AnyPacket) -> list[AnyPacket]:
        """The packets of the output that are settled after this one of the input."""
        if packet.pts is None or packet.size > _LONGEST:
            self.lost += 1
            return []
        try:
            text = self._text(packet)
        except (av.error.FFmpegError, ValueError):
            self.lost += 1
            return []
        if not text:
            return []  # MP4 fills the time between lines with empty ones
        self._time_base = packet.time_base
        start, duration = packet.pts, packet.duration or 0
        if self._one is None:
            return self._encoded([(start, start + duration, text)])
        return self._encoded(self._one.add(start, start + (duration or math.inf), text))

    def finish(self) -> list[AnyPacket]:
        """The packets that are left at the end."""
        return [] if self._one is None else self._encoded(self._one.finish())

    def _text(self, packet: AnyPacket) -> bytes:
        """All lines of a packet in ASS's notation: each its style, then its text."""
        texts = []
        for line in self._decoder.decode2(packet) or ():
            fields = line.ass.split(b",", _FIELDS) if isinstance(line, AssSubtitle) else []
            if len(fields) > _FIELDS and fields[_FIELDS]:
                texts.append(rb"{\r%b}%b" % (fields[_STYLE], fields[_FIELDS]))
        return _BREAK.join(texts)

    def _encoded(self, spans: list[tuple[int, int, bytes]]) -> list[AnyPacket]:
        packets: list[AnyPacket] = []
        for start, end, text in spans:
            if len(text) > _LONGEST:
                self.lost += 1
                continue
            # Encoders of text write no times: only the packet has them.
            written = SubtitleSet.create(text=_PLAIN + text, start=0, end=1, pts=0)
            try:
                packet = self._encoder.encode_subtitle(written)
            except (av.error.FFmpegError, ValueError):
                self.lost += 1
                continue
            packet.stream = self.stream
            packet.time_base = self._time_base
            packet.pts = packet.dts = start
            packet.duration = end - start
            packet.is_keyframe = True
            packets.append(packet)
        return packets


def _default_header() -> bytes | None:
    """FFmpeg's own header of ASS, for a stream that has lost its: encoders want one."""
    plain = av.CodecContext.create("subrip", "r")
    plain.open()
    return plain.subtitle_header
