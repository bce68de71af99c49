"""Demux and decode: a video becomes frame batches and packets to copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import torch

from hatvid.errors import InputError
from hatvid.options import InputOptions, StreamOptions
from hatvid.selectors import TimePoint
from hatvid.video.batch import FrameBatch, batched
from hatvid.video.convert import conversion_note
from hatvid.video.cut import Cut
from hatvid.video.device_frames import (
    in_main_memory,
    is_on_device,
    software_format,
)
from hatvid.video.fields import Deinterlacer, judge
from hatvid.video.frame_reader import FrameReader, Planes
from hatvid.video.kind import Kind
from hatvid.video.opening import choose_video, is_pipe, open_input, unseekable
from hatvid.video.pictures import (
    AnyPacket,
    FrameTime,
    Pictures,
    positive,
    prepare_decoder,
    time_base_of,
)
from hatvid.video.scan import Packets, scan_for
from hatvid.video.source_info import SourceInfo, gather, samples

__all__ = ["FrameBatch", "SourceInfo", "VideoSource"]

# How far packets of one time lie apart in a file, in seconds, at most.
_INTERLEAVED = 10
# What is read to find the first frame, and what of a pipe is kept to judge its fields.
_PEEK_BYTES = 256 << 20
_SAMPLE_BYTES = 128 << 20
_SAMPLE_FRAMES = 50


@dataclass(frozen=True)
class _Shown:
    """A decoded frame, its time, and the codec's sample aspect ratio at it."""

    frame: av.VideoFrame
    time: FrameTime
    aspect: Fraction | None


