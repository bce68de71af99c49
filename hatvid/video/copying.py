"""Packets of the streams beside the video, on their way into the output."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import av
from av.container import OutputContainer

from hatvid.video.pictures import AnyPacket, fraction
from hatvid.video.twins import Twin

__all__ = ["PacketCopier"]

# Single bad times are repaired; a stream that stays behind would be squeezed into no time.
_REPAIRS = 8


class PacketCopier:
    """Gives packets to the muxer, moved in time, and counts what becomes of them.

    Args:
        container: the output, its header written.
        twins: by index of the input stream, what takes its packets.
        before_zero: the container holds packets that begin before time zero.
        broken: whether an error of the muxer means that the file cannot be written.
    """

    def __init__(
        self,
        container: OutputContainer,
        twins: dict[int, Twin],
        *,
        before_zero: bool,
        broken: Callable[[], bool],
    ) -> None:
        self._container = container
        self._twins = twins
        self._before_zero = before_zero
        self._broken = broken
        self._last_dts: dict[int, Fraction] = {}
        self._in_a_row: dict[int, int] = {}
        self.copied: dict[int, int] = {}
        self.moved: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.early: dict[int, int] = {}

    def copy(self, packet: AnyPacket, offset: Fraction) -> None:
        """Mux a packet ``offset`` seconds earlier than it says.

        Raises:
            OSError: the file cannot be written.
        """
        index = packet.stream_index
        shift = round(offset / fraction(packet.time_base))
        if shift:
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        lost = self._twins[index].lost
        made = self._twins[index].packets(packet)
        self._count(self.lost, index, self._twins[index].lost - lost)
        for item in made:
            self._mux(item, index)

    def finish(self) -> None:
        """Mux what the twins hold back."""
        for index, twin in self._twins.items():
            for item in twin.finish():
                self._mux(item, index)

    def _mux(self, packet: AnyPacket, index: int) -> None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if not self._before_zero and stamp is not None and stamp < 0:
            # The muxer would move all times instead, the video's too.
            self._count(self.early, index)
        elif self._muxed(packet, index):
            self._in_a_row[index] = 0
            self._count(self.copied, index)
        elif self._muxed_later(packet, index):
            self._count(self.moved, index)
            self._count(self.copied, index)
        else:
            self._count(self.lost, index)

    def _muxed(self, packet: AnyPacket, index: int) -> bool:
        """Give a packet to the muxer; False if it does not take this one."""
        try:
            self._container.mux(packet)  # which also puts it on the output's clock
        except av.error.FFmpegError:
            if self._broken():
                raise
            return False
        if packet.dts is not None:
            self._last_dts[index] = packet.dts * fraction(packet.time_base)
        return True

    def _muxed_later(self, packet: AnyPacket, index: int) -> bool:
        """Damaged files hold packets whose time goes back: try again after the last one."""
        last = self._last_dts.get(index)
        tick = fraction(packet.time_base)
        repairs = self._in_a_row.get(index, 0) + 1
        if last is None or packet.dts is None or packet.dts * tick > last or repairs > _REPAIRS:
            return False
        packet.dts = int(last / tick) + 1
        packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        self._in_a_row[index] = repairs
        return self._muxed(packet, index)

    @staticmethod
    def _count(counts: dict[int, int], index: int, number: int = 1) -> None:
        if number:
            counts[index] = counts.get(index, 0) + number
