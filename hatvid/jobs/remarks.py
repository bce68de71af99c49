"""What a job met on its way without stopping, in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from hatvid.jobs.pipeline import Sink
from hatvid.jobs.receipt import MendedPlace
from hatvid.jobs.records import Record
from hatvid.reuse import Reused
from hatvid.upscaler import MendedTile
from hatvid.video.batch import FrameBatch
from hatvid.video.source_info import SourceInfo

__all__ = ["Met", "Told", "mended_place", "remarks"]


class Told(Protocol):
    """What a source tells in the end: a :class:`~hatvid.video.source.VideoSource` does."""

    info: SourceInfo

    @property
    def residue(self) -> dict[int, tuple[Fraction, Fraction]]: ...

    @property
    def ended_early(self) -> str | None: ...


@dataclass
class Met:
    """What was met with frames, so far.

    Args:
        repeated: seconds of frames that could not be decoded and show the picture before.
        damaged: seconds of frames that the decoder marked as corrupt.
        moved: seconds of frames whose pts was missing or did not rise.
        mended: tiles that were computed again in fp32.
        frames: upscaled.
        reused: of their tiles, those that were not computed.
    """

    repeated: list[float] = field(default_factory=list)
    damaged: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    mended: list[MendedPlace] = field(default_factory=list)
    frames: int = 0
    reused: Reused = field(default_factory=Reused)

    def count(self, info: SourceInfo, batch: FrameBatch, reused: Reused) -> None:
        """A batch was upscaled."""
        for stamp in batch.times:
            seconds = _seconds(info, stamp.pts)
            if stamp.repeated:
                self.repeated.append(seconds)
            if stamp.damaged:
                self.damaged.append(seconds)
            if stamp.moved:
                self.moved.append(seconds)
        self.frames += len(batch.times)
        self.reused += reused

    def mend(self, info: SourceInfo, batch: FrameBatch, tile: MendedTile) -> None:
        """A tile of a batch was computed again."""
        self.mended.append(mended_place(info, batch, tile))

    def add(self, record: Record) -> None:
        """A segment was done, in whatever run."""
        self.repeated += record.repeated
        self.damaged += record.damaged
        self.moved += record.moved
        self.mended += record.mended
        self.frames += len(record.times)
        self.reused += record.reused


def mended_place(info: SourceInfo, batch: FrameBatch, tile: MendedTile) -> MendedPlace:
    """Where in the video a tile lies."""
    return MendedPlace(
        seconds=_seconds(info, batch.times[tile.frame].pts),
        left=tile.left,
        top=tile.top,
        width=tile.width,
        height=tile.height,
    )


def remarks(source: Told, sink: Sink, met: Met, *, cut: bool) -> list[str]:
    """One line for each kind of thing that was met.

    Args:
        cut: the output is a part of the input.
    """
    notes: list[str] = []
    if met.repeated:
        notes.append(
            f"{_counted(met.repeated)} could not be decoded: the picture before stands "
            f"there, at {_places(met.repeated)}"
        )
    if met.damaged:
        notes.append(f"{_counted(met.damaged)} came out damaged, at {_places(met.damaged)}")
    if met.moved:
        notes.append(
            f"{_counted(met.moved)} had no timestamp or one that did not rise, at "
            f"{_places(met.moved)}: moved"
        )
    if met.mended:
        places = sorted({place.seconds for place in met.mended})
        notes.append(
            f"{len(met.mended)} tile{'s' * (len(met.mended) != 1)} of {_counted(places)} ran "
            f"out of range: computed again in fp32, at {_places(places)}"
        )
    for index, count in sink.packets_moved.items():
        notes.append(
            f"stream {index}: {count} packets had a time that went back and were moved "
            "after the one before"
        )
    for index, count in sink.packets_lost.items():
        notes.append(f"stream {index}: {count} damaged packets are dropped")
    for index, count in sink.packets_early.items():
        notes.append(
            f"stream {index}: {count} packets begin before time zero, which the container "
            "does not hold, and are dropped"
        )
    said = source.info.hdr.dynamic if source.info.hdr is not None else ()
    for kind, count in sink.side_data_lost.items():
        if kind not in said:
            notes.append(f"dropped, as the encoder does not write it: {kind} (of {count} frames)")
    residue = source.residue if cut else {}
    for index, (before, after) in residue.items():
        notes.append(
            f"stream {index} is cut between packets: it begins {float(before):.4f} s before "
            f"the first frame and ends {float(after):.4f} s after the last"
        )
    if source.ended_early:
        promised = source.info.frames
        of = f" of {promised} promised" if promised else ""
        notes.append(
            f"the input ends early after {met.frames} frames{of}: {source.ended_early}; look "
            "for a whole copy"
        )
    return notes


def _seconds(info: SourceInfo, pts: int) -> float:
    return round(float(info.seconds(pts)), 6)


def _counted(seconds: list[float]) -> str:
    return f"{len(seconds)} frame{'s' * (len(seconds) != 1)}"


def _places(seconds: list[float]) -> str:
    shown = ", ".join(f"{at:.3f} s" for at in seconds[:8])
    return shown + (f" and {len(seconds) - 8} more" if len(seconds) > 8 else "")
