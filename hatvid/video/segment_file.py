"""One segment of an upscaled video as a NUT file: packets with exact pts, nothing beside them.

NUT keeps no durations and no decoding times: those are noted beside the file, and made
anew for the whole video when segments are joined.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import torch
from av.format import ContainerFormat

from hatvid.errors import OutputError
from hatvid.video.batch import FrameBatch
from hatvid.video.containers import Container
from hatvid.video.encoding import OutputFormat, VideoEncoder
from hatvid.video.outfile import OutputFile
from hatvid.video.pictures import AnyPacket, fraction
from hatvid.video.refusal import write_error

__all__ = ["PACKET_ERRORS", "SegmentFacts", "SegmentWriter", "read_packets", "unfit"]

PACKET_ERRORS = (ValueError, av.error.FFmpegError, OSError, IndexError)
"""What reading a file that is no whole segment may raise."""

_MUXER = "nut"
_GLOBAL_HEADER = 0x40  # AVFMT_GLOBALHEADER


@dataclass(frozen=True, kw_only=True)
class SegmentFacts:
    """What a file does not tell of itself.

    Args:
        lead: what has to be taken from all times in it.
        times: (pts, duration) of each frame, in order of presentation.
        extradata: parameter sets beside the packets.
        side_data_lost: of how many frames the encoder did not write which kind.
    """

    lead: int
    times: tuple[tuple[int, int], ...]
    extradata: bytes
    side_data_lost: Counter[str]


class SegmentWriter:
    """Encodes the frames of one segment, beginning with an encoder of its own.

    Args:
        file: opened for writing; stays open.
        form: of the whole output; its container decides where parameter sets lie.
        shift: what is taken from every pts, in units of the source's time base.
        device: where the planes will lie.

    Raises:
        OutputError: the encoder refuses the format.
    """

    def __init__(
        self,
        file: BinaryIO,
        form: OutputFormat,
        *,
        shift: int,
        device: torch.device | None = None,
    ) -> None:
        self._format = form
        self._shift = shift
        self._file = OutputFile(file)
        self._lead: int | None = None
        self._times: list[tuple[int, int]] = []
        # Times are made anew: what is written here need not begin at zero.
        options = {"avoid_negative_ts": "disabled"}
        self._container = av.open(self._file, "w", format=_MUXER, container_options=options)
        try:
            header = _wants_header(form.container)
            self._encoder = VideoEncoder(self._container, form, device, header=header)
            self._container.start_encoding()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.abort()
            raise self._translated(error) from error

    @property
    def on_device(self) -> bool:
        """Whether the encoder takes planes where they lie in a GPU's memory."""
        return self._encoder.on_device

    @property
    def frames(self) -> int:
        """How many the encoder was given."""
        return self._encoder.frames

    def write(self, batch: FrameBatch) -> None:
        """Encode the frames of a batch; their planes may be overwritten when this returns.

        Raises:
            OutputError: the encoder failed, or the file cannot be written.
        """
        carriers = batch.carriers or (None,) * len(batch.times)
        try:
            for number, time in enumerate(batch.times):
                planes = tuple(plane[number] for plane in batch.planes)
                pts = time.pts - self._shift
                self._times.append((pts, time.duration))
                self._mux(self._encoder.encode(planes, time, pts, carriers[number]))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error) from error

    def finish(self) -> SegmentFacts:
        """Drain the encoder and write what ends the file.

        Raises:
            OutputError: as for :meth:`write`.
        """
        try:
            self._mux(self._encoder.finish())
            self._container.close()
            self._file.finish()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error) from error
        if self._file.error is not None:
            raise self._translated(self._file.error)
        return SegmentFacts(
            lead=self._lead or 0,
            times=tuple(self._times),
            extradata=self._encoder.extradata,
            side_data_lost=self._encoder.side_data_lost,
        )

    def abort(self) -> None:
        """Free the encoder; what was written is worth nothing."""
        self._file.discarding = True
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            self._container.close()

    def _mux(self, packets: list[AnyPacket]) -> None:
        for packet in packets:
            if packet.pts is None or packet.dts is None:
                raise ValueError("a packet without times")
            if self._lead is None:
                self._lead = max(0, -packet.dts)
            packet.pts += self._lead
            packet.dts += self._lead
            self._container.mux(packet)

    def _translated(self, error: Exception) -> OutputError:
        return write_error(error, self._format, failed=self._file.error)


def read_packets(path: Path, lead: int, time_base: Fraction) -> Iterator[AnyPacket]:
    """The packets of a segment's file, in order of decoding.

    They have a pts alone: dts and durations have to be set.

    Args:
        time_base: of the pts wanted: the format's that it was written with.
        lead: of its :class:`SegmentFacts`.

    Raises:
        Exception: one of :data:`PACKET_ERRORS`; it is not such a file.
    """
    options = {"protocol_whitelist": "file"}
    with av.open(f"file:{path.absolute()}", "r", format=_MUXER, container_options=options) as file:
        packets: Iterator[AnyPacket] = file.demux()
        for packet in packets:
            if not packet.size:
                continue
            if packet.pts is None:
                raise ValueError("a packet without a time")
            # NUT makes the clock finer where it can.
            stamp = packet.pts * fraction(packet.time_base) / time_base
            if stamp.denominator != 1:
                raise ValueError("a packet between two ticks")
            packet.dts, packet.duration = None, 0
            packet.pts, packet.time_base = stamp.numerator - lead, time_base
            yield packet


def unfit(form: OutputFormat) -> str | None:
    """Why segments of an output cannot be stored, None if they can.

    An encoder is opened, and closed again.
    """
    if not form.container.timed:
        return f"{form.container.muxer} holds no times"
    if form.encoder.layout.alpha and form.encoder.codec == "libvpx-vp9":
        return "libvpx-vp9 puts alpha beside its packets"
    try:
        SegmentWriter(io.BytesIO(), form, shift=0).abort()
    except OutputError as error:
        return str(error)
    return None


def _wants_header(container: Container) -> bool:
    return bool(ContainerFormat(container.muxer, "w").flags & _GLOBAL_HEADER)
