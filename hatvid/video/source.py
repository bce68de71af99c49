"""Demux and decode: a video file becomes frame batches and packets to copy."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import torch
from av.stream import Disposition
from torch import Tensor

from hatvid.errors import DecodeError, InputError
from hatvid.selectors import TimePoint
from hatvid.video.color import ColorTags
from hatvid.video.convert import PlaneLayout, frame_to_planes, planar_pix_fmt
from hatvid.video.pictures import AnyPacket, FrameTime, Pictures, fraction, positive, time_base_of

__all__ = ["FrameBatch", "SourceInfo", "VideoSource"]


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What the header and the first frame say of a video.

    Args:
        time_base: of all pts and durations, in seconds.
        frames: as the container promises, None if it does not.
        start: pts of the first frame.
        duration: of the video stream in ``time_base`` units, None if unknown.
        sample_aspect_ratio: None where the stream does not say.
        tags: colours as tagged, nothing assumed.
    """

    path: Path
    container: str
    codec: str
    width: int
    height: int
    layout: PlaneLayout
    tags: ColorTags
    time_base: Fraction
    average_rate: Fraction | None
    frames: int | None
    start: int
    duration: int | None
    sample_aspect_ratio: Fraction | None


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Consecutive frames of one size.

    Args:
        planes: one (N, h, w) integer tensor a component.
        times: one for each of the N frames.
    """

    planes: tuple[Tensor, ...]
    times: tuple[FrameTime, ...]


class VideoSource:
    """One video file, opened; iterate over it once.

    Args:
        path: a file.
        start: the first frame at or after this is the first given.
        end: the first frame at or after this is no more given.
        strict: raise at the first frame that cannot be decoded.

    Raises:
        InputError: the file is missing, unreadable, or holds no video.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: TimePoint | None = None,
        end: TimePoint | None = None,
        strict: bool = False,
    ) -> None:
        self._path = path
        self._strict = strict
        self._start, self._end = start, end
        self.ended_early: str | None = None
        """Why reading stopped before the end of the file, if it did."""
        self._attach()
        try:
            self.info = self._probe()
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

    def seconds(self, pts: int) -> Fraction:
        """A pts as seconds after the first frame of the file."""
        return (pts - self.info.start) * self.info.time_base

    def items(self, batch: int, copied: frozenset[int]) -> Iterator[FrameBatch | AnyPacket]:
        """Give the frames in batches of ``batch`` (the last may be short), and between
        them the packets of the streams with an index in ``copied``.

        Raises:
            DecodeError: strict, and a frame cannot be decoded; or the picture size or
                format changes.
            InputError: the file can no longer be read.
        """
        waiting: list[tuple[tuple[Tensor, ...], FrameTime]] = []
        for item in self._select(copied):
            if isinstance(item, av.Packet):
                yield item
                continue
            waiting.append(item)
            if len(waiting) == batch:
                yield _batched(waiting)
                waiting = []
        if waiting:
            yield _batched(waiting)

    # The first frame is decoded once for what only frames tell, then again.

    def _probe(self) -> SourceInfo:
        with closing(self._decoded(frozenset())) as decoded:
            first = next(decoded, None)
        if first is None or isinstance(first, av.Packet):
            raise InputError(f"{self._path}: no frame can be decoded; is the file whole?")
        frame, time = first
        self._rewind()
        if planar_pix_fmt(frame.format.name) is None:
            raise InputError(
                f"{self._path}: pixel format {frame.format.name} is not supported; convert it to "
                "yuv420p, yuv444p or gbrp first"
            )
        layout, _ = frame_to_planes(frame)
        stream = self.stream
        return SourceInfo(
            path=self._path,
            container=self.container.format.name,
            codec=stream.codec_context.name,
            width=frame.width,
            height=frame.height,
            layout=layout,
            tags=_tags(frame),
            time_base=time_base_of(stream),
            average_rate=positive(stream.average_rate) or positive(stream.guessed_rate),
            frames=stream.frames or None,
            start=time.pts,
            duration=stream.duration or self._whole_duration(),
            sample_aspect_ratio=positive(stream.sample_aspect_ratio),
        )

    def _attach(self) -> None:
        self.container = _open(self._path)
        try:
            self.stream = _video_stream(self.container, self._path)
        except BaseException:
            self.container.close()
            raise
        # Frame threads would give errors of one packet at another one's call, and hide
        # which picture is lost; decoding the small video is not what takes time.
        self.stream.thread_type = "SLICE"
        # A damaged picture is worth more than none; it is counted and named.
        self.stream.codec_context.flags |= av.codec.context.Flags.output_corrupt

    def _whole_duration(self) -> int | None:
        """The file's duration for the stream's own, which Matroska does not tell."""
        if not self.container.duration:
            return None
        seconds = Fraction(self.container.duration, av.time_base)
        return round(seconds / time_base_of(self.stream))

    def _rewind(self) -> None:
        # Reopening is the only way back that works for every container.
        self.container.close()
        self._attach()

    def _select(
        self, copied: frozenset[int]
    ) -> Iterator[tuple[tuple[Tensor, ...], FrameTime] | AnyPacket]:
        """What lies between start and end, as planes."""
        info = self.info
        number = -1
        done = False
        sample: tuple[Tensor, ...] | None = None
        for item in self._decoded(copied):
            if isinstance(item, av.Packet):
                if self._packet_selected(item):
                    yield item
                elif done and self._packet_after(item, margin=5):
                    return
                continue
            if done:
                continue
            frame, time = item
            number += 1
            seconds = self.seconds(time.pts)
            if self._start is not None and not self._start.reached(seconds, number):
                continue
            if self._end is not None and self._end.reached(seconds, number):
                done = True
                if not copied:
                    return
                continue
            if time.repeated and sample is not None:
                yield sample, time
                continue
            if (frame.width, frame.height) != (info.width, info.height):
                raise DecodeError(
                    f"{self._path}: the picture size changes from {info.width}x{info.height} to "
                    f"{frame.width}x{frame.height} at {float(seconds):.3f} s; upscale the parts "
                    "one by one with --start and --end"
                )
            layout, sample = frame_to_planes(frame)
            if layout != info.layout:
                raise DecodeError(
                    f"{self._path}: the pixel format changes from {info.layout.pix_fmt} to "
                    f"{layout.pix_fmt} at {float(seconds):.3f} s; upscale the parts one by one "
                    "with --start and --end"
                )
            yield sample, time

    def _packet_selected(self, packet: AnyPacket) -> bool:
        """Whether any of a copied packet is heard between start and end."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:
            return True
        begin = stamp * fraction(packet.time_base) - self.info.start * self.info.time_base
        finish = begin + (packet.duration or 0) * fraction(packet.time_base)
        first, last = self.limits()
        return (first is None or finish > first) and (last is None or begin < last)

    def _packet_after(self, packet: AnyPacket, margin: int) -> bool:
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return False
        at = stamp * fraction(packet.time_base) - self.info.start * self.info.time_base
        last = self.limits()[1]
        return last is not None and at > last + margin

    def limits(self) -> tuple[Fraction | None, Fraction | None]:
        """Start and end in seconds after the first frame; frame numbers by the average rate."""
        return (self._limit(self._start), self._limit(self._end))

    def _limit(self, point: TimePoint | None) -> Fraction | None:
        if point is None:
            return None
        if point.seconds is not None:
            return point.seconds
        assert point.frame is not None
        rate = self.info.average_rate
        return point.frame / rate if rate else None

    def _decoded(
        self, copied: frozenset[int]
    ) -> Generator[tuple[av.VideoFrame, FrameTime] | AnyPacket]:
        """Every frame in order of presentation, lost ones repeated; packets to copy."""
        whole = self.container.format.name in _INDEXED
        pictures = Pictures(self._path, self.stream, strict=self._strict, whole=whole)
        wanted = [s for s in self.container.streams if s.index in copied or s is self.stream]
        packets = self.container.demux(wanted)
        seen = 0
        while True:
            try:
                packet = next(packets, None)
            except av.error.InvalidDataError as error:
                self._early(f"the data is broken ({error.strerror})")
                packet = None
            except OSError as error:
                raise InputError(
                    f"{self._path}: reading failed ({error.strerror}); is the disk or the network "
                    "still there?"
                ) from error
            if packet is None:
                # After an error no flush packet comes; decode None until it is empty.
                self._check_whole(seen)
                yield from pictures.finish()
                return
            if packet.stream is not self.stream:
                if packet.size:
                    yield packet
                continue
            seen += packet.size > 0
            yield from pictures.feed(packet)

    def _check_whole(self, packets: int) -> None:
        """MP4's index comes first or not at all: a file cut short may still promise more."""
        if self.ended_early is None and "mp4" in self.container.format.name:
            # The index, not the frame count: an edit list may leave pictures out.
            promised = len(self.stream.index_entries)
            if packets < promised:
                self._early(f"{promised - packets} of {promised} pictures are missing")

    def _early(self, reason: str) -> None:
        if self._strict:
            raise DecodeError(
                f"{self._path}: {reason}; leave out --strict to keep what came before"
            )
        self.ended_early = reason


