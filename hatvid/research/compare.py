"""Videos held against a reference, frame by frame: PSNR, SSIM, VMAF and flicker.

Measured is luma in codes of 8 bits, 16 for black to 235 for white, peak 255, as the papers
and FFmpeg have it; not cropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

import numpy as np

from hatvid.errors import InputError, OptionError
from hatvid.research.metrics import PEAK, SSIM_WINDOW, Luma, psnr, ssim
from hatvid.research.videos import Frame, Video, resized
from hatvid.research.vmaf import LEAST_SIDE, Vmaf, vmaf_is_here

__all__ = ["Comparison", "MEASURES", "Measure", "Measured", "compare_videos", "worst_frames"]

Measure = Literal["psnr", "ssim", "vmaf", "flicker"]
MEASURES: tuple[Measure, ...] = get_args(Measure)

_ASPECT = 0.02
"""By what part two shapes may differ and still be the same picture: odd sizes are padded."""


@dataclass(kw_only=True)
class Measured:
    """One video against the reference; a number for each frame in each list."""

    label: str
    """``A`` or ``B``."""

    psnr: list[float] = field(default_factory=list)
    """dB; infinite where nothing differs."""

    ssim: list[float] = field(default_factory=list)

    vmaf: list[float] = field(default_factory=list)
    """0 to 100; empty where it was not measured."""

    flicker: list[float] = field(default_factory=list)
    """Root mean square of what changed since the frame before and did not in the reference,
    or the reverse; in steps of 8 bits; 0 for the first frame. An error that stays as it
    is does not flicker."""

    def of(self, measure: Measure) -> list[float]:
        """The numbers of one measure."""
        values: list[float] = getattr(self, measure)
        return values

    @property
    def overall_psnr(self) -> float:
        """dB, of the mean squared error of all frames."""
        error = fmean(PEAK**2 * 10 ** (-value / 10) for value in self.psnr)
        return 10 * math.log10(PEAK**2 / error) if error else math.inf

    def summary(self) -> dict[Measure, float]:
        """One number for each measure that there is: :attr:`overall_psnr`, else means; of
        flicker without the first frame."""
        found: dict[Measure, float] = {"psnr": self.overall_psnr, "ssim": fmean(self.ssim)}
        if self.vmaf:
            found["vmaf"] = fmean(self.vmaf)
        found["flicker"] = fmean(self.flicker[1:] or self.flicker)
        return found


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was measured.

    Args:
        files: by label: A, B, and R if there is a reference of its own.
        sizes: (width, height) of each.
        width: at which was measured.
        height: likewise.
        measured: A and B against R, or B against A.
        reference: label of what they are held against.
        seconds: of each frame in the reference; None where it does not tell.
        notes: what was assumed or is odd, one line each.
    """

    files: dict[str, Path]
    sizes: dict[str, tuple[int, int]]
    width: int
    height: int
    measured: tuple[Measured, ...]
    reference: str
    seconds: tuple[float | None, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; a PSNR is None where nothing differs."""
        return {
            "files": {label: str(path) for label, path in self.files.items()},
            "sizes": {label: list(size) for label, size in self.sizes.items()},
            "measured_at": [self.width, self.height],
            "reference": self.reference,
            "notes": list(self.notes),
            "seconds": list(self.seconds),
            "videos": [
                {
                    "video": one.label,
                    "summary": {name: _finite(value) for name, value in one.summary().items()},
                    "frames": {
                        name: [_finite(value) for value in one.of(name)]
                        for name in MEASURES
                        if one.of(name)
                    },
                }
                for one in self.measured
            ],
        }

    def csv_lines(self) -> Iterator[tuple[str, ...]]:
        """A head, and a line for each frame of each video."""
        yield "video", "frame", "seconds", *MEASURES
        for one in self.measured:
            for number, seconds in enumerate(self.seconds):
                values = (one.of(name)[number : number + 1] for name in MEASURES)
                time = "" if seconds is None else f"{seconds:.6f}"
                yield (
                    one.label,
                    str(number),
                    time,
                    *("".join(f"{v:.6f}" for v in x) for x in values),
                )


def compare_videos(
    a: Path,
    b: Path,
    reference: Path | None = None,
    *,
    vmaf: bool = True,
    advanced: Callable[[int], None] = lambda frames: None,
) -> Comparison:
    """Measure B against A, or both against a reference.

    Frames are paired in their order, as far as the shortest video goes. All is measured
    at the reference's size; without one at the smaller of the two sizes, so that an
    enlargement is held against its source.

    Args:
        a: a video file.
        b: another.
        reference: what both should look like.
        vmaf: whether to measure it; without libvmaf, or in small pictures, it is left out.
        advanced: told how many frames more are done.

    Raises:
        InputError: a file cannot be read, or is too small for SSIM.
        OptionError: the pictures are not of one shape.
    """
    files = {"A": a, "B": b} | ({} if reference is None else {"R": reference})
    videos = {label: Video(path) for label, path in files.items()}
    against = "A" if reference is None else "R"
    height, width = _common_size(videos, against)
    notes = _size_notes(videos, height, width)
    if vmaf and not vmaf_is_here():
        notes.append("this build of FFmpeg has no libvmaf: VMAF is left out")
        vmaf = False
    if vmaf and min(height, width) < LEAST_SIDE:
        notes.append(f"VMAF needs {LEAST_SIDE} pixels along each side: it is left out")
        vmaf = False
    measured = {label: Measured(label=label) for label in "AB" if label != against}
    seconds: list[float | None] = []
    drift: tuple[int, str] | None = None
    with ExitStack() as stack:
        meters = {
            label: stack.enter_context(Vmaf(height, width)) for label in (measured if vmaf else ())
        }
        counted = _Counted(videos, videos[against].matrix)
        before: dict[str, Luma] = {}
        for frames in counted:
            now = {label: resized(frame.luma, height, width) for label, frame in frames.items()}
            for label, one in measured.items():
                _add(one, now, before, label, against)
                if vmaf:
                    meters[label].add(now[label], now[against])
            drift = drift or _drifted(frames, len(seconds), seconds, against)
            seconds.append(frames[against].seconds)
            before = now
            advanced(1)
        for label, meter in meters.items():
            measured[label].vmaf = meter.scores()
    if len(set(counted.counts.values())) > 1:
        told = ", ".join(f"{label} has {count}" for label, count in counted.counts.items())
        notes.append(
            f"the numbers of frames differ ({told}): the first {len(seconds)} are compared"
        )
    if drift is not None:
        notes.append(
            f"frame {drift[0]} is shown at another time in {drift[1]} than in {against}: frames "
            "are paired in their order, which may be wrong here"
        )
    return Comparison(
        files=files,
        sizes={label: (video.width, video.height) for label, video in videos.items()},
        width=width,
        height=height,
        measured=tuple(measured.values()),
        reference=against,
        seconds=tuple(seconds),
        notes=tuple(notes),
    )


def worst_frames(one: Measured, measure: Measure, count: int) -> list[int]:
    """The worst frames, worst first, not all out of one place.

    Args:
        one: what was measured.
        measure: by what.
        count: how many at most.
    """
    values = np.asarray(one.of(measure) or one.psnr)
    if measure == "flicker":
        values = -values
    apart = max(1, len(values) // (3 * count))
    found: list[int] = []
    for number in np.argsort(values, kind="stable").tolist():
        if len(found) < count and all(abs(number - other) >= apart for other in found):
            found.append(number)
    return found


class _Counted:
    """Frames of all videos in step, as far as the shortest goes; how many each has."""

    def __init__(self, videos: dict[str, Video], matrix: int) -> None:
        self._videos, self._matrix = videos, matrix
        self.counts = dict.fromkeys(videos, 0)

    def __iter__(self) -> Iterator[dict[str, Frame]]:
        streams = [video.frames(self._matrix) for video in self._videos.values()]
        for frames in zip_longest(*streams):
            for label, frame in zip(self._videos, frames, strict=True):
                self.counts[label] += frame is not None
            if all(frame is not None for frame in frames):
                yield dict(zip(self._videos, frames, strict=True))


def _add(
    one: Measured, now: dict[str, Luma], before: dict[str, Luma], label: str, against: str
) -> None:
    luma, ideal = now[label], now[against]
    one.psnr.append(psnr(luma, ideal))
    one.ssim.append(ssim(luma, ideal))
    flicker = 0.0
    if before:
        change = (luma - before[label]) - (ideal - before[against])
        flicker = math.sqrt(float(np.mean(change**2)))
    one.flicker.append(flicker)


def _drifted(
    frames: dict[str, Frame], number: int, seconds: Sequence[float | None], against: str
) -> tuple[int, str] | None:
    """The first frame that is more than half a frame early or late, and in which video."""
    known = [time for time in seconds if time is not None]
    mine = frames[against].seconds
    if len(known) < 1 or mine is None:
        return None
    length = min((b - a for a, b in pairwise([*known[-8:], mine]) if b > a), default=0.0)
    for label, frame in frames.items():
        if frame.seconds is not None and abs(frame.seconds - mine) > length / 2 > 0:
            return number, label
    return None


def _common_size(videos: dict[str, Video], against: str) -> tuple[int, int]:
    if against == "R":
        height, width = videos["R"].height, videos["R"].width
    else:
        height, width = min(
            ((video.height, video.width) for video in videos.values()),
            key=lambda size: size[0] * size[1],
        )
    for label, video in videos.items():
        if abs(video.width * height / (video.height * width) - 1) > _ASPECT + 1 / height:
            raise OptionError(
                f"{label} has {video.width}x{video.height} pixels, which is not the shape of "
                f"{width}x{height}; crop one of them first"
            )
    if min(height, width) < SSIM_WINDOW:
        raise InputError(
            f"{width}x{height} pixels are too few for SSIM; compare videos of at least "
            f"{SSIM_WINDOW}x{SSIM_WINDOW}"
        )
    return height, width


def _size_notes(videos: dict[str, Video], height: int, width: int) -> list[str]:
    notes = []
    for label, video in videos.items():
        if (video.height, video.width) != (height, width):
            way = "reduced" if video.height * video.width > height * width else "enlarged"
            notes.append(
                f"{label} is {way} from {video.width}x{video.height} to {width}x{height} for "
                "measuring (bicubic, antialiased)"
            )
    return notes


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
