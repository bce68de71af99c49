"""Decoding one video stream so that no frame goes missing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Stream

from hatvid.errors import DecodeError

__all__ = [
    "AnyPacket",
    "FrameTime",
    "Pictures",
    "fraction",
    "positive",
    "prepare_decoder",
    "time_base_of",
]

type AnyPacket = av.Packet[Stream]

# FFmpeg's demuxers of files that are written from a key frame on. Transport streams and
# bare elementary streams are recordings, which begin wherever somebody tuned in.
_INDEXED = frozenset({"avi", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "nut"})


@dataclass(frozen=True, kw_only=True)
class FrameTime:
    """When one frame is shown, in units of the source's time base."""

    pts: int
    duration: int
    repeated: bool = False
    """The frame at this pts could not be decoded: the picture is the one before."""
    damaged: bool = False
    """The decoder gave a picture but marked it as corrupt."""
    moved: bool = False
    """The file gives no pts here, or one that does not rise: this one was made up."""


class Pictures:
    """Decodes one stream and fills the gaps that decoding errors leave.

    Each packet since the first key frame promises a frame at its pts. Where an error
    breaks that promise, the picture before is given again at that pts (the one after,
    if there is none before), so that the count holds. Without an error a packet may
    rightly give no frame (a second field, a leading picture of an open GOP), so gaps
    are filled from an error until the next key frame's picture only.

    A stream without any pts (H.264 in AVI) has one packet a frame and a dts for each: frames
    come out of the decoder in order of presentation, so the first gets the first dts, and so
    on. A key frame that closes a GOP is shown at its own dts, which sets right what packets
    without a frame put out.

    Args:
        path: for messages.
        stream: its codec context decodes.
        strict: raise instead of filling.
        whole: the stream begins with a key frame, even if that one cannot be read; else
            it may begin anywhere, as a recorded broadcast does.
        reordered: durations reach to the next packet in order of decoding, as in MP4, and
            say nothing of pictures: each lasts until the next one, and the last until the
            end of the stream.
    """

    def __init__(
        self,
        path: Path,
        stream: av.VideoStream,
        *,
        strict: bool,
        whole: bool,
        reordered: bool = False,
    ) -> None:
        self._path = path
        self._stream = stream
        self._strict = strict
        self._reordered = reordered
        self._promised: dict[int, int] = {}  # pts -> duration, of packets with no frame yet
        self._keyed = whole
        self._broken = False
        self._resync: int | None = None  # pts of the first key frame after an error
        self._last: av.VideoFrame | None = None
        self._last_time: FrameTime | None = None
        self._flushed = False
        self._open: tuple[av.VideoFrame, FrameTime] | None = None  # without a duration yet
        self._step = 0
        self._timed = False  # a pts was seen
        self._slots: deque[int] = deque()  # dts without a frame yet, of a stream without pts
        self._lost: set[int] = set()  # those of them that an error took
        # A frame then says which packet it is of.
        stream.codec_context.copy_opaque = True

    @classmethod
    def of(
        cls,
        path: Path,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        *,
        strict: bool,
    ) -> Pictures:
        """Those of a stream of an opened container."""
        demuxer = container.format.name
        return cls(
            path,
            stream,
            strict=strict,
            whole=demuxer in _INDEXED,
            reordered="mov" in demuxer and stream.codec_context.has_b_frames > 0,
        )

    def feed(self, packet: AnyPacket) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        """Decode one packet that holds data.

        Raises:
            DecodeError: strict, and something is broken.
        """
        for frame, time in self._fed(packet):
            yield from self._lasting(frame, time)

    def finish(self) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        """Drain the decoder: delayed frames come only after a null packet."""
        for frame, time in self._drained():
            yield from self._lasting(frame, time)
        if self._open is not None:
            frame, time = self._open
            self._open = None
            yield frame, replace(time, duration=self._until_the_end(time) or self._step)

    def _lasting(
        self, frame: av.VideoFrame, time: FrameTime
    ) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        """A frame whose duration the file does not tell lasts until the next one, and the
        last as long as the one before it."""
        if self._open is not None:
            before, at = self._open
            self._step = time.pts - at.pts
            self._open = None
            yield before, replace(at, duration=self._step)
        if time.duration and not self._reordered:
            yield frame, time
        else:
            self._open = (frame, time)

    def _until_the_end(self, last: FrameTime) -> int | None:
        stream = self._stream
        if not self._reordered or not stream.duration:
            return None
        rest = (stream.start_time or 0) + stream.duration - last.pts
        return rest if rest > 0 else None

    def _fed(self, packet: AnyPacket) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        self._timed = self._timed or packet.pts is not None
        # Among packets with pts, one without is the second half of a frame.
        stamp = packet.pts if self._timed else packet.dts
        packet.opaque = stamp
        if not self._timed and stamp is not None and not packet.is_discard:
            self._slots.append(stamp)
        self._keyed = self._keyed or packet.is_keyframe
        if self._keyed and stamp is not None and not packet.is_discard:
            self._promised[stamp] = packet.duration or 0
            if packet.is_keyframe and self._broken and self._resync is None:
                self._resync = stamp
        try:
            frames = self._stream.codec_context.decode(packet)
        except (av.error.FFmpegError, ValueError) as error:
            self._fail(stamp, error)
            return
        for frame in frames:
            yield from self._present(frame, self._stamp(frame))

    def _drained(self) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        if self._flushed:
            return
        self._flushed = True
        while True:
            try:
                frames = self._stream.codec_context.decode(None)
            except av.error.EOFError:
                break
            except (av.error.FFmpegError, ValueError) as error:
                self._fail(None, error)
                continue
            for frame in frames:
                yield from self._present(frame, self._stamp(frame))
            if not frames:
                break
        yield from self._fill(math.inf)

    def _fail(self, pts: int | None, error: Exception) -> None:
        if self._strict:
            where = "" if pts is None else f" at {float(pts * time_base_of(self._stream)):.3f} s"
            raise DecodeError(
                f"{self._path}: a frame{where} cannot be decoded ({error}); leave out --strict to "
                "repeat the frame before it"
            ) from error
        self._broken, self._resync = True, None
        if pts is not None and not self._timed:
            self._lost.add(pts)

    def _stamp(self, frame: av.VideoFrame) -> int | None:
        """A frame's pts, or of a stream without pts the next dts."""
        own = frame.opaque
        if frame.pts is not None or self._timed or not isinstance(own, int):
            return frame.pts
        while self._slots and (
            self._slots[0] in self._lost or (frame.key_frame and self._slots[0] < own)
        ):
            self._lost.discard(self._slots.popleft())
        return self._slots.popleft() if self._slots else None

    def _present(
        self, frame: av.VideoFrame, stamp: int | None
    ) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        if stamp is not None:
            self._promised.pop(stamp, None)
            yield from self._fill(stamp, frame)
        previous = self._last_time
        moved = stamp is None or (previous is not None and stamp <= previous.pts)
        if moved:
            step = 1 if stamp is not None else max(1, previous.duration if previous else 1)
            stamp = previous.pts + step if previous else 0
        assert stamp is not None
        if frame.is_corrupt and self._strict:
            raise DecodeError(
                f"{self._path}: the frame at {float(stamp * time_base_of(self._stream)):.3f} s is "
                "damaged; leave out --strict to keep it as the decoder gives it"
            )
        time = FrameTime(
            pts=stamp, duration=frame.duration or 0, damaged=frame.is_corrupt, moved=moved
        )
        self._last, self._last_time = frame, time
        if self._resync is not None and stamp >= self._resync:
            self._broken, self._resync = False, None
        yield frame, time

    def _fill(
        self, before: float, next_frame: av.VideoFrame | None = None
    ) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        """Keep the promises for pts under ``before`` that an error broke."""
        due = sorted(pts for pts in self._promised if pts < before)
        for pts in due:
            duration = self._promised.pop(pts)
            last = self._last_time
            picture = self._last or next_frame
            second_field = last is not None and pts < last.pts + last.duration
            if not self._broken or picture is None or second_field:
                continue
            time = FrameTime(pts=pts, duration=duration, repeated=True)
            self._last, self._last_time = picture, time
            yield picture, time