# FFmpeg's demuxers of files that are written from a key frame on. Transport streams and
# bare elementary streams are recordings, which begin wherever somebody tuned in.
_INDEXED = frozenset({"avi", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "nut"})

# FFmpeg's demuxers that draw any text as pictures of characters.
_TEXT = frozenset({"adf", "bin", "idf", "tty", "xbin"})


def _open(path: Path) -> av.container.InputContainer:
    if not os.path.lexists(path):
        raise InputError(f"{path}: no such file; check the name")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a video file in it")
    try:
        if path.is_file():
            with path.open("rb") as file:
                empty = not file.read(1)
            if empty:
                raise InputError(f"{path} is empty; was it copied or downloaded completely?")
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); check the file") from error
    try:
        # Absolute and with the protocol spelled out: a name with a colon is a file too.
        container = av.open(f"file:{path.absolute()}")
    except (av.error.FFmpegError, ValueError) as error:
        # FFmpeg's demuxers give all sorts of errors for data that they do not understand.
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} cannot be read as a video ({reason}); is the file whole, and is it a video?"
        ) from error
    if container.format.name in _TEXT:
        container.close()
        raise InputError(f"{path} is text and no video; name a video file")
    return container


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    videos = [s for s in container.streams if isinstance(s, av.VideoStream)]
    pictures = [s for s in videos if s.disposition & Disposition.attached_pic]
    videos = [s for s in videos if s not in pictures]
    if not videos:
        kinds = sorted({s.type for s in container.streams if s not in pictures})
        if pictures:
            what = "only a cover picture" + (f" and {', '.join(kinds)}" if kinds else "")
        else:
            what = f"only {', '.join(kinds)}" if kinds else "no stream at all"
        raise InputError(f"{path} holds no video ({what}); name a file with a video stream")
    preferred = [s for s in videos if s.disposition & Disposition.default] or videos
    stream = preferred[0]
    try:
        known = stream.codec_context is not None and stream.codec_context.codec is not None
    except (av.error.FFmpegError, ValueError):
        known = False
    if not known:
        raise InputError(
            f"{path}: no decoder for its video codec here; convert it with a tool that has one"
        )
    return stream


def _tags(frame: av.VideoFrame) -> ColorTags:
    extent = {1: False, 2: True}.get(int(frame.color_range))
    if extent is None and frame.format.name.startswith("yuvj"):
        extent = True
    return ColorTags(
        matrix=int(frame.colorspace),
        full_range=extent,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        chroma_location=int(frame.chroma_location),
    )


def _batched(frames: list[tuple[tuple[Tensor, ...], FrameTime]]) -> FrameBatch:
    planes = zip(*(planes for planes, _ in frames), strict=True)
    return FrameBatch(
        planes=tuple(torch.stack(component) for component in planes),
        times=tuple(time for _, time in frames),
    )
