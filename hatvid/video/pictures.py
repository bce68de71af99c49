"""Decoding one video stream so that no frame goes missing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Stream

from hatvid.errors import DecodeError

__all__ = ["AnyPacket", "FrameTime", "Pictures", "fraction", "positive", "time_base_of"]

type AnyPacket = av.Packet[Stream]


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

    Args:
        path: for messages.
        stream: its codec context decodes.
        strict: raise instead of filling.
        whole: the stream begins with a key frame, even if that one cannot be read; else
            it may begin anywhere, as a recorded broadcast does.
    """

    def __init__(self, path: Path, stream: av.VideoStream, *, strict: bool, whole: bool) -> None:
        self._path = path
        self._stream = stream
        self._strict = strict
        self._promised: dict[int, int] = {}  # pts -> duration, of packets with no frame yet
        self._keyed = whole
        self._broken = False
        self._resync: int | None = None  # pts of the first key frame after an error
        self._last: av.VideoFrame | None = None
        self._last_time: FrameTime | None = None
        self._flushed = False

    def feed(self, packet: AnyPacket) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        if packet.size == 0:
            yield from self.finish()
            return
        self._keyed = self._keyed or packet.is_keyframe
        if self._keyed and packet.pts is not None and not packet.is_discard:
            self._promised[packet.pts] = packet.duration or 0
            if packet.is_keyframe and self._broken and self._resync is None:
                self._resync = packet.pts
        try:
            frames = self._stream.codec_context.decode(packet)
        except (av.error.FFmpegError, ValueError) as error:
            self._fail(packet.pts, error)
            return
        for frame in frames:
            yield from self._present(frame)

    def finish(self) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        """Drain the decoder: delayed frames come only after a null packet."""
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
                yield from self._present(frame)
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

    def _present(self, frame: av.VideoFrame) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        previous = self._last_time
        stamp = frame.pts if frame.pts is not None else frame.dts
        self._promised.pop(stamp, None) if stamp is not None else None
        if frame.pts is not None:
            yield from self._fill(frame.pts, frame)
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
