"""What all frames of one video have in common, so that one network shape takes them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from hatvid.errors import DecodeError
from hatvid.video.device_frames import software_format

__all__ = ["Kind", "TAIL"]

TAIL = "upscale the parts one by one with --start and --end"
"""What to do about frames of several kinds."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Size, pixel format and shape of frames.

    Args:
        width: in pixels.
        height: in pixels.
        pix_fmt: FFmpeg's name, in main memory.
        aspect: the codec's sample aspect ratio, None where it tells none.
    """

    width: int
    height: int
    pix_fmt: str
    aspect: Fraction | None

    @classmethod
    def of(cls, frame: av.VideoFrame, aspect: Fraction | None) -> Kind:
        """The kind of a decoded frame."""
        return cls(
            width=frame.width, height=frame.height, pix_fmt=software_format(frame), aspect=aspect
        )

    def change(self, other: Kind) -> str | None:
        """What is different about another kind, in words; None if nothing is."""
        if (other.width, other.height) != (self.width, self.height):
            return (
                f"picture size changes from {self.width}x{self.height} to "
                f"{other.width}x{other.height}"
            )
        if other.pix_fmt != self.pix_fmt:
            return f"pixel format changes from {self.pix_fmt} to {other.pix_fmt}"
        if (other.aspect or 1) != (self.aspect or 1):
            return f"sample aspect ratio changes from {self.aspect} to {other.aspect}"
        return None

    def check(self, other: Kind, path: Path, seconds: Fraction) -> None:
        """Refuse a frame of another kind.

        Args:
            other: the frame's.
            path: of the video.
            seconds: when the frame is shown.

        Raises:
            DecodeError: it is another.
        """
        if what := self.change(other):
            raise DecodeError(f"{path}: the {what} at {float(seconds):.3f} s; {TAIL}")
