"""Whether the output's frames are the input's: as many, at the same times, as long."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from hatvid.jobs.checks import Check, few
from hatvid.selectors import TimePoint
from hatvid.video.compare import Presented
from hatvid.video.inventory import NO_PTS, Inventory

__all__ = ["Clock", "Pairing", "Timeline", "check_durations", "check_times", "pair", "timeline"]

# Demuxers of containers whose clock is their own, whatever the source's is.
_COARSE = frozenset({"matroska,webm", "mpegts", "flv", "avi", "yuv4mpegpipe", "image2"})
# Of containers that move all times together, so that none lies before zero.
_MOVED = frozenset({"mpegts", "flv", "nut", "yuv4mpegpipe", "image2"})
# Of containers that tell the duration of a frame; elsewhere FFmpeg guesses it.
_TELL_DURATIONS = ("matroska", "mov")


@dataclass(frozen=True, kw_only=True)
class Clock:
    """From the input's times to the output's.

    Args:
        origin: what is time zero of the output, in seconds of the input.
        moved: what the container adds to all times, in seconds.
        may_move: whether it may.
        coarse: the container cannot keep the source's clock.
    """

    origin: Fraction = Fraction(0)
    moved: Fraction = Fraction(0)
    may_move: bool
    coarse: bool

    def ticks(self, seconds: Fraction, tick: Fraction) -> tuple[int, bool]:
        """A time of the input in ticks of the output, and whether it is exact.

        Rounded to the nearest, halves away from zero, as FFmpeg rescales.
        """
        exact = (seconds - self.origin) / tick
        if exact.denominator == 1:
            return exact.numerator, True
        doubled = 2 * abs(exact) + 1
        nearest = doubled.numerator // (2 * doubled.denominator)
        return (nearest if exact >= 0 else -nearest), False


@dataclass(kw_only=True)
class Timeline:
    """The frames that the output must have.

    Args:
        tick: seconds a unit of ``pts``.
        pts: of each frame; NO_PTS where any time between its neighbours will do.
        numbers: of the input's decoded frames; -1 for one that cannot be decoded.
        durations: in ticks, 0 where the input does not tell.
        doubtful: pts that the output may have or not.
        start: seconds of the input at which its first frame is shown.
    """

    tick: Fraction
    pts: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    doubtful: frozenset[int] = frozenset()
    lost: int = 0
    start: Fraction = Fraction(0)

    def seconds(self, position: int) -> Fraction:
        return self.pts[position] * self.tick


def timeline(
    shown: Presented,
    tick: Fraction,
    *,
    start: TimePoint | None = None,
    end: TimePoint | None = None,
    fields: bool = False,
) -> Timeline:
    """What the input presents between two points, in order.

    Args:
        shown: the input's frames.
        tick: of their times.
        start: the first frame at or after this is the first.
        end: the first frame at or after this is no more wanted.
        fields: each frame becomes two, the second halfway to the next frame.
    """
    order = _in_order(shown)
    first = next((pts for pts, _, _ in order if pts != NO_PTS), 0)
    line = Timeline(tick=tick, doubtful=shown.doubtful, start=first * tick)
    for position, (pts, number, duration) in enumerate(order):
        seconds = (pts - first) * tick
        if start is not None and not start.reached(seconds, position):
            continue
        if end is not None and end.reached(seconds, position):
            break
        line.pts.append(pts)
        line.numbers.append(number)
        line.durations.append(duration)
        line.lost += number < 0
    return _doubled(line) if fields else line


def _in_order(shown: Presented) -> list[tuple[int, int, int]]:
    order: list[tuple[int, int, int]] = []
    lost = list(shown.lost)
    last = NO_PTS
    for number, (pts, duration) in enumerate(zip(shown.pts, shown.durations, strict=True)):
        while lost and pts != NO_PTS and lost[0] < pts:
            order.append((lost.pop(0), -1, 0))
        rising = pts != NO_PTS and pts > last
        order.append((pts if rising else NO_PTS, number, duration))
        last = max(last, pts)
    return order + [(pts, -1, 0) for pts in lost]


def _doubled(line: Timeline) -> Timeline:
    """Frames as fields, in half ticks."""
    double = Timeline(tick=line.tick / 2, lost=2 * line.lost, start=line.start)
    for position, (pts, number) in enumerate(zip(line.pts, line.numbers, strict=True)):
        after = line.pts[position + 1] if position + 1 < len(line.pts) else NO_PTS
        half = pts + after if NO_PTS not in (pts, after) else NO_PTS
        double.pts.extend((NO_PTS if pts == NO_PTS else 2 * pts, half))
        double.numbers.extend((number, number))
        double.durations.extend((0, 0))
    return double


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Which output frame is which frame of the timeline.

    Args:
        clock: between the two.
        pairs: (position in the timeline, output pts, expected output pts or None where
            any time will do), in order.
        missing: positions that the output lacks.
        extra: pts that only the output has.
        rounded: how many times were rounded.
        unheld: how many were rounded although the output's clock need not have been coarser.
    """

    clock: Clock
    pairs: list[tuple[int, int, int | None]]
    missing: list[int]
    extra: list[int]
    rounded: int
    unheld: int


