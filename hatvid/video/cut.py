"""What lies between ``--start`` and ``--end``: frames exactly, packets that touch them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction

from hatvid.selectors import TimePoint
from hatvid.video.pictures import AnyPacket, fraction

__all__ = ["Cut"]

# Packets that wait for the frame which decides on them, at most.
_WAITING = 4096


class Cut:
    """Chooses among frames and packets in file order. All times are seconds after the
    first frame of the file.

    The cut lies at frames: it begins with the first frame at or after ``start`` and ends
    before the first at or after ``end``. A packet is taken when any of it is heard between
    the two; until the deciding frame is there, it waits.

    Args:
        start: None takes all from the beginning.
        end: None takes all to the end.
    """

    def __init__(self, start: TimePoint | None, end: TimePoint | None) -> None:
        self._start, self._end = start, end
        self._now: Fraction | None = None
        self.frames = 0
        """How many were asked about."""
        self._waiting: deque[tuple[AnyPacket, Fraction, Fraction]] = deque()
        self._spans: dict[int, tuple[Fraction, Fraction]] = {}
        self.begun: Fraction | None = None
        """Time of the first frame taken."""
        self.ended: Fraction | None = None
        """Time of the first frame that is not taken any more."""

    def takes(self, seconds: Fraction) -> bool:
        """Whether the next frame, at ``seconds``, lies between start and end."""
        number, self._now = self.frames, seconds
        self.frames += 1
        if self._end is not None and self.ended is None:
            self.ended = seconds if self._end.reached(seconds, number) else None
        if self.ended is not None:
            return False
        if self.begun is None and (self._start is None or self._start.reached(seconds, number)):
            self.begun = seconds
        return self.begun is not None

    def add(self, packet: AnyPacket, origin: Fraction) -> None:
        """Take in a packet; ``origin`` is the time of the file's first frame."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        tick = fraction(packet.time_base)
        begin = origin if stamp is None else stamp * tick
        length = (packet.duration or 0) * tick
        self._waiting.append((packet, begin - origin, begin + length - origin))

    def packets(self, *, final: bool = False) -> Iterator[AnyPacket]:
        """The packets that are now known to be taken; after the last frame, ``final``."""
        undecided: deque[tuple[AnyPacket, Fraction, Fraction]] = deque()
        while self._waiting:
            packet, begin, finish = self._waiting.popleft()
            taken = self._verdict(begin, finish)
            if taken is None and (final or len(undecided) >= _WAITING):
                taken = self._guess(begin)
            if taken is None:
                undecided.append((packet, begin, finish))
            elif taken:
                first, last = self._spans.get(packet.stream_index, (begin, finish))
                self._spans[packet.stream_index] = (min(first, begin), max(last, finish))
                yield packet
        self._waiting = undecided

    def over(self, packet: AnyPacket, origin: Fraction, margin: int) -> bool:
        """Whether a packet lies so far behind the end that none to be taken follows it."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if self.ended is None or stamp is None:
            return False
        return stamp * fraction(packet.time_base) - origin > self.ended + margin

    def residue(self) -> dict[int, tuple[Fraction, Fraction]]:
        """By stream index: how long before the cut its first packet begins, and how long
        after the cut its last one ends, in seconds; 0 where there is no such cut."""
        found = {}
        for index, (first, last) in self._spans.items():
            before = after = Fraction(0)
            if self._start is not None and self.begun is not None:
                before = max(before, self.begun - first)
            if self.ended is not None:
                after = max(after, last - self.ended)
            found[index] = (before, after)
        return found

    def _verdict(self, begin: Fraction, finish: Fraction) -> bool | None:
        """Whether a packet is taken, None as long as that hangs on a frame to come."""
        if self._start is not None:
            known = self.begun if self.begun is not None else self._now
            if known is not None and finish <= known and begin < known:
                return False
            if self.begun is None:
                return None
        if self._end is None:
            return True
        if self.ended is not None:
            return begin < self.ended
        near = self._end.seconds if self._end.seconds is not None else self._now
        return True if near is not None and begin < near else None

    def _guess(self, begin: Fraction) -> bool:
        """For a packet that no frame decides on."""
        if self._start is not None and self.begun is None:
            return False
        return self._end is None or self._end.seconds is None or begin < self._end.seconds
