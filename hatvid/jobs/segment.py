"""Segments: parts of one video that are encoded each by itself; the unit of work everywhere."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Segment", "plan_segments", "spans", "start_key"]

_PREROLL = 4
"""Frames that are decoded before the first of a segment, at least: deinterlacing looks at one
of them."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A presentation range: it owns the frames whose pts lie in it.

    Args:
        number: from 0, in order of presentation.
        first: pts of its first frame.
        end: pts of the first frame behind it, which the next one owns; None is the end of
            the video.
        frames: that it owns, as packets promise them.
    """

    number: int
    first: int
    end: int | None
    frames: int

    def owns(self, pts: int) -> bool:
        """Whether a frame of this pts belongs to it."""
        return self.first <= pts and (self.end is None or pts < self.end)


def plan_segments(
    pts: Sequence[int], key_frames: Sequence[int], length: int, *, end: int | None = None
) -> tuple[Segment, ...]:
    """Cut a video into segments near one length.

    Each begins at the key frame nearest to where the length would have it, among those
    within half a length of that; where there is none it begins at any frame. What is left
    at the end, if it is shorter than half a length, belongs to the last one.

    Args:
        pts: of all frames, rising.
        key_frames: pts of those that can be decoded by themselves, rising.
        length: wanted, in the same unit; at least 1.
        end: pts of the first frame that is left out, if the video goes on behind them.

    Returns:
        At least one; together they own every frame once.
    """
    firsts = [pts[0]]
    while True:
        wanted = firsts[-1] + length
        begin = _nearest(key_frames, wanted, length // 2)
        if begin is None:
            at = bisect_left(pts, wanted)
            begin = pts[at] if at < len(pts) else None
        if begin is None or begin > pts[-1] or pts[-1] - begin < length // 2:
            break
        firsts.append(begin)
    places = [bisect_left(pts, first) for first in firsts] + [len(pts)]
    ends: list[int | None] = [*firsts[1:], end]
    return tuple(
        Segment(
            number=number,
            first=first,
            end=ends[number],
            frames=places[number + 1] - places[number],
        )
        for number, first in enumerate(firsts)
    )


def start_key(pts: Sequence[int], key_frames: Sequence[int], first: int) -> int | None:
    """The key frame to decode from, so that all from ``first`` on is as in a whole decode.

    It is the one before the last at or before ``first``: pictures that refer back over a
    key frame (open GOPs, intra refresh) then have what they refer to.

    Returns:
        None where decoding begins with the file.
    """
    place = bisect_left(key_frames, first + 1) - 2
    while place >= 0:
        if bisect_left(pts, first) - bisect_left(pts, key_frames[place]) >= _PREROLL:
            return key_frames[place]
        place -= 1
    return None


def spans(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments that follow one another, put together: each list is read in one go."""
    found: list[list[Segment]] = []
    for segment in segments:
        if found and found[-1][-1].number + 1 == segment.number:
            found[-1].append(segment)
        else:
            found.append([segment])
    return found


def _nearest(key_frames: Sequence[int], wanted: int, reach: int) -> int | None:
    at = bisect_left(key_frames, wanted)
    near = [key for key in key_frames[max(0, at - 1) : at + 1] if abs(key - wanted) <= reach]
    return min(near, key=lambda key: abs(key - wanted), default=None)
