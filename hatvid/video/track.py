"""The upscaled video's own stream: how it is encoded, tagged and timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import torch
from av.container import OutputContainer
from av.stream import Disposition
from torch import Tensor

from hatvid.video.color import ColorTags
from hatvid.video.containers import Container
from hatvid.video.device_frames import cuda_context
from hatvid.video.device_surfaces import surfaces_for
from hatvid.video.encoder_trial import quiet
from hatvid.video.encoders import EncoderChoice
from hatvid.video.pictures import AnyPacket, FrameTime
from hatvid.video.sidedata import KINDS, bears, carried, carrying_options, frame_beside
from hatvid.video.tags import MOV_FAMILY

__all__ = ["OutputFormat", "VideoTrack"]

_UNKNOWN_RATE = Fraction(25)

# Of fewer, x265's first decoding time is what happened to lie in memory.
_X265_FRAMES = 3


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """What the encoder and the muxer are told.

    Args:
        width: of the output, in pixels.
        height: of the output, in pixels.
        tags: of the output, nothing unspecified that decides colour.
        time_base: of the frames' pts, in seconds.
        rate: average frame rate: a hint for the encoder's rate control, and the only rate
            there is where the container holds no times.
        sample_aspect_ratio: None leaves it unspecified.
        display_matrix: the source's, nine integers as in ISO/IEC 14496-12, section 6.2.2;
            None where it has none.
    """

    container: Container
    encoder: EncoderChoice
    width: int
    height: int
    tags: ColorTags
    time_base: Fraction
    rate: Fraction | None
    sample_aspect_ratio: Fraction | None
    display_matrix: tuple[int, ...] | None = None


class VideoTrack:
    """Gives frames to the encoder, and what it makes of them to the muxer.

    Args:
        output: its header is not written yet.
        form: of the frames and of what they become.
        tags: of the stream.
        disposition: of the stream.
        device: where the planes will lie; None is main memory. Frames go to NVENC from
            there, to all other encoders through main memory.

    Raises:
        ValueError, av.error.FFmpegError: the encoder or the container refuses.
    """

    def __init__(
        self,
        output: OutputContainer,
        form: OutputFormat,
        tags: dict[str, str],
        disposition: Disposition,
        device: torch.device | None = None,
    ) -> None:
        self._output = output
        self._format = form
        self._durations: dict[int, int] = {}
        self._held: AnyPacket | None = None
        self._decoded_from = 0
        self._begins = 0
        self._ends: int | None = None
        self._last_dts = -1
        self.frames = 0
        self.side_data_lost: Counter[str] = Counter()
        """Of how many frames the encoder does not write which kind of side data."""
        self.notes: list[str] = []
        rate = form.rate or _UNKNOWN_RATE
        # The source's clock, not the frame rate's: pts then pass through as integers.
        self._time_base = form.time_base if form.container.timed else 1 / rate
        codec = form.encoder.codec
        options = carrying_options(codec) | form.encoder.options
        size = (form.width, form.height)
        self._surfaces = surfaces_for(codec, form.encoder.layout, options, size, device, self.notes)
        if self._surfaces is None:
            stream = output.add_stream(codec, rate=rate, options=options)
        else:
            with cuda_context(self._surfaces.device):
                hardware = self._surfaces.accelerator()
                stream = output.add_stream(codec, rate=rate, options=options, hwaccel=hardware)
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        context = stream.codec_context
        context.width, context.height = form.width, form.height
        context.pix_fmt = form.encoder.layout.pix_fmt
        if self._surfaces is not None:
            context.sw_format = self._surfaces.pix_fmt
        context.time_base = self._time_base
        stream.time_base = self._time_base
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
        if form.display_matrix is not None and form.container.rotates:
            stream.set_display_matrix(form.display_matrix)
        with quiet(codec):
            context.open()
        stream.metadata.update(tags)
        stream.disposition = disposition

    @property
    def on_device(self) -> bool:
        """Whether frames go to the encoder from a GPU's memory."""
        return self._surfaces is not None

    def encode(
        self, planes: tuple[Tensor, ...], time: FrameTime, pts: int, carrier: av.VideoFrame | None
    ) -> None:
        """Encode one frame.

        Args:
            planes: one (h, w) tensor a component, on the CPU or complete on a GPU.
            time: in the source; its duration counts.
            pts: in the output, in units of the source's time base.
            carrier: see :class:`~hatvid.video.source.FrameBatch`.

        Raises:
            av.error.FFmpegError, OSError: the encoder fails, or the file.
        """
        codec, tags = self._format.encoder.codec, self._format.tags
        timed = self._format.container.timed
        stamp, duration = (pts, time.duration) if timed else (self.frames, 1)
        frame = self._frame(planes, stamp, carrier)
        if carrier is not None:
            kept = {kind.name for kind in frame.side_data if carried(codec, kind.name)}
            there = {kind.name for kind in carrier.side_data}
            self.side_data_lost.update({KINDS[name] for name in there & KINDS.keys() - kept})
        frame.pts, frame.duration = stamp, duration
        if frame.duration > 0:
            self._durations[frame.pts] = frame.duration
        if self.frames == 0:
            self._begins = frame.pts
        self._ends = frame.pts + frame.duration if frame.duration > 0 else None
        frame.time_base = self._time_base
        frame.color_range = 2 if tags.full_range else 1
        frame.colorspace = tags.matrix
        frame.color_primaries = tags.primaries
        frame.color_trc = tags.transfer
        frame.chroma_location = tags.chroma_location
        self._mux(self._stream.encode(frame))
        self.frames += 1

    def _frame(
        self, planes: tuple[Tensor, ...], pts: int, carrier: av.VideoFrame | None
    ) -> av.VideoFrame:
        codec, layout = self._format.encoder.codec, self._format.encoder.layout
        if self._surfaces is not None:
            if not bears(carrier, codec):
                return self._surfaces.frame(planes, pts)
            # PyAV puts side data on frames in main memory alone, and then uploads them.
            layout = replace(layout, pix_fmt=self._surfaces.pix_fmt)
        return frame_beside(carrier, tuple(plane.cpu() for plane in planes), layout, codec)

    def finish(self) -> None:
        """Drain the encoder; raises as :meth:`encode`."""
        packets = self._stream.encode(None)
        if self.frames < _X265_FRAMES and self._format.encoder.codec == "libx265":
            _decoded_in_turn(packets)
        self._mux(packets)
        packet, self._held = self._held, None
        if packet is None:
            return
        if (
            self._format.container.muxer in MOV_FAMILY
            and self._ends is not None
            and packet.dts is not None
        ):
            # There a sample lasts until the next one's decoding time; with B-frames the
            # last one decoded is not the last one shown. Their sum is to be right.
            shown = self._ends - self._begins
            packet.duration = max(1, shown - (packet.dts - self._decoded_from))
        self._mux_one(packet)

    def _mux(self, packets: Iterable[AnyPacket]) -> None:
        """Mux all but the last: what is said of that one hangs on what follows."""
        for packet in packets:
            # Not every encoder hands a frame's duration on.
            duration = self._durations.pop(packet.pts, 0) if packet.pts is not None else 0
            if self._surfaces is not None and packet.pts is not None:
                self._surfaces.release(packet.pts)
            packet.duration = packet.duration or duration
            if self._held is None:
                self._decoded_from = packet.dts or 0
            else:
                self._mux_one(self._held)
            self._held = packet

    def _mux_one(self, packet: AnyPacket) -> None:
        if not self._format.container.before_zero and packet.dts is not None:
            # B-frames are decoded before zero in a video that begins there, for which the
            # muxer would move all times. Decoding times need only rise, up to the pts.
            packet.rescale_ts(self._stream.time_base)
            packet.dts = self._last_dts = max(packet.dts, self._last_dts + 1)
        self._output.mux(packet)


def _decoded_in_turn(packets: list[AnyPacket]) -> None:
    """Give all packets of a stream, in order of decoding, decoding times that rise."""
    shown = sorted(packet.pts for packet in packets if packet.pts is not None)
    late = max((at - (p.pts or 0) for at, p in zip(shown, packets, strict=True)), default=0)
    for packet, at in zip(packets, shown, strict=True):
        packet.dts = at - max(0, late)
