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

from hatvid.codepoints import CHROMA_LOCATIONS, MATRICES, PRIMARIES, RANGES, TRANSFERS
from hatvid.errors import OptionError
from hatvid.reuse_options import ReuseMode, ReuseOptions
from hatvid.segment_options import SegmentOptions
from hatvid.selectors import StreamSpecifier, TimePoint

__all__ = [
    "AnyEngineName",
    "ColorOptions",
    "EncodeOptions",
    "EngineName",
    "EngineOptions",
    "InputOptions",
    "JobOptions",
    "Kernel",
    "Layout",
    "Precision",
    "ReuseMode",
    "ReuseOptions",
    "ScriptOptions",
    "SegmentOptions",
    "SizeOptions",
    "StreamOptions",
    "TileOptions",
]

EngineName = Literal["auto", "eager", "openvino", "cudagraph", "tensorrt"]
"""What can be chosen."""

AnyEngineName = EngineName | Literal["replay"]
"""With the CPU's twin of ``cudagraph``, which is for tests of the way that a GPU takes."""
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Kernel = Literal["default", "efficient", "cudnn", "triton"]
Layout = Literal["cpu", "gpu"]

WINDOW = 16
"""Side of HAT's attention window in pixels: tiles lie on this grid."""

BEST_OVERLAP = 48
"""Input pixels; from there on seams are nearly gone (docs/quality.md)."""

MOST_STREAMS = 16

