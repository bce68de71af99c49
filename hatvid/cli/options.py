"""Options that several commands share, and the kinds of values they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import reduce
from typing import Any, get_args

import click

from hatvid.codepoints import CHROMA_LOCATIONS, MATRICES, PRIMARIES, RANGES, TRANSFERS
from hatvid.errors import OptionError
from hatvid.options import (
    DEFAULT_MODEL,
    ColorOptions,
    EncodeOptions,
    EngineName,
    EngineOptions,
    InputOptions,
    Precision,
    SizeOptions,
    StreamOptions,
    TileOptions,
)
from hatvid.selectors import StreamSpecifier, TimePoint

__all__ = [
    "KeyValue",
    "Named",
    "NumberOrAuto",
    "Rate",
    "Size",
    "Specifier",
    "Time",
    "encode_options",
    "engine_options",
    "given_encoding",
    "given_engine",
    "given_reading",
    "given_size",
    "given_streams",
    "given_tiles",
    "model_options",
    "reading_options",
    "size_options",
    "stream_options",
    "together",
]


class _Parsed[T](click.ParamType[T]):
    """A value that a function reads from text, saying by OptionError what is wrong."""

    parse: Callable[[str], T]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            return type(self).parse(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)


class NumberOrAuto(_Parsed[int | str]):
    """A whole number, or the word auto."""

    name = "N|auto"

    @staticmethod
    def parse(text: str) -> int | str:
        if text == "auto":
            return "auto"
        try:
            return int(text)
        except ValueError:
            raise OptionError(f"{text!r} is neither a whole number nor auto") from None


class Time(_Parsed[TimePoint]):
    """A place on the input's time line."""

    name = "TIME"
    parse = staticmethod(TimePoint.parse)


class Specifier(_Parsed[StreamSpecifier]):
    """Streams of the input."""

    name = "STREAM"
    parse = staticmethod(StreamSpecifier.parse)


class KeyValue(_Parsed[tuple[str, str]]):
    """``K=V``."""

    name = "K=V"

    @staticmethod
    def parse(text: str) -> tuple[str, str]:
        key, equals, rest = text.partition("=")
        if not (key and equals):
            raise OptionError(f"{text!r} is not of the form K=V")
        return key, rest


class Size(_Parsed[tuple[int, int]]):
    """``WxH``."""

    name = "WxH"

    @staticmethod
    def parse(text: str) -> tuple[int, int]:
        width, times, height = text.lower().partition("x")
        if not (times and width.isascii() and width.isdigit() and height.isdigit()):
            raise OptionError(f"{text!r} is no size; write it as 1920x1080")
        return int(width), int(height)


class Rate(_Parsed[Fraction]):
    """Frames a second, as a number or a ratio."""

    name = "FPS"

    @staticmethod
    def parse(text: str) -> Fraction:
        try:
            return Fraction(text)
        except (ValueError, ZeroDivisionError):
            raise OptionError(f"{text!r} is no frame rate; write 25 or 30000/1001") from None


class Named[T](click.ParamType[T]):
    """One of the names in a table."""

    name = "NAME"

    def __init__(self, table: Mapping[str, T]) -> None:
        self._table = table

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        if value.lower() not in self._table:
            self.fail(f"{value!r} is not one of {', '.join(self._table)}", param, ctx)
        return self._table[value.lower()]


type _Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def together(*options: _Decorator) -> _Decorator:
    """Several options as one decorator, shown in this order."""
    return lambda function: reduce(lambda inner, option: option(inner), reversed(options), function)


model_options = together(
    click.option(
        "--model",
        default=DEFAULT_MODEL,
        show_default=True,
        metavar="NAME|PATH",
        help="A known name, or a checkpoint; auto: the embedded one of that scale.",
    ),
)

engine_options = together(
    click.option(
        "--engine",
        type=click.Choice(get_args(EngineName)),
        default="auto",
        show_default=True,
        help="What runs the network.",
    ),
    click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        default="auto",
        show_default=True,
        help="What the network computes in.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N.",
    ),
    click.option("--threads", type=int, metavar="N", help="CPU threads for the network."),
    click.option(
        "--streams",
        type=NumberOrAuto(),
        default="auto",
        show_default=True,
        metavar="N",
        help="Batches computed at once on a GPU, for frames too small to fill it; tiles "
        "computed side by side in engine openvino.",
    ),
    click.option(
        "--compile",
        "compiled",
        is_flag=True,
        help="Let torch.compile work on the network before it is recorded (engine cudagraph).",
    ),
    click.option(
        "--tile",
        type=NumberOrAuto(),
        default="auto",
        show_default=True,
        help="Side of a tile in input pixels, a multiple of 16; 0: the whole frame; "
        "auto: as large as fits in memory.",
    ),
    click.option(
        "--overlap",
        type=NumberOrAuto(),
        default="auto",
        show_default=True,
        help="Input pixels that neighbouring tiles share; auto: 48, or half of a small tile.",
    ),
    click.option(
        "--batch",
        type=NumberOrAuto(),
        default="auto",
        show_default=True,
        help="Tiles in one call of the engine.",
    ),
)

