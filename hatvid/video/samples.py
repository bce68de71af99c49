"""A few frames from all over a video, found by seeking."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import torch
from torch import Tensor

from hatvid.errors import InputError
from hatvid.options import InputOptions
from hatvid.selectors import StreamSpecifier, TimePoint
from hatvid.video.color import assumed, planes_to_rgb
from hatvid.video.convert import frame_to_planes
from hatvid.video.declared import frame_tags
from hatvid.video.opening import choose_video, open_input

__all__ = ["Sample", "Samples"]

# A frame whose luma varies less than this (in [0, 1]) shows nothing.
_EMPTY = 0.02


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One frame of a video.

    Args:
        seconds: after the first frame.
        rgb: (1, 3, H, W) float32, nominally in [0, 1], unclamped.
        rotation: by which a player turns it counter-clockwise, in degrees.
    """

    seconds: float
    rgb: Tensor
    rotation: int


class Samples:
    """A video to take frames from; it is opened for each.

    Args:
        path: of the video.
        reading: how it is read.
        streams: which of its streams are meant, as with ``--map``.

    Raises:
        InputError: it cannot be read, or no frame of it decoded.
        OptionError: ``streams`` names none, or no video.
    """

    def __init__(
        self,
        path: Path,
        *,
        reading: InputOptions | None = None,
        streams: Sequence[StreamSpecifier] = (),
    ) -> None:
        self._path = path
        self._reading = reading or InputOptions()
        self._streams = streams
        with closing(self._frames(None)) as frames:
            first = next(frames, None)
            if first is None:
                raise InputError(f"{path}: no frame can be decoded; is the file whole?")
            self._start = _stamp(first)
        with self._open() as (container, stream):
            tick = Fraction(stream.time_base.numerator, stream.time_base.denominator)
            self._tick = tick
            length = stream.duration * tick if stream.duration else None
            if length is None and container.duration:
                length = Fraction(container.duration, av.time_base)
            self.length = length
            """In seconds, None if the file does not tell."""
            rate = stream.average_rate
            known = bool(rate) and rate.denominator > 0
            self._rate = Fraction(rate.numerator, rate.denominator) if known else None
            self.frames = stream.frames or self._estimated()
            """About how many there are, None if the file does not tell."""

    def spread(self, count: int) -> list[Sample]:
        """Frames from the middles of ``count`` equal parts, empty ones passed over.

        Fewer where the file does not tell its length, or has not as many frames.
        """
        if self.length is None or count < 1:
            return [self.at(TimePoint(seconds=Fraction(0)))]
        found: dict[float, Sample] = {}
        for number in range(count):
            part = self.length / count
            tries = [self.at(TimePoint(seconds=part * (number + Fraction(1, 2))))]
            for place in (Fraction(1, 4), Fraction(3, 4)):
                if _variation(tries[-1]) >= _EMPTY:
                    break
                tries.append(self.at(TimePoint(seconds=part * (number + place))))
            best = max(tries, key=_variation)
            found[best.seconds] = best
        return [found[seconds] for seconds in sorted(found)]

    def at(self, point: TimePoint) -> Sample:
        """The first frame at or after a point; the last one behind the end.

        A frame number is counted from the start, seconds are found by seeking.

        Raises:
            InputError: the frame's pixel format or matrix is not supported.
        """
        reached = self._reached(point)
        if point.seconds is None:
            return self._sample(self._first(None, reached))
        target = self._start + round(point.seconds / self._tick)
        frame = self._first(target, reached)
        if frame is None or _stamp(frame) < self._start:
            frame = self._first(None, reached)  # no seeking in this file
        return self._sample(frame)

    def _reached(self, point: TimePoint) -> Callable[[av.VideoFrame, int], bool]:
        def reached(frame: av.VideoFrame, number: int) -> bool:
            return point.reached((_stamp(frame) - self._start) * self._tick, number)

        return reached

    def _first(
        self, target: int | None, reached: Callable[[av.VideoFrame, int], bool]
    ) -> av.VideoFrame | None:
        last = None
        with closing(self._frames(target)) as frames:
            for number, frame in enumerate(frames):
                last = frame
                if reached(frame, number):
                    break
        return last

    def _sample(self, frame: av.VideoFrame | None) -> Sample:
        if frame is None:
            raise InputError(f"{self._path}: no frame can be decoded; is the file whole?")
        layout, planes = frame_to_planes(frame)
        given = frame_tags(frame, self._reading.colors)
        tags = assumed(given, layout, frame.height, frame.width)
        return Sample(
            seconds=float((_stamp(frame) - self._start) * self._tick),
            rgb=planes_to_rgb([plane.unsqueeze(0) for plane in planes], layout, tags),
            rotation=int(frame.rotation),
        )

    @contextmanager
    def _open(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        with open_input(self._path, self._reading) as container:
            yield container, choose_video(container, self._path, self._streams)

    def _frames(self, target: int | None) -> Generator[av.VideoFrame]:
        with self._open() as (container, stream):
            try:
                if target is not None:
                    container.seek(target, stream=stream)
                for packet in container.demux(stream):
                    yield from stream.codec_context.decode(packet if packet.size else None)
            except (av.error.FFmpegError, OSError, ValueError):
                return  # what was decoded so far is all there is

    def _estimated(self) -> int | None:
        if self.length is None or self._rate is None:
            return None
        return max(1, round(self.length * self._rate))


def _stamp(frame: av.VideoFrame) -> int:
    stamp = frame.pts if frame.pts is not None else frame.dts
    return stamp or 0


def _variation(sample: Sample) -> float:
    return float(torch.std(sample.rgb.mean(1)))
