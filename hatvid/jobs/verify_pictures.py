"""Whether each output picture is its source picture, larger."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from fractions import Fraction
from statistics import median

from hatvid.jobs.checks import Check, few
from hatvid.video.compare import Likeness

__all__ = ["check_pictures"]

# Luma, in steps of 1/255 from black to white, squared, or in dB. A frame that is enlarged
# and reduced again differs by what the network and the encoder did to its finest detail; a
# wrong frame differs by more than all of its detail.
_FLOOR = 25.0
_BELOW_NEIGHBOURS = 10.0
_CEILING = 60.0
"""PSNR above this tells frames apart no more."""
_DETAIL = 1.5
_NEARER = 2.0
# At a low rate an encoder leaves out what hardly moves, and so shows the frame before: that
# is an error of its own only where it is visible, or where it is the rule.
_NOTICEABLE, _VISIBLE = 0.1, 2.0
_RULE = 0.25
_DRIFT = 4.0
_NEIGHBOURS = 4
_SHOWN = 5


class _Judgement:
    """Gathers what is wrong with which frame."""

    def __init__(self, tick: Fraction) -> None:
        self.tick = tick
        self.faults: list[tuple[int, str]] = []
        self.doubtful: list[tuple[int, str]] = []
        self.pts = array("q")
        self.psnr = array("d")
        self.errors = array("d")
        self.busy = array("d")

    def add(self, like: Likeness) -> None:
        self.pts.append(like.pts)
        self.psnr.append(min(like.psnr, 999.0))
        self.errors.append(like.error)
        self.busy.append(like.busy)
        nearer = like.nearest_error * _NEARER < like.error
        farther = like.error - like.nearest_error
        if nearer and farther > _NOTICEABLE:
            where = "before" if like.nearest < 0 else "after"
            fault = (like.pts, f"shows the frame {abs(like.nearest)} {where}")
            (self.faults if farther > _VISIBLE else self.doubtful).append(fault)
        elif like.flat:
            self._fault(like.pts, "is empty")
        elif like.drift > _DRIFT:
            self._fault(like.pts, f"is {like.drift:.0f} steps of 255 off in brightness")

    def conclude(self) -> None:
        if len(self.doubtful) > max(2, _RULE * len(self.pts)):
            self.faults += self.doubtful
        told = {pts for pts, _ in self.faults}
        for number, (pts, psnr) in enumerate(zip(self.pts, self.psnr, strict=True)):
            if pts in told or self.errors[number] <= _DETAIL * self.busy[number]:
                continue
            near = self.psnr[max(0, number - _NEIGHBOURS) : number + _NEIGHBOURS + 1]
            usual = median(min(value, _CEILING) for value in near)
            if psnr < _FLOOR or psnr < usual - _BELOW_NEIGHBOURS:
                self._fault(pts, f"is {psnr:.1f} dB, its neighbours {usual:.1f} dB")

    def _fault(self, pts: int, what: str) -> None:
        self.faults.append((pts, what))


def check_pictures(likenesses: Iterable[Likeness], tick: Fraction) -> Check:
    """Judge every compared frame.

    Args:
        likenesses: of the output's frames, in order.
        tick: of their pts, in seconds.
    """
    judgement = _Judgement(tick)
    for like in likenesses:
        judgement.add(like)
    judgement.conclude()
    count = len(judgement.pts)
    if not count:
        return Check(name="pictures", ok=False, text="no frame could be compared")
    worst = sorted(range(count), key=lambda n: judgement.psnr[n])[:_SHOWN]
    faults = sorted(judgement.faults)
    finite = [value for value in judgement.psnr if value < 999]
    details = {
        "compared": count,
        "lowest_psnr": _shown(judgement.psnr[worst[0]]),
        "median_psnr": _shown(median(judgement.psnr)),
        "worst": [
            {
                "pts": judgement.pts[n],
                "seconds": float(judgement.pts[n] * tick),
                "psnr": _shown(judgement.psnr[n]),
            }
            for n in worst
        ],
        "faults": [
            {"pts": pts, "seconds": float(pts * tick), "what": what} for pts, what in faults[:100]
        ],
    }
    if faults:
        listed = few((f"{float(pts * tick):.3f} s {what}" for pts, what in faults), 3)
        text = f"{len(faults)} of {count} frames are wrong: {listed}"
        return Check(name="pictures", ok=False, text=text, details=details)
    if not finite:
        text = f"{count} frames reduced to the source's size equal it"
    else:
        places = few(
            f"{float(judgement.pts[n] * tick):.3f} s {judgement.psnr[n]:.1f} dB" for n in worst[:3]
        )
        text = f"{count} frames, median {_db(median(judgement.psnr))}, worst {places}"
    return Check(name="pictures", ok=True, text=text, details=details)


def _shown(psnr: float) -> float | None:
    """JSON has no infinity."""
    return None if psnr >= 999 or math.isinf(psnr) else round(psnr, 2)


def _db(psnr: float) -> str:
    return "equal" if psnr >= 999 else f"{psnr:.1f} dB"
