"""Encode, drain and mux: upscaled frames and copied packets become a file."""

from __future__ import annotations

import contextlib
import errno
import io
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av

from hatvid.errors import HatvidError, OutputError
from hatvid.video.color import ColorTags
from hatvid.video.containers import Container
from hatvid.video.convert import planes_to_frame
from hatvid.video.encoders import EncoderChoice
from hatvid.video.pictures import AnyPacket
from hatvid.video.source import FrameBatch, VideoSource
from hatvid.video.streams import StreamFate, copy_metadata, copy_streams, described

__all__ = ["OutputFormat", "VideoSink"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """What the encoder and the muxer are told.

    Args:
        width: of the output, in pixels.
        height: of the output, in pixels.
        tags: of the output, nothing unspecified that decides colour.
        time_base: of the frames' pts, in seconds.
        rate: average frame rate, a hint for the encoder's rate control.
        sample_aspect_ratio: None leaves it unspecified.
    """

    container: Container
    encoder: EncoderChoice
    width: int
    height: int
    tags: ColorTags
    time_base: Fraction
    rate: Fraction | None
    sample_aspect_ratio: Fraction | None


class VideoSink:
    """Writes one output file, into a binary file object that can seek.

    Args:
        file: opened for writing; stays open.
        form: what to write.
        source: whose other streams, tags and chapters are carried over.
        cut: the output begins or ends within the input: timestamps are moved so that
            the first frame is at 0.

    Raises:
        OutputError: the encoder or the container refuses the format.
    """

    def __init__(
        self, file: BinaryIO, form: OutputFormat, source: VideoSource, *, cut: bool = False
    ) -> None:
        self._file = _Watched(file)
        self._format = form
        self._offset: Fraction | None = None if cut else Fraction(0)
        self._early: list[AnyPacket] = []
        self.packets_copied: dict[int, int] = {}
        self.packets_moved: dict[int, int] = {}
        """Of those, how many had a time that went back and were moved after the last one."""
        self.packets_lost: dict[int, int] = {}
        """How many the container did not take."""
        self._last_dts: dict[int, int] = {}
        self.frames = 0
        self.notes: list[str] = []
        # By a file object and not by name: FFmpeg does not report what fails while it
        # closes a file of its own, so that a full disk would leave a short file unnoticed.
        self._container = av.open(self._file, "w", format=form.container.muxer)
        try:
            self._video = self._add_video()
            self._twins, fates = copy_streams(source.container, source.stream, self._container)
            self.fates: tuple[StreamFate, ...] = tuple(fates)
            self.notes += described(fates)
            self.notes += copy_metadata(source.container, self._container, cut=cut)
            self._video.metadata.update(source.stream.metadata)
            self._container.start_encoding()
        except HatvidError:
            self.abort()
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.abort()
            raise self._translated(error) from error

    @property
    def copied(self) -> frozenset[int]:
        """Indices of the input streams whose packets :meth:`write` takes."""
        return frozenset(self._twins)

    def write(self, item: FrameBatch | AnyPacket) -> None:
        """Encode the frames of a batch, or copy one packet.

        Raises:
            OutputError: the encoder failed, or the file cannot be written.
        """
        try:
            if isinstance(item, av.Packet):
                self._copy(item)
            else:
                self._encode(item)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error) from error

    def finish(self) -> None:
        """Drain the encoder and write what ends the file.

        Raises:
            OutputError: as for :meth:`write`.
        """
        try:
            self._early.clear()  # with no frame they belong to nothing
            for packet in self._video.encode(None):
                self._container.mux(packet)
            self._container.close()
            self._file.flush()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error) from error
        if self._file.error is not None:
            raise self._translated(self._file.error)

    def abort(self) -> None:
        """Free the encoder; what was written is worth nothing."""
        # The file is thrown away in any case.
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            self._container.close()

    def _add_video(self) -> av.VideoStream:
        form = self._format
        rate = form.rate or Fraction(25)
        stream = self._container.add_stream(
            form.encoder.codec, rate=rate, options=dict(form.encoder.options)
        )
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.width, context.height = form.width, form.height
        context.pix_fmt = form.encoder.layout.pix_fmt
        # The source's clock, not the frame rate's: pts then pass through as integers.
        context.time_base = form.time_base
        stream.time_base = form.time_base
        context.framerate = rate
        if form.sample_aspect_ratio is not None:
            context.sample_aspect_ratio = form.sample_aspect_ratio
        context.color_range = 2 if form.tags.full_range else 1
        context.colorspace = form.tags.matrix
        context.color_primaries = form.tags.primaries
        context.color_trc = form.tags.transfer
        context.chroma_sample_location = form.tags.chroma_location
        # Packets take their durations from the frames: the last one has no successor.
        context.flags |= av.codec.context.Flags.frame_duration
        context.open()
        return stream

    def _encode(self, batch: FrameBatch) -> None:
        tags = self._format.tags
        for number, time in enumerate(batch.times):
            if self._offset is None:
                self._offset = time.pts * self._format.time_base
                early, self._early = self._early, []
                for packet in early:
                    self._copy(packet)
            planes = tuple(plane[number] for plane in batch.planes)
            frame = planes_to_frame(planes, self._format.encoder.layout)
            frame.pts = time.pts - int(self._offset / self._format.time_base)
            frame.duration = time.duration
            frame.time_base = self._format.time_base
            frame.color_range = 2 if tags.full_range else 1
            frame.colorspace = tags.matrix
            frame.color_primaries = tags.primaries
            frame.color_trc = tags.transfer
            frame.chroma_location = tags.chroma_location
            for packet in self._video.encode(frame):
                self._container.mux(packet)
            self.frames += 1

    def _copy(self, packet: AnyPacket) -> None:
        if self._offset is None:
            self._early.append(packet)  # where the output begins is not known yet
            return
        index = packet.stream_index
        if self._offset:
            tick = Fraction(packet.time_base.numerator, packet.time_base.denominator)
            shift = round(self._offset / tick)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        packet.stream = self._twins[index]
        if not self._muxed(packet) and not self._muxed_later(packet, index):
            self.packets_lost[index] = self.packets_lost.get(index, 0) + 1
            return
        if packet.dts is not None:
            self._last_dts[index] = packet.dts
        self.packets_copied[index] = self.packets_copied.get(index, 0) + 1

    def _muxed(self, packet: AnyPacket) -> bool:
        """Give a copied packet to the muxer; False if it does not take this one."""
        try:
            self._container.mux(packet)
        except av.error.FFmpegError:
            if self._file.error is not None:
                raise
            return False
        return True

    def _muxed_later(self, packet: AnyPacket, index: int) -> bool:
        """Damaged files hold packets whose time goes back: try again after the last one."""
        last = self._last_dts.get(index)
        if last is None or packet.dts is None or packet.dts > last:
            return False
        packet.dts = last + 1
        packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        if not self._muxed(packet):
            return False
        self.packets_moved[index] = self.packets_moved.get(index, 0) + 1
        return True

    def _translated(self, error: Exception) -> OutputError:
        """What went wrong, in the user's terms."""
        form = self._format
        cause = self._file.error or error
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            return OutputError(
                f"no space left to write the output ({cause.strerror}); free some, or write "
                "elsewhere with -o"
            )
        if self._file.error is not None:
            return OutputError(f"the output cannot be written ({cause}); check its place")
        what = (
            f"{form.encoder.codec} in {form.container.muxer}, {form.width}x{form.height} "
            f"{form.encoder.layout.pix_fmt}"
        )
        reason = getattr(error, "strerror", None) or error
        log = getattr(error, "log", None)
        said = f"{reason}: {log[2].strip()}" if log and log[2].strip() else reason
        return OutputError(
            f"the encoder or the container refused ({what}: {said}); choose another --codec, "
            "--pix-fmt or container"
        )


class _Watched(io.RawIOBase):
    """A file that remembers the first error of writing it."""

    def __init__(self, file: BinaryIO) -> None:
        self._inner = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return self._inner.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        try:
            self._inner.flush()
        except OSError as error:
            self.error = self.error or error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._inner.seek(offset, whence)
        except OSError as error:
            self.error = self.error or error
            raise

    def tell(self) -> int:
        return self._inner.tell()

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True
