"""What makes an encoder give the same packets whenever and wherever a segment is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import av
import torch

from hatvid.video.encoder_facts import facts_of
from hatvid.video.encoders import EncoderChoice

__all__ = ["clean_memory", "rate_over_all", "with_threads"]

# Of the generic options, and of the libraries' own lists.
_RATES = ("b", "maxrate", "minrate", "bufsize", "rc_init_occupancy")
_RATE_KEYS = frozenset(
    {
        *("bitrate", "B", "vbv-maxrate", "vbv-bufsize", "vbv-init", "nal-hrd", "hrd"),
        *("tbr", "mbr", "buf-sz"),
    }
)
_PASSES = frozenset({"pass", "passes", "stats", "passlogfile", "multipass"})
_QUALITIES = ("crf", "qp", "cq", "global_quality", "lossless", "tune")
# What every CPU with AVX-512 has beside it, by x264's names.
_WITHOUT_AVX512 = "sse2fast,sse4.2,avx2,fma3,bmi2,lzcnt"
_X265_FRAMES = ((32, 6), (16, 5), (8, 3), (4, 2), (0, 1))


def rate_over_all(choice: EncoderChoice) -> str | None:
    """Why an encoder cannot treat segments alike, in words; None if it can.

    A bit rate, a buffer or a first pass are of the whole video: an encoder that begins
    anew with each segment would keep them in each, and spend the bits otherwise.
    """
    options, codec = choice.options, choice.codec
    facts = facts_of(codec)
    params = _parsed(options.get(facts.params, ""))
    keys = {key.replace("_", "-"): value for key, value in params}
    if "pass1" in options.get("flags", "") or "pass2" in options.get("flags", ""):
        return "two passes go over the whole video"
    for name in (*options, *keys):
        if name in _PASSES and options.get(name, keys.get(name)) not in ("0", "disabled"):
            return f"two passes go over the whole video ({name})"
    for name in _RATES:
        if options.get(name, "0") not in ("0", ""):
            return f"a bit rate or a buffer holds over the whole video ({name})"
    for key, value in keys.items():
        if key in _RATE_KEYS and value not in ("0", "none"):
            return f"a bit rate or a buffer holds over the whole video ({key})"
    if codec == "libsvtav1" and keys.get("rc", "0") != "0":
        return "a bit rate or a buffer holds over the whole video (rc)"
    known = av.Codec(codec, "w")
    constant = any(name in options for name in _QUALITIES) or "qscale" in options.get("flags", "")
    lossless = bool(facts.lossless_own) and facts.lossless_own[0] in options.get(facts.params, "")
    if not (constant or lossless or known.intra_only or not known.lossy):
        return f"{codec} is given no constant quality, and goes by a bit rate"
    return None


def with_threads(choice: EncoderChoice, threads: int) -> EncoderChoice:
    """The choice with a fixed number of threads, which packets of some encoders hang on.

    What the user set by an option of the encoder stays.
    """
    options = {"threads": str(threads), **choice.options}
    threads = int(options["threads"]) if options["threads"].isdecimal() else threads
    own: dict[str, int] = {}
    if choice.codec == "libx265":
        own = {
            "pools": threads,
            "frame-threads": next(count for least, count in _X265_FRAMES if threads >= least),
        }
    elif choice.codec == "libsvtav1":
        own = {"lp": threads}
    if own:
        name = facts_of(choice.codec).params
        options[name] = _completed(options.get(name, ""), own)
    return replace(choice, options=options)


def clean_memory(codec: str, width: int, options: Mapping[str, str]) -> dict[str, str]:
    """Options of an encoder by which its packets do not hang on what lay in memory before.

    With AVX-512 x264 takes eight macroblocks of its lookahead at a time, and in the last
    eight of a row those that are not there too (x264 core 165; seen by filling malloc's
    memory, in widths whose macroblocks are no multiple of eight). There it is told to do
    without AVX-512, which costs it 6 to 10 % of its time; 1280 and 1920 are not concerned.

    Args:
        codec: FFmpeg's name of the encoder.
        width: of its frames, in pixels.
        options: of the encoder; a choice of ``asm`` among them stays.
    """
    told = dict(options)
    concerned = codec in ("libx264", "libx264rgb") and -(-width // 16) % 8 != 0
    if not concerned or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return told
    said = _parsed(told.get("x264-params", "")) + _parsed(told.get("x264opts", ""))
    if not any(key in ("asm", "no-asm") for key, _ in said):
        told["x264-params"] = _completed(told.get("x264-params", ""), {"asm": _WITHOUT_AVX512})
    return told


def _parsed(params: str) -> list[tuple[str, str]]:
    """Names and values of a library's own list of options."""
    parts = [part.partition("=") for part in params.split(":")]
    return [(key.strip(), value) for key, _, value in parts]


def _completed(params: str, own: Mapping[str, object]) -> str:
    """A library's own list of options, with what it does not say itself."""
    said = dict(_parsed(params))
    added = [f"{key}={value}" for key, value in own.items() if key not in said]
    return ":".join(filter(None, [params, *added]))