def prepare_decoder(stream: av.VideoStream, hwaccel: str | None, notes: list[str]) -> None:
    """Set a stream's decoder up, before its first packet.

    Args:
        hwaccel: that was asked for.
        notes: takes a line if it does not decode this codec.
    """
    context = stream.codec_context
    if hwaccel and not context.is_hwaccel and not any(hwaccel in note for note in notes):
        notes.append(f"{hwaccel} does not decode {context.name}: decoding on the CPU")
    # Frame threads would give errors of one packet at another one's call, and hide
    # which picture is lost; decoding the small video is not what takes time.
    stream.thread_type = "SLICE"
    # A damaged picture is worth more than none; it is counted and named.
    context.flags |= av.codec.context.Flags.output_corrupt


def fraction(value: object) -> Fraction:
    """PyAV's rational as Python's."""
    return Fraction(value.numerator, value.denominator)  # type: ignore[attr-defined]


def time_base_of(stream: av.VideoStream) -> Fraction:
    """Seconds a tick of the stream's pts."""
    return fraction(stream.time_base)


def positive(value: object) -> Fraction | None:
    """The same, None where it is unset, zero or below."""
    if not value or value.denominator == 0:  # type: ignore[attr-defined]
        return None
    ratio = fraction(value)
    return ratio if ratio > 0 else None
