"""Which encoder, with which pixel format and options."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

import av

from hatvid.errors import OptionError
from hatvid.options import EncodeOptions
from hatvid.video.containers import Container
from hatvid.video.convert import PlaneLayout

__all__ = ["EncoderChoice", "choose_encoder"]

# Quality that holds up beside the source, at each encoder's own scale.
_DEFAULTS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "16", "preset": "medium"},
    "libx265": {"crf": "18", "preset": "medium"},
    "libsvtav1": {"crf": "22", "preset": "6"},
    "libvpx-vp9": {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"},
    "ffv1": {"level": "3", "slices": "4", "slicecrc": "1"},
    "prores_ks": {"profile": "hq"},
}
# What other encoders call a constant quality and a preset.
_CRF_NAMES = ("crf", "cq", "qp", "global_quality")
_PRESET_NAMES = ("preset", "cpu-used")
# Words that x264 and x265 look up by themselves; at a wrong one they print a line of
# their own, past FFmpeg's log.
_WORDS = {
    "preset": (
        *("ultrafast", "superfast", "veryfast", "faster", "fast"),
        *("medium", "slow", "slower", "veryslow", "placebo"),
    ),
    "tune": (
        *("film", "animation", "grain", "stillimage"),
        *("psnr", "ssim", "fastdecode", "zerolatency"),
    ),
}
_WORDED = ("libx264", "libx264rgb", "libx265")
# These print to standard error by themselves, past FFmpeg's log.
_QUIET = {"libx265": ("x265-params", "log-level=error")}


@dataclass(frozen=True, kw_only=True)
class EncoderChoice:
    """An encoder with all that it is opened with.

    Args:
        codec: FFmpeg's name of the encoder.
        layout: of the frames it is given.
        options: passed to it as they are.
        notes: what the user should know, one line each.
    """

    codec: str
    layout: PlaneLayout
    options: dict[str, str]
    notes: tuple[str, ...] = ()


def choose_encoder(
    options: EncodeOptions, container: Container, source: PlaneLayout
) -> EncoderChoice:
    """Resolve what the user left open.

    The pixel format keeps the source's depth and chroma subsampling where the encoder
    can, else takes the nearest that loses nothing, else says what is lost.

    Raises:
        OptionError: no such encoder, or it does not take an option or pixel format.
    """
    name = options.codec or container.codec
    try:
        codec = av.Codec(name, "w")
    except (av.error.FFmpegError, ValueError):
        raise OptionError(
            f"codec {name!r} is not an encoder here; try libx264, libx265, libsvtav1, libvpx-vp9, "
            "ffv1 or prores_ks"
        ) from None
    name = codec.name  # h264 means libx264 here, and then its defaults
    if codec.type != "video":
        raise OptionError(f"codec {name!r} encodes {codec.type}; name a video encoder")
    layouts = [layout for fmt in codec.video_formats or [] if (layout := PlaneLayout.of(fmt.name))]
    notes: list[str] = []
    layout = _pix_fmt(options.pix_fmt, name, layouts, source, notes)
    return EncoderChoice(
        codec=name, layout=layout, options=_options(options, name), notes=tuple(notes)
    )


def _pix_fmt(
    asked: str | None,
    codec: str,
    layouts: list[PlaneLayout],
    source: PlaneLayout,
    notes: list[str],
) -> PlaneLayout:
    if not layouts:
        raise OptionError(f"codec {codec!r} takes no planar pixel format; choose another codec")
    if asked is not None:
        wanted = PlaneLayout.of(asked)
        if wanted is None or wanted not in layouts:
            names = ", ".join(dict.fromkeys(layout.pix_fmt for layout in layouts))
            raise OptionError(f"{codec} does not take pix_fmt {asked!r}; choose one of {names}")
        chosen = wanted
    else:
        chosen = min(layouts, key=lambda layout: _loss(source, layout))
    lost = []
    if chosen.depth < source.depth:
        lost.append(f"{source.depth} bit to {chosen.depth} bit")
    if source.family != "gray":
        if chosen.family == "gray":
            lost.append("all colour")
        elif (chosen.log2_chroma_w, chosen.log2_chroma_h) > (
            source.log2_chroma_w,
            source.log2_chroma_h,
        ):
            lost.append("chroma resolution")
        if source.family == "rgb" and chosen.family == "yuv":
            lost.append("RGB, kept as YUV")
    if lost:
        notes.append(
            f"{codec} writes {chosen.pix_fmt} from {source.pix_fmt} (loses: {'; '.join(lost)})"
        )
    return chosen


def _loss(source: PlaneLayout, layout: PlaneLayout) -> tuple[int, ...]:
    """Sorts formats: what loses least first, then what is nearest."""
    gray_lost = source.family != "gray" and layout.family == "gray"
    family_lost = source.family == "rgb" and layout.family != "rgb"
    depth = layout.depth - source.depth
    across = layout.log2_chroma_w - source.log2_chroma_w
    down = layout.log2_chroma_h - source.log2_chroma_h
    if source.family == "gray":
        across = down = 0
    return (
        int(gray_lost),
        max(0, -depth),
        max(0, across) + max(0, down),
        int(family_lost),
        int(layout.family != source.family),
        max(0, depth),
        max(0, -across) + max(0, -down),
    )


def _options(options: EncodeOptions, codec: str) -> dict[str, str]:
    chosen = dict(_DEFAULTS.get(codec, {}))
    context = av.CodecContext.create(codec, "w")
    known = {
        option.name
        for group in (context.supported_options.generic, context.supported_options.private)
        for option in group
    }
    private = {option.name for option in context.supported_options.private}
    if options.crf is not None:
        chosen[_first(_CRF_NAMES, private, codec, "crf")] = f"{options.crf:g}"
    if options.preset is not None:
        chosen[_first(_PRESET_NAMES, private, codec, "preset")] = options.preset
    if codec in _QUIET:
        chosen.setdefault(*_QUIET[codec])
    for name, value in options.encoder_options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else "; check its name"
            raise OptionError(f"{codec} has no option {name!r}{hint}")
        if codec in _QUIET and name == _QUIET[codec][0]:
            value = f"{_QUIET[codec][1]}:{value}"
        chosen[name] = value
    if codec in _WORDED:
        _check_words(codec, chosen)
    return chosen


def _check_words(codec: str, options: dict[str, str]) -> None:
    for name, words in _WORDS.items():
        for part in re.split(r"[,./+-]", options[name]) if name in options else ():
            if part not in words and not (name == "preset" and part.isdecimal()):
                raise OptionError(
                    f"{codec} has no {name} {part!r}; choose one of {', '.join(words)}"
                )


def _first(names: tuple[str, ...], known: set[str], codec: str, option: str) -> str:
    for name in names:
        if name in known:
            return name
    raise OptionError(f"{codec} has no {option}; leave --{option} out, or use --encoder-option")
