"""What is known of single encoders: defaults, lossless modes, what their tables hide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import av

from hatvid.video.containers import Container
from hatvid.video.convert import PlaneLayout

__all__ = ["EncoderFacts", "candidates", "facts_of", "keeping_odd", "layouts_of", "loses_nothing"]


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """One encoder.

    Args:
        defaults: options that hold up beside the source, at the encoder's own scale.
        lossless: options of its lossless mode, in place of ``crf``; None where it has none.
        params: the option that takes the library's own ``key=value`` list.
        own: of that list, what is always there.
        lossless_own: of that list, what makes it lossless.
        max_depth: bits that it really keeps.
        alpha: formats with alpha that it really takes; None believes its table.
        full_only: it opens for the full range only.
        clips: it has no lossless mode, as it moves the lowest and highest codes.
    """

    defaults: Mapping[str, str] = field(default_factory=dict)
    lossless: Mapping[str, str] | None = None
    params: str = ""
    own: tuple[str, ...] = ()
    lossless_own: tuple[str, ...] = ()
    max_depth: int = 16
    alpha: tuple[str, ...] | None = None
    full_only: bool = False
    clips: bool = False


_NVENC = EncoderFacts(
    defaults={"rc": "vbr", "cq": "19", "b": "0", "preset": "p6"},
    lossless={"tune": "lossless"},
    max_depth=10,  # what it is given in 16 bits is cut to 10
    alpha=(),
)
_FACTS = {
    # crf 0 is lossless in 8 bit alone.
    "libx264": EncoderFacts(
        defaults={"crf": "16", "preset": "medium"}, lossless={"qp": "0"}, params="x264-params"
    ),
    "libx264rgb": EncoderFacts(
        defaults={"crf": "16", "preset": "medium"}, lossless={"qp": "0"}, params="x264-params"
    ),
    "libx265": EncoderFacts(
        defaults={"crf": "18", "preset": "medium"},
        lossless={},
        params="x265-params",
        own=("log-level=error",),  # prints to standard error by itself, past FFmpeg's log
        lossless_own=("lossless=1",),
        alpha=(),  # in its table, but not built into the library
    ),
    "libsvtav1": EncoderFacts(
        defaults={"crf": "22", "preset": "6"},
        lossless={},
        params="svtav1-params",
        lossless_own=("lossless=1",),
    ),
    "libvpx-vp9": EncoderFacts(
        defaults={"crf": "20", "b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"},
        lossless={"lossless": "1"},
        alpha=("yuva420p",),
    ),
    # As many slices as FFmpeg finds to fit: it opens no odd size with a number of them.
    "ffv1": EncoderFacts(defaults={"level": "3", "slicecrc": "1"}),
    "jpeg2000": EncoderFacts(lossless={"pred": "dwt53"}),
    "mjpeg": EncoderFacts(full_only=True),
    "v210": EncoderFacts(clips=True),  # codes that SDI reserves
    "h264_nvenc": _NVENC,
    "hevc_nvenc": _NVENC,
    "av1_nvenc": _NVENC,
}

# In order of preference: what most players and editors of that container read comes first.
_CANDIDATES = {
    "mp4": ("libx264", "libx265"),
    "mov": ("libx264", "libx265", "prores_ks", "png"),
    "matroska": ("libx264", "libx265", "ffv1"),
    "nut": ("libx264", "libx265", "ffv1"),
    "mpegts": ("libx264", "libx265"),
    "webm": ("libvpx-vp9", "libsvtav1"),
}
# Encoders that take odd sizes with subsampled chroma, and give them back.
_KEEP_ODD = {
    "mp4": ("libsvtav1", "libvpx-vp9"),
    "matroska": ("libsvtav1", "libvpx-vp9", "ffv1"),
    "webm": ("libvpx-vp9", "libsvtav1"),
    "nut": ("ffv1",),
}


def facts_of(codec: str) -> EncoderFacts:
    """What is known of an encoder, by FFmpeg's name."""
    return _FACTS.get(codec, EncoderFacts())


def candidates(container: Container) -> tuple[str, ...]:
    """The encoders to choose among where none is asked for, the preferred one first."""
    return _CANDIDATES.get(container.muxer, (container.codec,))


def keeping_odd(container: Container, layout: PlaneLayout) -> tuple[str, ...]:
    """Encoders for a container that hold odd sizes in a layout."""
    names = _KEEP_ODD.get(container.muxer, ())
    return tuple(name for name in names if layout in layouts_of(name, container, layout))


def loses_nothing(codec: str) -> bool:
    """Whether an encoder is lossless, or has a mode that is."""
    known, facts = av.Codec(codec, "w"), facts_of(codec)
    return facts.lossless is not None or (known.lossless and not known.lossy and not facts.clips)


def layouts_of(codec: str, container: Container, source: PlaneLayout) -> list[PlaneLayout]:
    """The layouts of all pixel formats that an encoder takes for a container.

    An encoder that takes any takes the container's, or else the source's own.
    """
    names = [fmt.name for fmt in av.Codec(codec, "w").video_formats or ()]
    facts = facts_of(codec)
    if container.pix_fmts is not None:
        names = [name for name in names or container.pix_fmts if name in container.pix_fmts]
    layouts = [layout for name in names or [source.pix_fmt] if (layout := PlaneLayout.packed(name))]
    return [
        layout
        for layout in dict.fromkeys(layouts)
        if layout.depth <= facts.max_depth
        and (not layout.alpha or facts.alpha is None or layout.pix_fmt in facts.alpha)
    ]
