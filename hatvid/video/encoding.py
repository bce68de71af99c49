"""Frames to packets: the encoder of the upscaled video, in the output that it is opened for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import torch
from av.codec.context import Flags
from av.container import OutputContainer
from torch import Tensor

from hatvid.video.color import ColorTags
from hatvid.video.containers import Container
from hatvid.video.device_frames import cuda_context
from hatvid.video.device_surfaces import surfaces_for
from hatvid.video.encoder_segments import clean_memory
from hatvid.video.encoder_trial import quiet
from hatvid.video.encoders import EncoderChoice
from hatvid.video.pictures import AnyPacket, FrameTime
from hatvid.video.sidedata import KINDS, bears, carried, carrying_options, frame_beside

__all__ = ["OutputFormat", "VideoEncoder", "library_versions"]

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


class VideoEncoder:
    """Encodes frames, with a stream of an output for what it makes of them.

    Args:
        output: gets a stream; its header is not written yet.
        form: of the frames and of what they become.
        device: where the planes will lie; None is main memory. Frames go to NVENC from
            there, to all other encoders through main memory.
        header: whether parameter sets lie beside the packets and not in them; None is as
            the output's container wants it.

    Raises:
        ValueError, av.error.FFmpegError: the encoder or the container refuses.
    """

    def __init__(
        self,
        output: OutputContainer,
        form: OutputFormat,
        device: torch.device | None = None,
        *,
        header: bool | None = None,
    ) -> None:
        self._format = form
        self._durations: dict[int, int] = {}
        self.frames = 0
        self.side_data_lost: Counter[str] = Counter()
        """Of how many frames the encoder does not write which kind of side data."""
        self.notes: list[str] = []
        rate = form.rate or _UNKNOWN_RATE
        # The source's clock, not the frame rate's: pts then pass through as integers.
        self._time_base = form.time_base if form.container.timed else 1 / rate
        codec = form.encoder.codec
        options = carrying_options(codec) | form.encoder.options
        options = clean_memory(codec, form.width, options)
        size = (form.width, form.height)
        self._surfaces = surfaces_for(codec, form.encoder.layout, options, size, device, self.notes)
        if self._surfaces is None:
            stream = output.add_stream(codec, rate=rate, options=options)
        else:
            with cuda_context(self._surfaces.device):
                hardware = self._surfaces.accelerator()
                stream = output.add_stream(codec, rate=rate, options=options, hwaccel=hardware)
        assert isinstance(stream, av.VideoStream)
        self.stream = stream
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
        context.flags |= Flags.frame_duration
        if header is True:
            context.flags |= Flags.global_header
        elif header is False:
            context.flags &= ~Flags.global_header
        if form.display_matrix is not None and form.container.rotates:
            stream.set_display_matrix(form.display_matrix)
        with quiet(codec):
            context.open()

    @property
    def on_device(self) -> bool:
        """Whether frames go to the encoder from a GPU's memory."""
        return self._surfaces is not None

    @property
    def extradata(self) -> bytes:
        """The parameter sets beside the packets, empty where there are none."""
        return self.stream.codec_context.extradata or b""

    def encode(
        self, planes: tuple[Tensor, ...], time: FrameTime, pts: int, carrier: av.VideoFrame | None
    ) -> list[AnyPacket]:
        """Encode one frame; what comes out meanwhile.

        Args:
            planes: one (h, w) tensor a component, on the CPU or complete on a GPU.
            time: in the source; its duration counts.
            pts: in the output, in units of the source's time base.
            carrier: see :class:`~hatvid.video.source.FrameBatch`.

        Raises:
            av.error.FFmpegError, OSError: the encoder fails.
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
        frame.time_base = self._time_base
        frame.color_range = 2 if tags.full_range else 1
        frame.colorspace = tags.matrix
        frame.color_primaries = tags.primaries
        frame.color_trc = tags.transfer
        frame.chroma_location = tags.chroma_location
        packets = self._timed(self.stream.encode(frame))
        self.frames += 1
        return packets

    def finish(self) -> list[AnyPacket]:
        """Drain the encoder; raises as :meth:`encode`."""
        packets = self.stream.encode(None)
        if self.frames < _X265_FRAMES and self._format.encoder.codec == "libx265":
            _decoded_in_turn(packets)
        return self._timed(packets)

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

    def _timed(self, packets: list[AnyPacket]) -> list[AnyPacket]:
        """Not every encoder hands a frame's duration on."""
        for packet in packets:
            if packet.pts is None:
                continue
            duration = self._durations.pop(packet.pts, 0)
            if self._surfaces is not None:
                self._surfaces.release(packet.pts)
            packet.duration = packet.duration or duration
        return packets


def _decoded_in_turn(packets: list[AnyPacket]) -> None:
    """Give all packets of a stream, in order of decoding, decoding times that rise."""
    shown = sorted(packet.pts for packet in packets if packet.pts is not None)
    late = max((at - (p.pts or 0) for at, p in zip(shown, packets, strict=True)), default=0)
    for packet, at in zip(packets, shown, strict=True):
        packet.dts = at - max(0, late)


def library_versions() -> str:
    """Of FFmpeg's libraries that read, decode and encode."""
    names = ("libavformat", "libavcodec", "libavfilter", "libswscale")
    numbers = {name: ".".join(map(str, av.library_versions[name])) for name in names}
    return " ".join(f"{name} {number}" for name, number in numbers.items())
