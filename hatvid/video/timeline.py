"""One clock for a recording whose own clock jumps.

Two captures that were joined, or a counter of 33 bits that overflows (MPEG-TS and MPEG-PS,
ISO/IEC 13818-1: 26.5 hours), make the times of a file go back. From there on one offset
is added to the times of all streams, so that the video goes on by one frame's duration and
the sound stays with its pictures. Jumps forward are gaps of the recording and stay. A
single packet whose time lies far from its neighbours' is no jump: its time is taken away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import av

from hatvid.video.pictures import AnyPacket, fraction, positive

__all__ = ["Timeline"]

# Times that go back by less are repeated or unsteady ones, not another clock.
_BACK = Fraction(1, 4)
# Single packets that lie further ahead are looked at together with the next ones.
_AHEAD = Fraction(10)
# A stream that is far behind the video when the clock jumps changes over with it at last.
_LAG = Fraction(5)
_FOLLOWERS = 2
# What may wait until a jump is understood.
_HELD_PACKETS = 2000

_WRAP = Fraction(1 << 33, 90000)
_WRAPPING = frozenset({"mpegts", "mpegtsraw", "mpeg"})


class Timeline:
    """Rewrites the times of packets, in file order, where the clock jumps.

    Args:
        video: whose jumps count; other streams follow them.
        notes: takes a line for each jump.
    """

    def __init__(
        self, container: av.container.InputContainer, video: av.VideoStream, notes: list[str]
    ) -> None:
        self._video = video.index
        self._wraps = container.format.name in _WRAPPING
        self._notes = notes
        rate = positive(video.average_rate) or positive(video.guessed_rate)
        self._step = 1 / rate if rate else Fraction(1, 25)
        self._held: deque[AnyPacket] = deque()
        self._offsets = [Fraction(0)]
        self._joint: AnyPacket | None = None  # the first video packet of the newest offset
        self._epoch: dict[int, int] = {}  # which offset each stream goes by
        self._last: dict[int, Fraction] = {}  # dts by stream, in seconds, as given out
        self._video_end: Fraction | None = None
        self._joined_at = Fraction(0)

    def feed(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        """Take one packet, give those that are understood."""
        self._held.append(packet)
        yield from self._release(final=False)

    def finish(self) -> Iterator[AnyPacket]:
        """Give the rest."""
        yield from self._release(final=True)

    def _release(self, *, final: bool) -> Iterator[AnyPacket]:
        while self._held:
            ready = final or len(self._held) > _HELD_PACKETS
            head = self._held[0]
            if head.stream_index == self._video:
                known = self._understood(0, ready=ready)
            else:
                known = self._other_understood(head, ready=ready)
            if not known:
                return
            yield self._placed(self._held.popleft())

    def _understood(self, place: int, *, ready: bool) -> bool:
        """Settle what the held video packet at ``place`` means; False: more must be seen."""
        packet = self._held[place]
        if packet is self._joint:
            return True
        before = [p for p in list(self._held)[:place] if p.stream_index == self._video]
        last = self._seconds(before[-1]) if before else self._last.get(self._video)
        at = self._seconds(packet)
        if at is None or last is None or -_BACK <= at - last <= _AHEAD:
            return True
        after = [p for p in list(self._held)[place + 1 :] if p.stream_index == self._video]
        followers = [s for p in after if (s := self._seconds(p)) is not None][:_FOLLOWERS]
        if len(followers) < _FOLLOWERS and not ready:
            return False
        # The next ones go on from the last: this one alone is wrong.
        if not followers or any(-_BACK <= s - last <= _AHEAD for s in followers):
            packet.pts = packet.dts = None
        elif at < last:
            self._join(packet, at, last, before)
        return True

    def _other_understood(self, packet: AnyPacket, *, ready: bool) -> bool:
        """Whether it is known which clock a packet beside the video goes by."""
        at = self._seconds(packet)
        last = self._last.get(packet.stream_index)
        newest = len(self._offsets) - 1
        if (
            at is None
            or last is None
            or at - last >= -_BACK
            or self._epoch.get(packet.stream_index, 0) < newest
        ):
            return True
        # It goes back before the video does: the video decides.
        pictures = [n for n, p in enumerate(self._held) if p.stream_index == self._video]
        for place in pictures:
            if not self._understood(place, ready=ready):
                return False
            if len(self._offsets) - 1 > newest:
                return True
        begin = self._last.get(self._video)
        newer = [s for n in pictures if (s := self._seconds(self._held[n])) is not None]
        return ready or (begin is not None and bool(newer) and newer[-1] > begin + _LAG)

    def _join(
        self, packet: AnyPacket, at: Fraction, last: Fraction, before: list[AnyPacket]
    ) -> None:
        """From this video packet on another offset holds."""
        old = self._offsets[-1]
        if self._wraps and -_BACK <= at + _WRAP - last <= _AHEAD:
            self._offsets.append(old + _WRAP)
            self._notes.append(
                f"the clock of the recording starts again at {float(last):.3f} s (its counter is "
                "full): time goes on from there"
            )
        else:
            ends = [end for p in before if (end := self._end(p)) is not None]
            end = max([*ends, *filter(None, [self._video_end])], default=last + self._step)
            shown = (
                at
                if packet.pts is None
                else packet.pts * fraction(packet.time_base) + self._shift(packet)
            )
            self._offsets.append(old + end - shown)
            self._notes.append(
                f"the clock of the recording jumps back from {float(last):.3f} s to "
                f"{float(at):.3f} s: what follows is moved by {float(end - shown):.3f} s, all "
                "streams alike"
            )
        self._joined_at, self._joint = last, packet

    def _placed(self, packet: AnyPacket) -> AnyPacket:
        index = packet.stream_index
        self._epoch[index] = self._chosen(packet)
        shift = round(self._shift(packet) / fraction(packet.time_base))
        if shift:
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
        if packet.dts is not None:
            self._last[index] = packet.dts * fraction(packet.time_base)
        if index == self._video and packet.pts is not None:
            end = packet.pts * fraction(packet.time_base) + self._length(packet)
            self._video_end = end if self._video_end is None else max(end, self._video_end)
        return packet

    def _chosen(self, packet: AnyPacket) -> int:
        """Which offset a packet goes by: the video changes at the joint, others once they
        jump."""
        index, newest = packet.stream_index, len(self._offsets) - 1
        current = self._epoch.get(index, 0)
        if current == newest or packet is self._joint:
            return newest
        if index == self._video:
            return current
        at = self._seconds(packet)
        now = self._last.get(self._video, Fraction(0))
        if at is None:
            return current
        new = at + self._offsets[newest] - self._offsets[current]
        last = self._last.get(index)
        back = last is not None and at < last - _BACK
        nearer = abs(new - now) + 3 < abs(at - now)
        return newest if back or nearer or now > self._joined_at + _LAG else current

    def _seconds(self, packet: AnyPacket) -> Fraction | None:
        """A packet's dts by the offset that its stream goes by so far."""
        if packet.dts is None:
            return None
        return packet.dts * fraction(packet.time_base) + self._shift(packet)

    def _shift(self, packet: AnyPacket) -> Fraction:
        index = packet.stream_index
        offset = self._offsets[self._epoch.get(index, 0)]
        last = self._last.get(index, self._last.get(self._video))
        if not self._wraps or last is None or packet.dts is None:
            return offset
        # FFmpeg takes a time before the first one for an overflow, and adds one.
        at = packet.dts * fraction(packet.time_base) + offset
        return offset - _WRAP if at - last > _WRAP / 2 else offset

    def _end(self, packet: AnyPacket) -> Fraction | None:
        if packet.pts is None:
            return None
        return packet.pts * fraction(packet.time_base) + self._shift(packet) + self._length(packet)

    def _length(self, packet: AnyPacket) -> Fraction:
        return (packet.duration or 0) * fraction(packet.time_base) or self._step
