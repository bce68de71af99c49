"""The result of a race: what each contestant did, beside the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hatvid.bench.figures import Spread, ratio, shares

__all__ = ["Entry", "Lap", "RaceResult", "entries"]


@dataclass(frozen=True, kw_only=True)
class Lap:
    """What was measured of one contestant."""

    name: str
    side: str
    reason: str | None
    left_out: bool
    seconds: tuple[float, ...]
    """Of a frame, by round."""
    snr: float | None
    memory: int
    tried: tuple[Mapping[str, Any], ...]
    precision: str | None
    settings: Mapping[str, Any]
    start_seconds: float | None
    work: float | None
    """FLOPs of what it computes, where that is not the network."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the result."""

    name: str

    side: str
    """``ours``, ``rival`` or ``ceiling``."""

    status: str
    """``ran``, ``failed``, or ``left out``: it cannot run on this machine."""

    reason: str | None
    """Why it did not run; None if it did. What follows is then None or empty."""

    precision: str | None
    """What it computed in."""

    settings: Mapping[str, Any]

    tried: tuple[Mapping[str, Any], ...]
    """Settings that were tried before the race, with seconds a frame or the reason why not."""

    seconds: tuple[float, ...]
    """Of a frame (of a product, for a ceiling), by round."""

    spread: Spread | None
    """Of these."""

    fps: float | None
    """Frames a second, by the median."""

    flops_per_second: float | None
    """By the published network's FLOPs and the median."""

    share: float | None
    """Of what matrix products of the same precision reached in the same rounds."""

    snr: float | None
    """Against the published network in eager fp32, whole frames, in dB: the error of
    precision and, where there are tiles, of their seams. None for the reference itself."""

    exact: bool
    """Its output was the reference's to the last bit: no SNR is finite."""

    memory: int | None
    """The most bytes that its process had."""

    start_seconds: float | None
    """From the start of its process until it could take a frame."""

    ratios: Mapping[str, float]
    """By rival, how many times as long the rival takes."""


@dataclass(frozen=True, kw_only=True)
class RaceResult:
    """One race."""

    model: str

    trained: bool
    """Weights were a checkpoint's, and not drawn at random."""

    scale: int
    width: int
    height: int

    clip: str | None
    """What the frames were, if a clip's."""

    flops: float
    """Of the published network for one frame, padding excluded."""

    rounds: int

    entries: tuple[Entry, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values."""
        return asdict(self)

    @property
    def ours_ran(self) -> bool:
        """Whether any of hatvid's own ran."""
        return any(entry.side == "ours" and entry.status == "ran" for entry in self.entries)


def entries(laps: Sequence[Lap], flops: float) -> tuple[Entry, ...]:
    """Lines of a result.

    Args:
        laps: of all contestants; those that ran have as many rounds.
        flops: of the published network for one frame.
    """
    ran = [lap for lap in laps if lap.reason is None]
    ceilings = {lap.precision: lap for lap in ran if lap.side == "ceiling"}
    rivals = [lap for lap in ran if lap.side == "rival"]
    return tuple(_entry(lap, flops, ceilings, rivals) for lap in laps)


def _entry(
    lap: Lap, flops: float, ceilings: Mapping[str | None, Lap], rivals: Sequence[Lap]
) -> Entry:
    ran = lap.reason is None
    spread = Spread.of(lap.seconds) if ran else None
    work = flops if lap.work is None else lap.work
    ceiling = ceilings.get(lap.precision)
    share = None
    if ran and ceiling is not None and ceiling.work is not None and lap.side != "ceiling":
        share = shares(work, lap.seconds, ceiling.work, ceiling.seconds)
    status = "ran" if ran else "left out" if lap.left_out else "failed"
    return Entry(
        name=lap.name,
        side=lap.side,
        status=status,
        reason=lap.reason,
        precision=lap.precision,
        settings=lap.settings,
        tried=lap.tried,
        seconds=lap.seconds,
        spread=spread,
        fps=1 / spread.median if spread and lap.side != "ceiling" else None,
        flops_per_second=work / spread.median if spread else None,
        share=share,
        snr=lap.snr if lap.snr is not None and math.isfinite(lap.snr) else None,
        exact=lap.snr == math.inf,
        memory=lap.memory if ran else None,
        start_seconds=lap.start_seconds if ran else None,
        ratios={
            rival.name: ratio(rival.seconds, lap.seconds)
            for rival in rivals
            if ran and lap.side != "ceiling" and rival.name != lap.name
        },
    )
