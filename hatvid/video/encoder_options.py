"""What an encoder is told: defaults, the user's options, lossless modes, HDR metadata."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import av

from hatvid.errors import OptionError
from hatvid.options import EncodeOptions
from hatvid.video.convert import PlaneLayout
from hatvid.video.encoder_facts import facts_of, loses_nothing

__all__ = ["encoder_options", "has_asked"]

# What other encoders call a constant quality and a preset.
_CRF_NAMES = ("crf", "cq", "qp", "global_quality")
_PRESET_NAMES = ("preset", "cpu-used")
# The libraries' own lists, and what in them sets rate or quality.
_LISTS = ("x264-params", "x264opts", "x265-params", "svtav1-params")
_RATE_KEYS = ("crf", "qp", "q", "bitrate", "B", "lossless", "no-lossless", "rc", "tbr")
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


def has_asked(codec: str, options: EncodeOptions) -> bool:
    """Whether an encoder has what is asked for: a lossless mode, a crf, a preset."""
    private = _option_names(codec)[0]
    return (
        (not options.lossless or loses_nothing(codec))
        and (options.crf is None or any(name in private for name in _CRF_NAMES))
        and (options.preset is None or any(name in private for name in _PRESET_NAMES))
    )


def encoder_options(
    options: EncodeOptions, codec: str, layout: PlaneLayout, hdr: dict[str, str]
) -> dict[str, str]:
    """All options of an encoder: its defaults, overruled by what the user asks for.

    Args:
        codec: FFmpeg's name of the encoder.
        layout: of the frames it is given.
        hdr: options that write HDR metadata; lists of the same name are joined, the
            user's last.

    Raises:
        OptionError: the encoder has no such option, or it contradicts another.
    """
    facts = facts_of(codec)
    private, known = _option_names(codec)
    chosen = {**facts.defaults, **_by_layout(codec, layout)}
    params = {facts.params: list(facts.own)} if facts.own else {}
    if options.lossless:
        chosen = {name: value for name, value in chosen.items() if name not in _CRF_NAMES}
        chosen.update(facts.lossless or {})
        if facts.lossless_own:
            params.setdefault(facts.params, []).extend(facts.lossless_own)
    for name, value in hdr.items():
        params.setdefault(name, []).append(value)
    if options.crf is not None:
        chosen[_first(_CRF_NAMES, private, codec, "crf")] = f"{options.crf:g}"
    if options.preset is not None:
        chosen[_first(_PRESET_NAMES, private, codec, "preset")] = options.preset
    for name, value in options.encoder_options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else "; check its name"
            raise OptionError(f"{codec} has no option {name!r}{hint}")
        if options.lossless and (rate := _sets_rate(name, value, facts.lossless or {})):
            raise OptionError(f"lossless and the option {rate} exclude each other; leave one out")
        if name == facts.params:
            params.setdefault(name, []).append(value)  # the later one of the same key counts
        else:
            chosen[name] = value
    chosen.update({name: ":".join(parts) for name, parts in params.items()})
    if codec in _WORDED:
        _check_words(codec, chosen)
    return chosen


def _sets_rate(name: str, value: str, lossless: Mapping[str, str]) -> str | None:
    """What in an option would end a lossless mode, in the user's words."""
    if name in {*_CRF_NAMES, *lossless, "b"}:
        return name
    if name in _LISTS:
        for part in value.split(":"):
            key = part.partition("=")[0].strip()
            if key in _RATE_KEYS:
                return f"{key} in {name}"
    return None


def _by_layout(codec: str, layout: PlaneLayout) -> dict[str, str]:
    if codec == "prores_ks":
        return {"profile": "4444" if layout.log2_chroma_w == 0 else "hq"}
    if codec == "dnxhd":  # DNxHR, which has profiles for any size
        if layout.log2_chroma_w == 0:
            return {"profile": "dnxhr_444"}
        return {"profile": "dnxhr_hq" if layout.depth == 8 else "dnxhr_hqx"}
    if codec == "libvpx-vp9" and layout.alpha:
        return {"auto-alt-ref": "0"}  # or it refuses
    return {}


def _option_names(codec: str) -> tuple[set[str], set[str]]:
    """Names of the encoder's own options, and of all that it has."""
    supported = av.CodecContext.create(codec, "w").supported_options
    private = {option.name for option in supported.private}
    return private, private | {option.name for option in supported.generic}


def _check_words(codec: str, options: dict[str, str]) -> None:
    for name, words in _WORDS.items():
        for part in re.split(r"[,./+-]", options[name]) if name in options else ():
            if part not in words and not (name == "preset" and part.isdecimal()):
                raise OptionError(
                    f"{codec} has no {name} {part!r}; choose one of {', '.join(words)}"
                )


def _first(names: Iterable[str], known: set[str], codec: str, option: str) -> str:
    for name in names:
        if name in known:
            return name
    raise OptionError(f"{codec} has no {option}; leave --{option} out, or use --encoder-option")