DEFAULT_MODEL = "auto"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} {value!r} is not known; choose one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How the network is run."""

    engine: AnyEngineName = "auto"
    """Which engine; ``auto`` takes the fastest that this machine can run."""

    precision: Precision = "auto"
    """What the engine computes in; ``auto`` takes the fastest that is safe."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

    threads: int | None = None
    """CPU threads for the network; None takes one for each core."""

    streams: int | Literal["auto"] = 1
    """Work done at the same time. On a GPU batches, each on a stream of its own, for frames
    too small to fill it; in engine ``openvino`` tiles of a batch, each by its share of the
    CPU's threads. ``auto`` is two in ``openvino``, where there are two threads and memory for
    two tiles, else one."""

    sharers: int = 1
    """How many of the kind run on this device at the same time, this one included: each
    counts on its part of the memory, and of the CPU's threads."""

    compiled: bool = False
    """Let torch.compile work on the network before it is recorded."""

    kernel: Kernel | Literal["auto"] = "auto"
    """Which kernel computes attention in layout ``gpu``; ``default`` is PyTorch's choice, ``auto``
    the fastest whose picture is right. One that is named is checked, and never replaced."""

    layout: Layout | Literal["auto"] = "auto"
    """How weights lie in memory. On a CPU ``gpu`` is for tests of what a GPU is given."""

    def __post_init__(self) -> None:
        if self.engine != "replay":
            _check_choice("engine", self.engine, get_args(EngineName))
        _check_choice("precision", self.precision, get_args(Precision))
        _check_choice("kernel", self.kernel, ("auto", *get_args(Kernel)))
        _check_choice("layout", self.layout, ("auto", *get_args(Layout)))
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise OptionError(
                f"device {self.device!r} is not known; choose auto, cpu, cuda or cuda:N"
            )
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads is {self.threads}; it must be at least 1")
        if self.sharers < 1:
            raise OptionError(f"sharers is {self.sharers}; it must be at least 1")
        if self.streams != "auto" and not 1 <= self.streams <= MOST_STREAMS:
            raise OptionError(f"streams is {self.streams}; choose 1 to {MOST_STREAMS}")


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """How a frame is cut before it reaches the network."""

    tile: int | Literal["auto"] = "auto"
    """Side of a tile in input pixels, a multiple of 16; 0 takes the whole frame
    as one tile; ``auto`` the largest that fits in memory."""

    overlap: int | Literal["auto"] = "auto"
    """Input pixels that neighbouring tiles share at least, blended in the output;
    ``auto`` is 48, or half of a tile that is small."""

    batch: int | Literal["auto"] = "auto"
    """Tiles in one call of the engine."""

    chunked: bool | None = None
    """Whether a whole frame goes through the network in chunks of windows; None decides by
    memory."""

    def __post_init__(self) -> None:
        if self.tile != "auto":
            if self.tile < 0 or self.tile % WINDOW:
                raise OptionError(
                    f"tile is {self.tile}; it must be 0 (whole frame), or a multiple of {WINDOW}"
                )
            if self.tile and self.overlap != "auto" and self.overlap * 2 > self.tile:
                raise OptionError(
                    f"overlap is {self.overlap}; it must be at most half of tile ({self.tile})"
                )
        if self.overlap != "auto" and self.overlap < 0:
            raise OptionError(f"overlap is {self.overlap}; it must be 0 or more")
        if self.batch != "auto" and self.batch < 1:
            raise OptionError(f"batch is {self.batch}; it must be at least 1")

    def overlap_for(self, tile: int) -> int:
        """Input pixels that tiles of one size share; ``tile`` 0 is the whole frame."""
        if self.overlap != "auto":
            return self.overlap
        return min(BEST_OVERLAP, tile // 2, tile - WINDOW) if tile else BEST_OVERLAP


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

    lossless: bool = False
    """Encode without loss; excludes ``crf``."""

    odd: Literal["pad", "refuse"] = "refuse"
    """What to do where the pixel format cannot hold an odd width or height: repeat the
    last column or row once, or refuse. Nothing is ever cropped."""

    def __post_init__(self) -> None:
        for name in ("codec", "preset", "pix_fmt"):
            if getattr(self, name) == "":
                raise OptionError(f"{name} is empty; name one, or leave it out")
        if self.crf is not None and not (math.isfinite(self.crf) and self.crf >= 0):
            raise OptionError(f"crf is {self.crf}; it must be 0 or more")
        if self.lossless and self.crf is not None:
            raise OptionError("lossless and crf exclude each other; leave one out")
        _check_choice("odd", self.odd, ("pad", "refuse"))


@dataclass(frozen=True, kw_only=True)
class ColorOptions:
    """What the input's colours mean, in place of what it says itself.

    Numbers are H.273 code points as FFmpeg numbers them; None believes the input.
    """

    matrix: int | None = None
    primaries: int | None = None
    transfer: int | None = None
    full_range: bool | None = None
    chroma_location: int | None = None
    """FFmpeg's AVChromaLocation: 1 left, 2 center, 3 topleft, ..."""

    @classmethod
    def named(
        cls,
        *,
        matrix: str | None,
        primaries: str | None,
        transfer: str | None,
        extent: str | None,
        chroma_location: str | None,
    ) -> ColorOptions:
        """By the names of :mod:`hatvid.codepoints`; ``extent`` is ``limited`` or ``full``.

        Raises:
            OptionError: a name is not known.
        """

        def code[T](what: str, table: dict[str, T], name: str | None) -> T | None:
            if name is not None:
                _check_choice(what, name, tuple(table))
            return None if name is None else table[name]

        return cls(
            matrix=code("matrix", MATRICES, matrix),
            primaries=code("primaries", PRIMARIES, primaries),
            transfer=code("transfer", TRANSFERS, transfer),
            full_range=code("range", RANGES, extent),
            chroma_location=code("chroma location", CHROMA_LOCATIONS, chroma_location),
        )


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How the input is read."""

    format: str | None = None
    """FFmpeg's name of the demuxer, where the data does not tell; ``rawvideo`` needs the
    next three."""

    video_size: tuple[int, int] | None = None
    """(width, height) of raw video, in pixels."""

    pixel_format: str | None = None
    """FFmpeg's name, of raw video."""

    framerate: Fraction | None = None
    """Frames a second, of raw video and numbered pictures."""

    colors: ColorOptions = ColorOptions()

    deinterlace: Literal["frame", "field"] | None = None
    """Make one picture of each frame, or one of each field (twice as many)."""

    progressive: bool = False
    """Take the frames as they are, whatever they say or look like."""

    hwaccel: str | None = None
    """FFmpeg's name of a hardware device to decode on (``cuda``, ``qsv``, ...)."""

    strict: bool = False
    """Stop at a frame that cannot be decoded instead of repeating the one before."""

    def __post_init__(self) -> None:
        raw = (self.video_size, self.pixel_format)
        if self.format == "rawvideo" and None in raw:
            raise OptionError(
                "raw video does not tell its shape; give --video-size WxH, --pixel-format and "
                "--framerate"
            )
        if self.video_size is not None and min(self.video_size) < 1:
            raise OptionError(f"video size is {self.video_size}; both must be at least 1")
        if self.framerate is not None and self.framerate <= 0:
            raise OptionError(f"framerate is {self.framerate}; it must be above 0")
        if self.deinterlace is not None:
            _check_choice("deinterlace", self.deinterlace, ("frame", "field"))
            if self.progressive:
                raise OptionError("deinterlace and progressive exclude each other; leave one out")


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """The output's size, where it is not just ``scale`` times the input's.

    One of the two keeps the aspect; both are taken as they are.
    """

    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """Which of the input's streams the output has beside the upscaled one."""

    audio: bool = True
    subtitles: bool = True
    map: tuple[StreamSpecifier, ...] = ()
    """Only these, in this order, as with FFmpeg's ``-map``; the first video stream among
    them is upscaled and further ones are copied. Empty takes all."""


@dataclass(frozen=True, kw_only=True)
class ScriptOptions:
    """How a VapourSynth script is run, where the input is one."""

    args: Mapping[str, str] = field(default_factory=dict)
    """Global names that the script finds, as with ``vspipe --arg``."""

    output_index: int = 0
    """Which of its outputs."""

    streams_from: Path | None = None
    """A file whose other streams, chapters and tags the output gets: the script's frames
    take the place of its video."""

    def __post_init__(self) -> None:
        if self.output_index < 0:
            raise OptionError(f"output index is {self.output_index}; it must be 0 or more")
        wrong = [name for name in self.args if not name.isidentifier() or name.startswith("__")]
        if wrong:
            raise OptionError(f"--arg {wrong[0]!r} is no name that a script could use")


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """One video from file to file."""

    input: Path
    """``-`` is standard input."""

    output: Path | None = None
    """None writes ``NAME_xS.EXT`` beside the input, ``-`` to standard output."""

    scale: int | None = None
    """None is 4, or the smallest embedded scale that reaches the asked size; a script's
    frames are left as they are."""

    model: str = DEFAULT_MODEL
    """A known name, the path of a checkpoint, or ``auto``: the embedded model of
    the asked scale."""

    engine: EngineOptions = EngineOptions()
    tile: TileOptions = TileOptions()
    reuse: ReuseOptions = field(default_factory=ReuseOptions)
    encode: EncodeOptions = EncodeOptions()
    reading: InputOptions = InputOptions()
    size: SizeOptions = SizeOptions()
    streams: StreamOptions = StreamOptions()
    script: ScriptOptions = ScriptOptions()
    segments: SegmentOptions = field(default_factory=SegmentOptions)

    start: TimePoint | None = None
    """The first frame at or after this is the first of the output."""

    end: TimePoint | None = None
    """The first frame at or after this is no more in the output."""

    format: str | None = None
    """What standard output gets; None is y4m."""

    overwrite: bool = False
    verify: Literal["full", "quick", "none"] = "full"
    """How the output is compared with the input in the end: all of it, all but the
    pictures, or not at all."""

    def __post_init__(self) -> None:
        _check_choice("verify", self.verify, ("full", "quick", "none"))
        if self.scale not in (None, 2, 3, 4):
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
