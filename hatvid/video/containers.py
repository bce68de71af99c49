"""The output containers: which name means which, and what each cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hatvid.errors import OptionError

__all__ = ["CONTAINERS", "Container", "FORMATS", "container_of", "container_read_by", "format_of"]


@dataclass(frozen=True, kw_only=True)
class Container:
    """A file format that hatvid writes.

    Args:
        muxer: FFmpeg's name.
        codec: the video encoder when none is asked for.
        tick: the coarsest clock of its timestamps, None where it takes any.
    """

    muxer: str
    codec: str
    tick: Fraction | None = None
    before_zero: bool = True
    """Whether anything may begin before time zero. If not, decoding times of the video are
    raised to it, and packets of other streams that begin before it are left out."""

    rotates: bool = False
    """Whether it holds a display matrix."""

    timed: bool = True
    """Whether each frame has a time of its own; if not, all are equally long."""

    tagged: bool = True
    """Whether it tells matrix, primaries and transfer by itself, see :meth:`tells_colors`."""

    others: bool = True
    """Whether it holds any stream but the video."""

    pix_fmts: tuple[str, ...] | None = None
    """What it takes of uncompressed video; None where the encoder decides."""

    options: tuple[tuple[str, str], ...] = ()
    """What its muxer must be told."""

    piped: tuple[tuple[str, str], ...] = ()
    """What its muxer must be told where the output cannot seek."""

    def holds(self, time_base: Fraction) -> bool:
        """Whether every multiple of ``time_base`` is a timestamp here."""
        return self.tick is None or (time_base / self.tick).denominator == 1

    def tells_colors(self, codec: str) -> bool:
        """Whether matrix, primaries and transfer can be read from a video of this codec or
        of this encoder."""
        return self.tagged or codec in _SELF_TAGGED


# Encoders that write matrix, primaries and transfer into the bitstream, and their codecs.
_SELF_TAGGED = frozenset(
    {
        *("h264", "hevc", "av1", "prores"),
        *("libx264", "libx264rgb", "libx265", "libsvtav1", "mpeg2video", "prores_ks"),
        *("h264_nvenc", "hevc_nvenc", "av1_nvenc"),
    }
)

_MILLISECOND = Fraction(1, 1000)
# An index at the end needs a way back to the beginning; fragments have each their own. Only
# a header that waits for the first fragment can say when each stream begins (edit lists).
_FRAGMENTS = (("movflags", "frag_keyframe+delay_moov+default_base_moof"),)
_DEPTHS = ("", "9le", "10le", "12le", "14le", "16le")
_Y4M_PIX_FMTS = (
    *("gray", "gray9le", "gray10le", "gray12le", "gray16le", "yuv411p", "yuva444p"),
    *(f"yuv{chroma}p{depth}" for chroma in (420, 422, 444) for depth in _DEPTHS),
)
_RAW_PIX_FMTS = (
    *_Y4M_PIX_FMTS,
    *("gray14le", "yuv410p", "yuv440p", "yuva420p", "yuva422p", "gbrp", "gbrap"),
    *(f"gbrp{depth}" for depth in _DEPTHS[1:]),
)

_MP4 = Container(muxer="mp4", codec="libx264", rotates=True, piped=_FRAGMENTS)
_MOV = Container(muxer="mov", codec="libx264", rotates=True, piped=_FRAGMENTS)
_MATROSKA = Container(muxer="matroska", codec="libx264", tick=_MILLISECOND, rotates=True)
_WEBM = Container(muxer="webm", codec="libvpx-vp9", tick=_MILLISECOND, rotates=True)
_MPEGTS = Container(
    muxer="mpegts", codec="libx264", tick=Fraction(1, 90000), before_zero=False, tagged=False
)
_FLV = Container(muxer="flv", codec="libx264", tick=_MILLISECOND, before_zero=False, tagged=False)
_NUT = Container(muxer="nut", codec="libx264", before_zero=False, tagged=False)
_Y4M = Container(
    muxer="yuv4mpegpipe",
    codec="rawvideo",
    timed=False,
    tagged=False,
    others=False,
    pix_fmts=_Y4M_PIX_FMTS,
    options=(("strict", "-1"),),  # more than 8 bits are no part of the first definition
)
_RAW = Container(
    muxer="rawvideo",
    codec="rawvideo",
    timed=False,
    tagged=False,
    others=False,
    pix_fmts=_RAW_PIX_FMTS,
)

CONTAINERS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": _MOV,
    ".mkv": _MATROSKA,
    ".webm": _WEBM,
    ".ts": _MPEGTS,
    ".m2ts": _MPEGTS,
    ".mts": _MPEGTS,
    ".flv": _FLV,
    ".nut": _NUT,
    ".y4m": _Y4M,
}
"""By the extension of a file. AVI is none of them: it holds no times and no aspect ratio."""

FORMATS = {
    "y4m": _Y4M,
    "mp4": _MP4,
    "mov": _MOV,
    "mkv": _MATROSKA,
    "matroska": _MATROSKA,
    "webm": _WEBM,
    "nut": _NUT,
    "ts": _MPEGTS,
    "mpegts": _MPEGTS,
    "flv": _FLV,
    "rawvideo": _RAW,
}
"""By the name of a format, for an output that has no file name. The first is the one
written unless another is named."""


def container_of(path: Path) -> Container:
    """The container that a file name asks for.

    Raises:
        OptionError: it asks for one that hatvid does not write.
    """
    container = CONTAINERS.get(path.suffix.lower())
    if container is None:
        kind = f"{path.suffix} files are" if path.suffix else "a file without an extension is"
        raise OptionError(
            f"{path.name}: {kind} not written by hatvid; name one of {', '.join(CONTAINERS)}"
        )
    return container


def container_read_by(demuxer: str) -> Container | None:
    """The container of a file that is open, None if it is none that hatvid writes.

    Args:
        demuxer: FFmpeg's name, a list such as ``matroska,webm``.
    """
    names = demuxer.split(",")
    return next((found for found in FORMATS.values() if found.muxer in names), None)


def format_of(name: str) -> Container:
    """The container that the name of a format asks for.

    Raises:
        OptionError: it is none that hatvid writes.
    """
    container = FORMATS.get(name.lower())
    if container is None:
        raise OptionError(
            f"format {name!r} is not written by hatvid; choose one of {', '.join(FORMATS)}"
        )
    return container
