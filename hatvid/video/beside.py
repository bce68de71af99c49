"""Packets of all streams but the video, between two times, without decoding the video."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from hatvid.options import InputOptions, StreamOptions
from hatvid.selectors import TimePoint
from hatvid.video.cut import Cut
from hatvid.video.opening import choose_video, open_input
from hatvid.video.pictures import AnyPacket, fraction, time_base_of
from hatvid.video.scan import Packets, Scan

__all__ = ["Beside", "seconds_of"]


class Beside:
    """The packets that a :class:`~hatvid.video.source.VideoSource` of the same arguments gives
    between its frames; iterate once.

    Args:
        path: a file.
        scan: of it.
        origin: pts of the first frame of the file, in the scan's time base.
        start: the first frame at or after this is the first of the output.
        end: the first frame at or after this is no more in the output.
        copied: indices of the streams.
    """

    def __init__(
        self,
        path: Path,
        scan: Scan,
        origin: int,
        *,
        reading: InputOptions,
        streams: StreamOptions,
        start: TimePoint | None,
        end: TimePoint | None,
        copied: frozenset[int],
    ) -> None:
        self._path = path
        self._tick = scan.time_base
        self._origin = origin
        self._shown = iter([pts for pts in scan.pts if pts >= origin])
        self._early = len(scan.pts) - sum(pts >= origin for pts in scan.pts)
        self._reading = reading
        self._streams = streams
        self._cut = Cut(start, end)
        self._copied = copied

    @property
    def residue(self) -> dict[int, tuple[Fraction, Fraction]]:
        """As :attr:`~hatvid.video.source.VideoSource.residue`."""
        found = self._cut.residue()
        return {index: found[index] for index in sorted(found.keys() & self._copied)}

    def __iter__(self) -> Iterator[AnyPacket]:
        """Yield each packet, in file order.

        Raises:
            InputError: the file can no longer be read.
        """
        if not self._copied:
            return
        with open_input(self._path, self._reading) as container:
            video = choose_video(container, self._path, self._streams.map)
            assert time_base_of(video) == self._tick
            origin = self._origin * self._tick
            for packet in Packets(self._path, container, video, strict=False, notes=[]):
                if packet.stream is not video:
                    if packet.stream_index in self._copied:
                        self._cut.add(packet, origin)
                elif not packet.is_discard:
                    self._picture()
                yield from self._cut.packets()
            while self._picture():
                pass
            yield from self._cut.packets(final=True)

    def _picture(self) -> bool:
        """About one frame is presented for each packet; which, the scan tells."""
        if self._early:  # those before the first frame that can be decoded
            self._early -= 1
            return True
        pts = next(self._shown, None)
        if pts is None or self._cut.ended is not None:
            return False
        self._cut.takes((pts - self._origin) * self._tick)
        return True


def seconds_of(packet: AnyPacket) -> Fraction | None:
    """When a packet is due, None where it does not say."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    return None if stamp is None else stamp * fraction(packet.time_base)