size_options = together(
    click.option("--width", type=int, metavar="W", help="Output width; the aspect is kept."),
    click.option("--height", type=int, metavar="H", help="Output height; the aspect is kept."),
    click.option("--size", type=Size(), help="Both, in place of --width and --height."),
)

encode_options = together(
    click.option("--codec", metavar="NAME", help="FFmpeg's name of the encoder, e.g. libx265."),
    click.option("--crf", type=float, metavar="Q", help="Constant quality; lower is better."),
    click.option("--lossless", is_flag=True, help="Encode without loss."),
    click.option("--preset", metavar="NAME", help="The encoder's preset."),
    click.option(
        "--pix-fmt", metavar="NAME", help="Default: the input's depth and chroma subsampling."
    ),
    click.option(
        "--encoder-option",
        "encoder_options",
        type=KeyValue(),
        multiple=True,
        help="Passed to the encoder as it is; may be repeated.",
    ),
    click.option(
        "--odd",
        type=click.Choice(["refuse", "pad"]),
        default="refuse",
        show_default=True,
        help="Where the pixel format holds no odd size.",
    ),
)

stream_options = together(
    click.option("--no-audio", is_flag=True, help="Leave out all sound."),
    click.option("--no-subtitles", is_flag=True, help="Leave out all subtitles."),
    click.option(
        "--map",
        "mapped",
        type=Specifier(),
        multiple=True,
        help="Only these streams, as in FFmpeg: v:0, a, s:m:language:eng, -a:1; may be repeated.",
    ),
)

reading_options = together(
    click.option(
        "--deinterlace",
        type=click.Choice(["frame", "field"]),
        help="One picture of each frame, or of each field (twice the rate).",
    ),
    click.option("--progressive", is_flag=True, help="Take frames as they are, never interlaced."),
    click.option("--hwaccel", metavar="NAME", help="Decode on this hardware: cuda, qsv, ..."),
    click.option("--in-format", metavar="NAME", help="The input's format, where it cannot tell."),
    click.option("--video-size", type=Size(), help="Of raw video."),
    click.option("--pixel-format", metavar="NAME", help="Of raw video."),
    click.option("--framerate", type=Rate(), help="Of raw video and numbered pictures."),
    click.option("--in-matrix", type=Named(MATRICES), help="The input's matrix, whatever it says."),
    click.option("--in-primaries", type=Named(PRIMARIES), help="Likewise its primaries."),
    click.option("--in-transfer", type=Named(TRANSFERS), help="Likewise its transfer."),
    click.option("--in-range", type=Named(RANGES), help="Likewise: limited or full."),
    click.option("--in-chromaloc", type=Named(CHROMA_LOCATIONS), help="Likewise: left, center ..."),
    click.option(
        "--strict",
        is_flag=True,
        help="Stop at a frame that cannot be decoded; else the one before is repeated.",
    ),
)


def given_engine(given: Mapping[str, Any]) -> EngineOptions:
    """What :func:`engine_options` collected."""
    return EngineOptions(
        engine=given["engine"],
        precision=given["precision"],
        device=given["device"],
        threads=given["threads"],
        streams=given["streams"],
        compiled=given["compiled"],
    )


def given_tiles(given: Mapping[str, Any]) -> TileOptions:
    """What :func:`engine_options` collected of tiles."""
    return TileOptions(tile=given["tile"], overlap=given["overlap"], batch=given["batch"])


def given_size(given: Mapping[str, Any]) -> SizeOptions:
    """What :func:`size_options` collected.

    Raises:
        OptionError: both ``--size`` and one of the others.
    """
    if given["size"] is None:
        return SizeOptions(width=given["width"], height=given["height"])
    if given["width"] is not None or given["height"] is not None:
        raise OptionError("--size says both width and height; leave --width and --height out")
    return SizeOptions(width=given["size"][0], height=given["size"][1])


def given_encoding(given: Mapping[str, Any]) -> EncodeOptions:
    """What :func:`encode_options` collected."""
    return EncodeOptions(
        codec=given["codec"],
        crf=given["crf"],
        preset=given["preset"],
        pix_fmt=given["pix_fmt"],
        encoder_options=dict(given["encoder_options"]),
        lossless=given["lossless"],
        odd=given["odd"],
    )


def given_streams(given: Mapping[str, Any]) -> StreamOptions:
    """What :func:`stream_options` collected."""
    return StreamOptions(
        audio=not given["no_audio"], subtitles=not given["no_subtitles"], map=given["mapped"]
    )


def given_reading(given: Mapping[str, Any]) -> InputOptions:
    """What :func:`reading_options` collected; a video size alone means raw video."""
    raw = given["in_format"] is None and given["video_size"] is not None
    return InputOptions(
        format="rawvideo" if raw else given["in_format"],
        video_size=given["video_size"],
        pixel_format=given["pixel_format"],
        framerate=given["framerate"],
        colors=ColorOptions(
            matrix=given["in_matrix"],
            primaries=given["in_primaries"],
            transfer=given["in_transfer"],
            full_range=given["in_range"],
            chroma_location=given["in_chromaloc"],
        ),
        deinterlace=given["deinterlace"],
        progressive=given["progressive"],
        hwaccel=given["hwaccel"],
        strict=given["strict"],
    )
