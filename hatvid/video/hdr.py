"""HDR metadata beside the colour tags: mastering display, content light, dynamic kinds.

PQ and HLG themselves are transfer characteristics (H.273 codes 16 and 18) and stay tags.
What is here describes the display that the video was graded on (SMPTE ST 2086) and how
bright it gets (CTA-861.3). The upscaled pictures mean the same colours, so both stay
true; metadata that changes from frame to frame is not written again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import av

__all__ = ["ContentLight", "Hdr", "MasteringDisplay", "hdr_options", "read_hdr"]

# FFmpeg's AVMasteringDisplayMetadata: x and y of red, green, blue and white, minimal and
# maximal luminance, each an AVRational of two ints; then has_primaries, has_luminance.
_MASTERING = struct.Struct("=22i")
# FFmpeg's AVContentLightMetadata: MaxCLL, MaxFALL.
_LIGHT = struct.Struct("=2I")

_PRIMARY_UNIT = Fraction(1, 50000)
_LUMINANCE_UNIT = Fraction(1, 10000)

_MASTERING_NAME = "mastering display"
_LIGHT_NAME = "content light level"
# By the names of FFmpeg's frame side data, and of its packet side data.
_DYNAMIC = {
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "dynamic_hdr10_plus": "HDR10+",
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
    "dovi_conf": "Dolby Vision",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "dynamic_hdr_smpte_2094_app5": "SMPTE ST 2094-50",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing environment",
    "ambient_viewing_environment": "ambient viewing environment",
}
_CARRIERS = ("libx264", "libx265", "libsvtav1")


@dataclass(frozen=True, kw_only=True)
class MasteringDisplay:
    """The display a video was graded on, in the units of H.265 annex D.3.28.

    Args:
        red: (x, y) chromaticity in steps of 0.00002, 0 to 50000.
        green: likewise.
        blue: likewise.
        white: likewise.
        max_luminance: in steps of 0.0001 cd/m2, up to 2^32 - 1.
        min_luminance: likewise, below ``max_luminance``.
    """

    red: tuple[int, int]
    green: tuple[int, int]
    blue: tuple[int, int]
    white: tuple[int, int]
    max_luminance: int
    min_luminance: int


@dataclass(frozen=True, kw_only=True)
class ContentLight:
    """How bright a video gets (CTA-861.3, annex P), in cd/m2, 0 to 65535; 0 is unknown.

    Args:
        max_cll: of the brightest pixel.
        max_fall: of the brightest frame's average.
    """

    max_cll: int
    max_fall: int


@dataclass(frozen=True, kw_only=True)
class Hdr:
    """What a video says beyond its colour tags.

    Args:
        mastering: None where it says nothing, or nothing that can be read.
        light: likewise.
        dynamic: kinds of metadata that no encoder here writes (HDR10+, Dolby Vision, ...).
        unreadable: what is there but incomplete or impossible.
    """

    mastering: MasteringDisplay | None = None
    light: ContentLight | None = None
    dynamic: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def carried(self) -> tuple[str, ...]:
        """Names of the parts that an encoder may write."""
        parts = ((_MASTERING_NAME, self.mastering), (_LIGHT_NAME, self.light))
        return tuple(name for name, part in parts if part is not None)


def read_hdr(frame: av.VideoFrame, stream: av.VideoStream) -> Hdr | None:
    """Collect HDR metadata from a frame, its decoder and its container, in this order.

    Args:
        frame: the first one decoded.
        stream: that it comes from.

    Returns:
        None where there is none of any kind.
    """
    context = stream.codec_context
    sources: list[Mapping[str, bytes]] = [
        {data.type.name: bytes(data) for data in frame.side_data[:]},
        {kind.name: data for kind, data in context.decoded_side_data.items()},
        {str(name): data for name, data in context.coded_side_data.items()},
    ]
    unreadable = []
    mastering = light = None
    data = _first(sources, "MASTERING_DISPLAY_METADATA", "mastering_display_metadata")
    if data is not None and (mastering := _mastering(data)) is None:
        unreadable.append(_MASTERING_NAME)
    data = _first(sources, "CONTENT_LIGHT_LEVEL", "content_light_level")
    if data is not None and any(data) and (light := _light(data)) is None:
        unreadable.append(_LIGHT_NAME)
    seen = (_DYNAMIC[name] for source in sources for name in source if name in _DYNAMIC)
    found = Hdr(
        mastering=mastering,
        light=light,
        dynamic=tuple(dict.fromkeys(seen)),
        unreadable=tuple(unreadable),
    )
    return None if found == Hdr() else found


def hdr_options(codec: str, hdr: Hdr) -> tuple[dict[str, str], tuple[str, ...]]:
    """Encoder options that write the metadata, and what is not written.

    Args:
        codec: FFmpeg's name of the encoder.
        hdr: as read from the source.

    Returns:
        Options by name, each a list of ``key=value`` joined by colons, to be put before
        the user's own of the same name; and notes, one line each.
    """
    options: dict[str, str] = {}
    notes = []
    if codec == "libx264":
        options = _joined("x264-params", hdr, "mastering-display", "cll")
    elif codec == "libx265":
        options = _joined("x265-params", hdr, "master-display", "max-cll", "hdr10=1")
    elif codec == "libsvtav1":
        options = _joined("svtav1-params", hdr, "mastering-display", "content-light")
    elif hdr.carried:
        notes.append(
            f"{codec} does not carry the {' and '.join(hdr.carried)}: dropped; "
            f"{', '.join(_CARRIERS)} do"
        )
    if hdr.dynamic:
        notes.append(f"dropped, as it cannot be written again: {', '.join(hdr.dynamic)}")
    if hdr.unreadable:
        notes.append(f"dropped, as the input's is unusable: {', '.join(hdr.unreadable)}")
    return options, tuple(notes)


def _first(sources: list[Mapping[str, bytes]], *names: str) -> bytes | None:
    return next((source[name] for source in sources for name in names if name in source), None)


def _mastering(data: bytes) -> MasteringDisplay | None:
    if len(data) < _MASTERING.size:
        return None
    numbers = _MASTERING.unpack_from(data)
    if not all(numbers[20:]) or 0 in numbers[1:20:2]:
        return None
    values = [Fraction(*numbers[i : i + 2]) for i in range(0, 20, 2)]
    points = [round(value / _PRIMARY_UNIT) for value in values[:8]]
    low, high = (round(value / _LUMINANCE_UNIT) for value in values[8:])
    if not all(0 <= point <= 50000 for point in points) or not 0 <= low < high < 1 << 32:
        return None
    red, green, blue, white = zip(points[::2], points[1::2], strict=True)
    return MasteringDisplay(
        red=red, green=green, blue=blue, white=white, max_luminance=high, min_luminance=low
    )


def _light(data: bytes) -> ContentLight | None:
    if len(data) < _LIGHT.size:
        return None
    max_cll, max_fall = _LIGHT.unpack_from(data)
    if max(max_cll, max_fall) >= 1 << 16:
        return None
    return ContentLight(max_cll=max_cll, max_fall=max_fall)


def _joined(option: str, hdr: Hdr, display: str, light: str, *more: str) -> dict[str, str]:
    parts = []
    if hdr.mastering is not None:
        parts.append(f"{display}={_display(hdr.mastering, decimal=option == 'svtav1-params')}")
    if hdr.light is not None:
        parts.append(f"{light}={hdr.light.max_cll},{hdr.light.max_fall}")
    return {option: ":".join([*parts, *more])} if parts else {}


def _display(display: MasteringDisplay, *, decimal: bool) -> str:
    """``G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)``, in steps or in the units themselves."""

    def point(values: tuple[int, int]) -> str:
        return ",".join(f"{value / 50000:.5f}" if decimal else str(value) for value in values)

    ends = (display.max_luminance, display.min_luminance)
    luminance = ",".join(f"{value / 10000:.4f}" if decimal else str(value) for value in ends)
    return (
        f"G({point(display.green)})B({point(display.blue)})R({point(display.red)})"
        f"WP({point(display.white)})L({luminance})"
    )
