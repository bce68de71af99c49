"""A part of a video by the pts of its frames, decoded on its own or from the beginning."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import torch

from hatvid.errors import DecodeError, InputError
from hatvid.options import InputOptions, StreamOptions
from hatvid.video.batch import FrameBatch, batched
from hatvid.video.excerpt import Opener, SparseFile
from hatvid.video.fields import Deinterlacer
from hatvid.video.frame_reader import FrameReader, Planes
from hatvid.video.kind import Kind
from hatvid.video.opening import choose_video, open_input
from hatvid.video.pictures import (
    AnyPacket,
    FrameTime,
    Pictures,
    positive,
    prepare_decoder,
    time_base_of,
)
from hatvid.video.scan import Packets
from hatvid.video.source_info import SourceInfo

__all__ = ["AstrayError", "Window", "WindowSource"]

# By how much earlier than asked for to look, in seconds, where a seek came out too late.
_MARGINS = (0, 1, 5, 30)

# Packets behind a window that a decoder may ask for before it gives the window's last frame.
_DECODER_DELAY = 64


class AstrayError(DecodeError):
    """What was read from a key frame on is not what a whole decode would give."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which frames, by pts in ``time_base`` units of the :class:`SourceInfo`.

    Args:
        first: of the first frame.
        end: the first that is left out, None to read to the end of the video.
        key: of the key frame to decode from; None decodes from the beginning of the file.
        breaks: where a batch never goes on over, rising.
        promised: of all frames of the file from ``first`` to ``end``, as the packets have
            them; where decoding begins at ``key`` nothing else may come.
    """

    first: int
    end: int | None
    key: int | None
    breaks: tuple[int, ...] = ()
    promised: tuple[int, ...] = ()


class WindowSource:
    """The frames of one window; iterate once.

    Args:
        path: a file.
        info: of the video, as a :class:`~hatvid.video.source.VideoSource` of it tells.
        kind: of its frames, likewise.
        window: which frames.
        reading: how it is read.
        streams: whose ``map`` chooses among several video streams.
        device: a GPU where frames stay, as for the :class:`VideoSource`.
        opener: gives the file, where only an excerpt of it is there.

    Raises:
        InputError: the file can no longer be read.
    """

    def __init__(
        self,
        path: Path,
        info: SourceInfo,
        kind: Kind,
        window: Window,
        *,
        reading: InputOptions,
        streams: StreamOptions,
        device: torch.device | None = None,
        opener: Opener | None = None,
    ) -> None:
        self.info = info
        self._opener = opener
        self._file: SparseFile | None = None
        self._path = path
        self._kind = kind
        self._window = window
        self._reading = reading
        self._streams = streams
        self._device = device if reading.deinterlace is None else None
        # A frame of the file, or two fields of it.
        self._fields = 2 if reading.deinterlace == "field" else 1
        self._deinterlacer: Deinterlacer | None = None
        if reading.deinterlace is not None and info.fields is not None:
            tick = info.time_base * self._fields
            self._deinterlacer = Deinterlacer(reading.deinterlace, info.fields, time_base=tick)
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._container.close()

    def items(
        self, batch: int, copied: frozenset[int] = frozenset()
    ) -> Generator[FrameBatch | AnyPacket]:
        """Give the frames in batches of ``batch``; shorter ones before a break, and last.

        Raises:
            AstrayError: decoding began at a key frame, and gives other frames than promised.
            DecodeError: strict, and a frame cannot be decoded; or the picture's size, pixel
                format or sample aspect ratio changes.
            InputError: the file can no longer be read.
        """
        assert not copied, "packets of other streams are read elsewhere"
        waiting: list[Planes] = []
        reader = FrameReader(self.info, repeats=self._deinterlacer is None)
        part = 0
        with closing(self._inside()) as frames:
            for frame, time in frames:
                if bisect_right(self._window.breaks, time.pts) != part:
                    part = bisect_right(self._window.breaks, time.pts)
                    if waiting:
                        yield batched(waiting)
                        waiting = []
                waiting.append(reader.read(frame, time))
                if len(waiting) == batch:
                    yield batched(waiting)
                    waiting = []
        if self._file is not None and self._file.missed:
            raise InputError(f"{self._path}: the excerpt does not hold all that it takes")
        if waiting:
            yield batched(waiting)

    def read_through(self) -> None:
        """Read what :meth:`items` would, and a little more, and decode nothing.

        Raises:
            InputError: the file can no longer be read.
        """
        end, behind = self._window.end, 0
        for packet in self._from_key():
            stamp = packet.pts if packet.dts is None else packet.dts
            behind += end is not None and stamp is not None and stamp * self._fields >= end
            if behind > _DECODER_DELAY:
                return

    def _open(self) -> None:
        opener = None if self._opener is None else self._opened
        self._container = open_input(self._path, self._reading, [], self._device, opener)
        self._stream = choose_video(self._container, self._path, self._streams.map)
        prepare_decoder(self._stream, self._reading.hwaccel, [])

    def _opened(self) -> SparseFile:
        assert self._opener is not None
        self._file = self._opener()
        return self._file

    def _inside(self) -> Generator[tuple[av.VideoFrame, FrameTime]]:
        """The frames of the window, checked against what was promised."""
        window, number = self._window, 0
        for frame, time in self._progressive():
            if time.pts < window.first:
                continue
            if window.end is not None and time.pts >= window.end:
                break
            if window.key is not None:
                wrong = time.repeated or time.damaged or time.moved
                place, second = divmod(number, self._fields)
                if wrong or not (second or time.pts in window.promised[place : place + 1]):
                    raise self._astray(time.pts)
            number += 1
            yield frame, time
        if window.key is not None and number != self._fields * len(window.promised):
            raise self._astray(window.end)

    def _astray(self, pts: int | None) -> AstrayError:
        at = "the end" if pts is None else f"{float(self.info.seconds(pts)):.3f} s"
        return AstrayError(
            f"{self._path}: from a key frame on it decodes otherwise than from its beginning, at "
            f"{at}"
        )

    def _progressive(self) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        """Decoded frames, deinterlaced, from some frame before the window on."""
        end = self._window.end
        for frame, time in self._decoded():
            if self._deinterlacer is None:
                yield frame, time
            else:
                yield from self._deinterlacer.feed(frame, time)
            if end is not None and time.pts * self._fields >= end:
                return
        if self._deinterlacer is not None:
            yield from self._deinterlacer.finish()

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        packets = self._from_key()
        strict = self._reading.strict
        pictures = Pictures.of(self._path, self._container, self._stream, strict=strict)
        aspect, begun = self._kind.aspect, False
        for frame, time in self._fed(packets, pictures):
            if frame.key_frame or not begun:
                aspect, begun = positive(self._stream.codec_context.sample_aspect_ratio), True
            if time.pts * self._fields >= self._window.first:
                at = self.info.seconds(time.pts * self._fields)
                self._kind.check(Kind.of(frame, aspect), self._path, at)
            yield frame, time

    def _fed(
        self, packets: Iterator[AnyPacket], pictures: Pictures
    ) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        for packet in packets:
            yield from pictures.feed(packet)
        yield from pictures.finish()

    def _from_key(self) -> Iterator[AnyPacket]:
        """The video's packets, from the key frame asked for or an earlier one on."""
        key = self._window.key
        if key is None:
            return self._video()
        tick = time_base_of(self._stream)
        key //= self._fields
        for margin in _MARGINS:
            try:
                target = key - round(margin / tick)
                self._container.seek(target, stream=self._stream, backward=True)
            except (av.error.FFmpegError, OSError, ValueError):
                break
            packets = self._video()
            begin = next((p for p in packets if p.is_keyframe and p.pts is not None), None)
            if begin is not None and begin.pts is not None and begin.pts <= key:
                return _chained(begin, packets)
        # No way to go there: everything before it is decoded, and left.
        self._container.close()
        self._open()
        return self._video()

    def _video(self) -> Iterator[AnyPacket]:
        packets = Packets(self._path, self._container, self._stream, strict=False, notes=[])
        return (packet for packet in packets if packet.stream is self._stream)


def _chained(first: AnyPacket, rest: Iterator[AnyPacket]) -> Iterator[AnyPacket]:
    yield first
    yield from rest
