"""The upscaled video's own stream: how it is encoded, tagged and timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import av
import torch
from av.container import OutputContainer
from av.stream import Disposition
from torch import Tensor

from hatvid.video.encoding import OutputFormat, VideoEncoder
from hatvid.video.pictures import AnyPacket, FrameTime
from hatvid.video.tags import MOV_FAMILY

__all__ = ["OutputFormat", "VideoTrack"]


class VideoTrack:
    """Gives frames to the encoder, and what it makes of them to the muxer.

    Args:
        output: its header is not written yet.
        form: of the frames and of what they become.
        tags: of the stream.
        disposition: of the stream.
        device: see :class:`~hatvid.video.encoding.VideoEncoder`.

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
        self._held: AnyPacket | None = None
        self._decoded_from = 0
        self._begins: int | None = None
        self._latest: int | None = None
        self._ends: int | None = None
        self._last_dts = -1
        self._copied = 0
        self._encoder = VideoEncoder(output, form, device)
        self._stream = self._encoder.stream
        self.notes = self._encoder.notes
        self._stream.metadata.update(tags)
        self._stream.disposition = disposition

    @property
    def on_device(self) -> bool:
        """Whether frames go to the encoder from a GPU's memory."""
        return self._encoder.on_device

    @property
    def extradata(self) -> bytes:
        """What the header of the output has beside the packets."""
        return self._encoder.extradata

    @property
    def frames(self) -> int:
        """How many the encoder was given, or were copied."""
        return self._encoder.frames + self._copied

    @property
    def side_data_lost(self) -> Counter[str]:
        """Of how many frames the encoder does not write which kind of side data."""
        return self._encoder.side_data_lost

    def encode(
        self, planes: tuple[Tensor, ...], time: FrameTime, pts: int, carrier: av.VideoFrame | None
    ) -> None:
        """Encode one frame; see :meth:`~hatvid.video.encoding.VideoEncoder.encode`.

        Raises:
            av.error.FFmpegError, OSError: the encoder fails, or the file.
        """
        number = self._encoder.frames
        packets = self._encoder.encode(planes, time, pts, carrier)
        timed = self._format.container.timed
        self._shown(pts if timed else number, time.duration if timed else 1)
        self._mux(packets)

    def copy(self, packet: AnyPacket) -> None:
        """Mux what an encoder of the same kind has made, its times the output's.

        Raises:
            av.error.FFmpegError, OSError: the file fails.
        """
        assert packet.pts is not None
        self._shown(packet.pts, packet.duration or 0)
        packet.stream = self._stream
        self._mux([packet])
        self._copied += 1

    def finish(self) -> None:
        """Drain the encoder; raises as :meth:`encode`."""
        if not self._copied:
            self._mux(self._encoder.finish())
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
            shown = self._ends - (self._begins or 0)
            packet.duration = max(1, shown - (packet.dts - self._decoded_from))
        self._mux_one(packet)

    def _shown(self, pts: int, duration: int) -> None:
        """A frame is shown from ``pts`` on, its end unknown where ``duration`` is 0."""
        self._begins = pts if self._begins is None else min(pts, self._begins)
        if self._latest is None or pts > self._latest:
            self._latest = pts
            self._ends = pts + duration if duration > 0 else None

    def _mux(self, packets: Iterable[AnyPacket]) -> None:
        """Mux all but the last: what is said of that one hangs on what follows."""
        for packet in packets:
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
