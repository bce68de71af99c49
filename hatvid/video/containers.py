"""The output containers: which name means which, and what each cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hatvid.errors import OptionError

__all__ = ["CONTAINERS", "Container", "container_of"]


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
    """Whether packets may be decoded before time zero, as B-frames of a video that
    starts there are. If not, the muxer moves all times together."""

    def holds(self, time_base: Fraction) -> bool:
        """Whether every multiple of ``time_base`` is a timestamp here."""
        return self.tick is None or (time_base / self.tick).denominator == 1


_MILLISECOND = Fraction(1, 1000)
_MP4 = Container(muxer="mp4", codec="libx264")
_MPEGTS = Container(muxer="mpegts", codec="libx264", tick=Fraction(1, 90000), before_zero=False)

CONTAINERS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": Container(muxer="mov", codec="libx264"),
    ".mkv": Container(muxer="matroska", codec="libx264", tick=_MILLISECOND),
    ".webm": Container(muxer="webm", codec="libvpx-vp9", tick=_MILLISECOND),
    ".ts": _MPEGTS,
    ".m2ts": _MPEGTS,
    ".mts": _MPEGTS,
    ".flv": Container(muxer="flv", codec="libx264", tick=_MILLISECOND, before_zero=False),
    ".nut": Container(muxer="nut", codec="libx264", before_zero=False),
}


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
