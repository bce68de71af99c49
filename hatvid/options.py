"""What a user may choose, as frozen dataclasses.

Each class checks its own values when it is made and raises
:class:`~hatvid.errors.OptionError`; what depends on a file or a model is checked
where that file or model is known. ``"auto"`` stays ``"auto"`` here: it is
resolved where the facts are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from hatvid.errors import OptionError

__all__ = [
    "EncodeOptions",
    "EngineName",
    "EngineOptions",
    "JobOptions",
    "Precision",
    "TileOptions",
    "TimePoint",
]

EngineName = Literal["auto", "eager", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

WINDOW = 16
"""Side of HAT's attention window in pixels: tiles lie on this grid."""

DEFAULT_OVERLAP = 32
DEFAULT_MODEL = "auto"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} {value!r} is not known; choose one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How the network is run."""

    engine: EngineName = "auto"
    """Which engine; ``auto`` takes the fastest that this machine can run."""

    precision: Precision = "auto"
    """What the engine computes in; ``auto`` takes the fastest that is safe."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

    threads: int | None = None
    """CPU threads for the network; None takes one for each core."""

    def __post_init__(self) -> None:
        _check_choice("engine", self.engine, get_args(EngineName))
        _check_choice("precision", self.precision, get_args(Precision))
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise OptionError(
                f"device {self.device!r} is not known; choose auto, cpu, cuda or cuda:N"
            )
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads is {self.threads}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """How a frame is cut before it reaches the network."""

    tile: int | Literal["auto"] = "auto"
    """Side of a tile in input pixels, a multiple of 16; 0 takes the whole frame
    as one tile; ``auto`` the largest that fits in memory."""

    overlap: int = DEFAULT_OVERLAP
    """Input pixels that neighbouring tiles share at least, blended in the output."""

    batch: int | Literal["auto"] = "auto"
    """Tiles in one call of the engine."""

    def __post_init__(self) -> None:
        if self.tile != "auto":
            if self.tile < 0 or self.tile % WINDOW:
                raise OptionError(
                    f"tile is {self.tile}; it must be 0 (whole frame), or a multiple of {WINDOW}"
                )
            if self.tile and self.overlap * 2 > self.tile:
                raise OptionError(
                    f"overlap is {self.overlap}; it must be at most half of tile ({self.tile})"
                )
        if self.overlap < 0:
            raise OptionError(f"overlap is {self.overlap}; it must be 0 or more")
        if self.batch != "auto" and self.batch < 1:
            raise OptionError(f"batch is {self.batch}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How the larger frames are encoded. None leaves the choice to hatvid."""

    codec: str | None = None
    """FFmpeg's name of the encoder, for example ``libx264``."""

    crf: float | None = None
    """Constant rate factor, for encoders that have one; lower is better."""

    preset: str | None = None
    """The encoder's preset, for example ``slow``."""

    pix_fmt: str | None = None
    """FFmpeg's name of the output pixel format; None keeps the input's depth and
    chroma subsampling where the encoder can."""

    encoder_options: Mapping[str, str] = field(default_factory=dict)
    """Passed to the encoder as they are."""

    def __post_init__(self) -> None:
        for name in ("codec", "preset", "pix_fmt"):
            if getattr(self, name) == "":
                raise OptionError(f"{name} is empty; name one, or leave it out")
        if self.crf is not None and not (math.isfinite(self.crf) and self.crf >= 0):
            raise OptionError(f"crf is {self.crf}; it must be 0 or more")


@dataclass(frozen=True)
class TimePoint:
    """A place on the input's time line: exact seconds, or a frame number.

    Exactly one of the two is set.
    """

    seconds: Fraction | None = None
    frame: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.frame is None):
            raise ValueError("a TimePoint is either seconds or a frame number")

    @classmethod
    def parse(cls, text: str) -> TimePoint:
        """Read ``12.5``, ``00:00:12.5`` (hours, minutes may be left out) or ``300f``.

        Raises:
            OptionError: the text is none of these.
        """
        if match := re.fullmatch(r"(\d+)f", text, re.ASCII):
            return cls(frame=int(match[1]))
        match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", text, re.ASCII)
        if match is None:
            raise OptionError(
                f"{text!r} is not a time; write seconds (12.5), a clock (00:00:12.5) "
                "or a frame number (300f)"
            )
        hours, minutes, seconds = match[1] or "0", match[2] or "0", Fraction(match[3])
        if (match[2] is not None and seconds >= 60) or (
            match[1] is not None and int(minutes) >= 60
        ):
            raise OptionError(f"{text!r} is not a time; minutes and seconds end at 59")
        return cls(seconds=int(hours) * 3600 + int(minutes) * 60 + seconds)

    def reached(self, seconds: Fraction, number: int) -> bool:
        """Whether a frame at ``seconds``, the ``number``-th from 0, is here or later."""
        if self.seconds is not None:
            return seconds >= self.seconds
        assert self.frame is not None
        return number >= self.frame

    def __str__(self) -> str:
        return f"{self.frame}f" if self.seconds is None else f"{float(self.seconds):g}s"


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """One video from file to file."""

    input: Path
    output: Path | None = None
    """None writes ``NAME_xS.EXT`` beside the input."""

    scale: int = 4
    model: str = DEFAULT_MODEL
    """A known name, the path of a checkpoint, or ``auto``: the embedded model of
    the asked scale."""

    engine: EngineOptions = EngineOptions()
    tile: TileOptions = TileOptions()
    encode: EncodeOptions = EncodeOptions()

    start: TimePoint | None = None
    """The first frame at or after this is the first of the output."""

    end: TimePoint | None = None
    """The first frame at or after this is no more in the output."""

    overwrite: bool = False
    strict: bool = False
    """Stop at a frame that cannot be decoded instead of repeating the one before."""

    def __post_init__(self) -> None:
        if self.scale not in (2, 3, 4):
            raise OptionError(f"scale is {self.scale}; choose 2, 3 or 4")
        if self.start and self.end:
            ends = (
                (self.start.seconds, self.end.seconds)
                if self.start.seconds is not None
                else (self.start.frame, self.end.frame)
            )
            if ends[0] is not None and ends[1] is not None and ends[1] <= ends[0]:
                raise OptionError(
                    f"end ({self.end}) is not after start ({self.start}): no frame is left"
                )