class VideoSource:
    """One video, opened; iterate over it once. Nothing of a pipe is read twice.

    Opening decodes as far as the first frame given, so that :attr:`info` tells of it.

    Args:
        path: a file, numbered pictures (``a%03d.png``), or ``-`` for standard input.
        reading: how it is read.
        streams: whose ``map`` chooses among several video streams.
        start: the first frame at or after this is the first given.
        end: the first frame at or after this is no more given.
        strict: raise at the first frame that cannot be decoded.
        device: a GPU where frames stay that ``reading.hwaccel`` ``cuda`` decodes, those to
            deinterlace aside; all others lie in main memory.

    Raises:
        InputError: the input is missing, unreadable, or holds no video; or no frame of it
            lies between ``start`` and ``end``.
        OptionError: there are several video streams and none is chosen.
    """

    def __init__(
        self,
        path: Path,
        *,
        reading: InputOptions | None = None,
        streams: StreamOptions | None = None,
        start: TimePoint | None = None,
        end: TimePoint | None = None,
        strict: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self._path = path
        self._reading = reading or InputOptions()
        self._streams = streams or StreamOptions()
        self._strict = strict or self._reading.strict
        self._start, self._end = start, end
        self._cut = Cut(start, end)
        self._ahead: deque[_Shown | AnyPacket] = deque()
        self._origin: int | None = None
        self._aspect: Fraction | None = None
        self._opening_aspect: Fraction | None = None
        self._copied: frozenset[int] | None = None
        self._deinterlacer: Deinterlacer | None = None
        self.notes: list[str] = []
        """What was assumed or found out, one line each; more may come while frames do."""
        # bwdif takes frames in main memory alone.
        self._device = device if self._reading.deinterlace is None else None
        self.container = open_input(path, self._reading, self.notes, self._device)
        try:
            self.stream = choose_video(self.container, path, self._streams.map)
            prepare_decoder(self.stream, self._reading.hwaccel, self.notes)
            self._packets = Packets(
                path, self.container, self.stream, strict=self._strict, notes=self.notes
            )
            self._scan = scan_for(
                path, self.stream, start, end, reading=self._reading, streams=self._streams
            )
            self._flow = self._between()
            self._first = self._peek()
            self.kind = Kind.of(self._first.frame, self._first.aspect)
            self._tell_of_device()
            if note := conversion_note(software_format(self._first.frame)):
                self.notes.append(note)
            self.info = self._describe()
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.container.close()

    @property
    def ended_early(self) -> str | None:
        """Why reading stopped before the end of the file, if it did."""
        return self._packets.ended_early

    @property
    def residue(self) -> dict[int, tuple[Fraction, Fraction]]:
        """After :meth:`items`, by index of each copied stream: how long before the cut its
        first packet begins, and how long after the cut its last one ends, in seconds."""
        found = self._cut.residue()
        return {index: found[index] for index in sorted(found.keys() & (self._copied or ()))}

    @property
    def first(self) -> int:
        """pts of the first frame given, in the stream's own time base."""
        return self._first.time.pts

    def limits(self) -> tuple[Fraction | None, Fraction | None]:
        """Start and end in seconds after the first frame; in a pipe, a frame's number by the
        average rate."""
        return (self._limit(self._start), self._limit(self._end))

    def items(self, batch: int, copied: frozenset[int]) -> Iterator[FrameBatch | AnyPacket]:
        """Give the frames in batches of ``batch`` (the last may be short), and between
        them the packets of the streams with an index in ``copied``.

        Raises:
            DecodeError: strict, and a frame cannot be decoded; or the picture's size,
                pixel format or sample aspect ratio changes.
            InputError: the file can no longer be read.
        """
        self._copied = copied
        waiting: list[Planes] = []
        reader = FrameReader(self.info, repeats=self._deinterlacer is None)
        with closing(self._flow):
            for item in self._pictures():
                if isinstance(item, av.Packet):
                    if item.stream_index in copied:
                        yield item
                    continue
                waiting.append(reader.read(*item))
                if len(waiting) == batch:
                    yield batched(waiting)
                    waiting = []
        if waiting:
            yield batched(waiting)

    def _tell_of_device(self) -> None:
        """FFmpeg decodes on the CPU what NVDEC refuses (H.264 of 10 bit), and does not say so."""
        name, context = self._reading.hwaccel, self.stream.codec_context
        kept = name == "cuda" and self._device is not None and self._device.type == "cuda"
        if kept and context.is_hwaccel and not is_on_device(self._first.frame):
            what = f"{context.name} ({context.profile})" if context.profile else context.name
            self.notes.append(f"{name} does not decode this {what}: decoding on the CPU")

    def _limit(self, point: TimePoint | None) -> Fraction | None:
        if point is None or point.seconds is not None:
            return None if point is None else point.seconds
        number, info = point.frame or 0, self.info
        assert self._origin is not None
        if self._scan is not None:
            shown = [pts for pts in self._scan.pts if pts >= self._origin]
            if number < len(shown):
                return (shown[number] - self._origin) * self._scan.time_base
        if info.average_rate is None:
            return None
        doubled = 2 if self._reading.deinterlace == "field" else 1
        return number * doubled / info.average_rate

    # The first frame, and what it tells.

    def _peek(self) -> _Shown:
        """Decode as far as the first frame given; what comes with it waits."""
        for item in self._flow:
            self._ahead.append(item)
            if isinstance(item, _Shown):
                return item
        if self._origin is None:
            if is_pipe(self._path) and "mp4" in self.container.format.name:
                raise unseekable(self._path)
            raise InputError(f"{self._path}: no frame can be decoded; is the file whole?")
        raise InputError(
            f"{self._path}: no frame lies between --start and --end; the video has "
            f"{self._cut.frames} frame{'s' * (self._cut.frames != 1)} as far as it was read"
        )

    def _describe(self) -> SourceInfo:
        reading, first = self._reading, self._first
        assert self._origin is not None
        info = gather(
            self._path,
            self.container,
            self.stream,
            in_main_memory(first.frame),
            start=self._origin,
            colors=reading.colors,
        )
        if first.aspect != self._opening_aspect:  # what the container says is of the opening
            info = replace(info, sample_aspect_ratio=first.aspect)
        if reading.progressive:
            return info
        info = replace(info, fields=judge(self._field_samples(), info.field_order))
        assert info.fields is not None
        if reading.deinterlace is None:
            return info
        self._deinterlacer = Deinterlacer(
            reading.deinterlace, info.fields, time_base=info.time_base
        )
        if reading.deinterlace == "frame":
            return info
        return replace(
            info,
            time_base=self._deinterlacer.time_base,
            start=info.start * 2,
            duration=None if info.duration is None else info.duration * 2,
            frames=None if info.frames is None else info.frames * 2,
            average_rate=None if info.average_rate is None else info.average_rate * 2,
        )

    def _field_samples(self) -> Iterator[Iterator[av.VideoFrame]]:
        if not is_pipe(self._path):
            yield from samples(self._path, self._reading, self._streams)
            return
        # What is looked at of a pipe has to be kept.
        size = sum(plane.buffer_size for plane in self._first.frame.planes)
        for _ in range(min(_SAMPLE_FRAMES, _SAMPLE_BYTES // max(1, size))):
            item = next(self._flow, None)
            while item is not None and not isinstance(item, _Shown):
                self._ahead.append(item)
                item = next(self._flow, None)
            if item is None:
                break
            self._ahead.append(item)
        yield (in_main_memory(item.frame) for item in self._ahead if isinstance(item, _Shown))

    # From packets to planes.

    def _between(self) -> Generator[_Shown | AnyPacket]:
        """Frames in order of presentation, and packets of all other streams, between start
        and end."""
        cut, tick = self._cut, time_base_of(self.stream)
        pictures = Pictures.of(self._path, self.container, self.stream, strict=self._strict)
        early: list[AnyPacket] = []
        size = 0
        for packet in self._packets:
            beside = packet.stream is not self.stream
            if beside and self._origin is None:
                early.append(packet)
            elif beside:
                cut.add(packet, self._origin * tick)  # type: ignore[operator]
            elif cut.ended is None:
                for frame, time in pictures.feed(packet):
                    yield from self._placed(frame, time, early)
            if self._origin is None:
                size += packet.size
                if size > _PEEK_BYTES:
                    raise InputError(
                        f"{self._path}: no frame can be decoded in the first "
                        f"{_PEEK_BYTES >> 20} MiB; is the file whole?"
                    )
                continue
            yield from cut.packets()
            if cut.ended is not None and (
                self._copied == frozenset() or cut.over(packet, self._origin * tick, _INTERLEAVED)
            ):
                return
        if cut.ended is None:
            for frame, time in pictures.finish():
                yield from self._placed(frame, time, early)
        yield from cut.packets(final=True)

    def _placed(
        self, frame: av.VideoFrame, time: FrameTime, early: list[AnyPacket]
    ) -> Iterator[_Shown]:
        """A decoded frame, if it lies between start and end."""
        aspect = positive(self.stream.codec_context.sample_aspect_ratio)
        tick = time_base_of(self.stream)
        if self._origin is None:
            self._origin = time.pts
            self._aspect = self._opening_aspect = aspect
            for packet in early:
                self._cut.add(packet, self._origin * tick)
        # The decoder tells what it reads now; what it shows follows from a key frame on.
        if aspect != self._aspect and frame.key_frame:
            self._aspect = aspect
        if self._cut.takes((time.pts - self._origin) * tick):
            yield _Shown(frame, time, self._aspect)

    def _pictures(self) -> Iterator[tuple[av.VideoFrame, FrameTime] | AnyPacket]:
        """The frames to upscale, and packets."""
        while True:
            item = self._ahead.popleft() if self._ahead else next(self._flow, None)
            if item is None:
                break
            if isinstance(item, av.Packet):
                yield item
                continue
            self._check(item)
            if self._deinterlacer is None:
                yield item.frame, item.time
            else:
                yield from self._deinterlacer.feed(item.frame, item.time)
        if self._deinterlacer is not None:
            yield from self._deinterlacer.finish()

    def _check(self, item: _Shown) -> None:
        """Refuse a frame that is of another kind than the first."""
        assert self._origin is not None
        at = (item.time.pts - self._origin) * time_base_of(self.stream)
        self.kind.check(Kind.of(item.frame, item.aspect), self._path, at)