def pair(line: Timeline, output: Inventory, *, cut: bool) -> Pairing:
    """Find each frame of the timeline in the output, by its time."""
    video = output.stream(output.video)
    found = sorted(video.pts)
    known = next((n for n, pts in enumerate(line.pts) if pts != NO_PTS), None)
    clock = Clock(
        origin=line.seconds(known) if cut and known is not None else Fraction(0),
        # No container holds a picture before zero.
        may_move=output.container in _MOVED or (known is not None and line.pts[known] < 0),
        coarse=output.container in _COARSE,
    )
    wanted: list[int | None] = []
    inexact = 0
    for position, stamp in enumerate(line.pts):
        at, exact = clock.ticks(line.seconds(position), video.time_base)
        inexact += stamp != NO_PTS and not exact
        wanted.append(None if stamp == NO_PTS else at)
    moved = 0
    if clock.may_move and found and known is not None and wanted[known] is not None:
        moved = found[min(known, len(found) - 1)] - (wanted[known] or 0)
        wanted = [None if at is None else at + moved for at in wanted]
        clock = Clock(
            origin=clock.origin, moved=moved * video.time_base, may_move=True, coarse=clock.coarse
        )
    there = set(found)
    positions = [
        n
        for n, when in enumerate(wanted)
        if line.pts[n] not in line.doubtful or line.numbers[n] >= 0 or when in there
    ]
    missing: list[int] = []
    extra: list[int] = []
    if len(positions) == len(found):
        pairs = [(n, pts, wanted[n]) for n, pts in zip(positions, found, strict=True)]
    else:
        by_time = {wanted[n]: n for n in positions if wanted[n] is not None}
        pairs = [(by_time[pts], pts, pts) for pts in found if pts in by_time]
        matched = {n for n, _, _ in pairs}
        missing = [n for n in positions if n not in matched]
        extra = [pts for pts in found if pts not in by_time]
    return Pairing(
        clock=clock,
        pairs=pairs,
        missing=missing,
        extra=extra,
        rounded=inexact,
        unheld=0 if clock.coarse else inexact,
    )


def check_times(line: Timeline, pairing: Pairing, tick: Fraction) -> Check:
    """Whether every frame is shown when it should be."""
    wrong = [
        (position, pts, wanted)
        for position, pts, wanted in pairing.pairs
        if wanted is not None and pts != wanted
    ]
    details = {
        "compared": len(pairing.pairs),
        "different": len(wrong),
        "rounded": pairing.rounded,
        "moved_seconds": float(pairing.clock.moved),
        "first_different": [
            {"frame": position, "pts": pts, "expected": wanted, "time_base": str(tick)}
            for position, pts, wanted in wrong[:8]
        ],
    }
    if pairing.extra and pairing.missing:
        at = few((f"{float(pts * tick):.6f} s" for pts in pairing.extra), 3)
        text = f"{len(pairing.extra)} frames at times that the input does not have: {at}"
        return Check(name="times", ok=False, text=text, details=details)
    if wrong:
        position, pts, wanted = wrong[0]
        assert wanted is not None
        text = (
            f"{len(wrong)} of {len(pairing.pairs)} differ, the first at frame {position}: pts "
            f"{pts} ({float(pts * tick):.6f} s) in place of {wanted} ({float(wanted * tick):.6f} s)"
        )
        return Check(name="times", ok=False, text=text, details=details)
    if pairing.unheld:
        text = f"the output's clock of {tick} s is too coarse for {pairing.unheld} of the times"
        return Check(name="times", ok=False, text=text, details=details)
    text = f"{len(pairing.pairs)} pts equal"
    if pairing.rounded:
        text += f", {pairing.rounded} of them rounded once to {tick} s"
    if pairing.clock.origin != 0:
        text += f", counted from {float(pairing.clock.origin):.6f} s of the input"
    if pairing.clock.moved:
        text += f", all streams moved by {float(pairing.clock.moved):.6f} s"
    return Check(name="times", ok=True, text=text, details=details)


def check_durations(
    line: Timeline, pairing: Pairing, source: Inventory, output: Inventory
) -> Check | None:
    """Whether frames last as long, the last one above all; None where a file does not tell."""
    if (
        not (_tells(source) and _tells(output))
        or line.tick != source.stream(source.video).time_base
    ):
        return None
    video = output.stream(output.video)
    lengths = dict(zip(video.pts, video.durations, strict=True))
    # Matroska often tells one duration for all frames, which FFmpeg cuts to its clock.
    rough = pairing.clock.coarse or source.container.startswith("matroska")
    allowed = max(line.tick, video.time_base) if rough else Fraction(0)
    # MP4 tells how long a sample is decoded, which only without reordering, and at the
    # very end, is how long its frame is shown. Only Matroska tells it of every frame.
    every = output.container.startswith("matroska") and not _reordered(source)
    final = len(line.pts) - 1
    compared, wrong = 0, []
    for position, pts, _ in pairing.pairs:
        if not (every or (position == final and _tells_last(source) and _tells_last(output))):
            continue
        before, after = line.durations[position] * line.tick, lengths[pts] * video.time_base
        if not before or not after:
            continue
        compared += 1
        if abs(before - after) > allowed:
            wrong.append((position, before, after))
    if not compared:
        return None
    details = {"compared": compared, "different": len(wrong)}
    if not wrong:
        text = f"{compared} equal" if compared > 1 else "the last frame lasts as long"
        return Check(name="durations", ok=True, text=text, details=details)
    position, before, after = wrong[0]
    place = "the last frame" if position == final else f"frame {position}"
    text = (
        f"{len(wrong)} differ: {place} lasts {float(after):.6f} s in place of {float(before):.6f} s"
    )
    return Check(name="durations", ok=False, text=text, details=details)


def _tells(file: Inventory) -> bool:
    return file.container.startswith(_TELL_DURATIONS)


def _reordered(file: Inventory) -> bool:
    stamps = file.stream(file.video).pts
    return file.container.startswith("mov") and any(
        after < before for before, after in pairwise(stamps)
    )


def _tells_last(file: Inventory) -> bool:
    stamps = file.stream(file.video).pts
    return not file.container.startswith("mov") or (len(stamps) > 0 and stamps[-1] == max(stamps))
