"""What becomes of a stream of the input, and how it is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["CHAPTERS", "LEFT_OUT", "StreamFate", "TIMECODE", "described"]

LEFT_OUT = "left out as asked"
"""The reason for what the options exclude: nobody needs to be told."""

CHAPTERS, TIMECODE = "chapters", "timecode"
"""Target codecs that are no streams of the output but written from metadata."""


@dataclass(frozen=True, kw_only=True)
class StreamFate:
    """What becomes of one input stream.

    Args:
        index: in the input.
        kind: ``video``, ``audio``, ``subtitle``, ``data`` or ``attachment``.
        codec: FFmpeg's name, empty if unknown.
        fate: upscaled, copied packet by packet, converted, or dropped.
        reason: why it is converted or dropped.
        target_codec: of the output, where converted; ``chapters`` and ``timecode`` are no
            streams there but written from metadata.
        filter: FFmpeg's bitstream filter that makes the packets of both sides equal, as
            the muxer packs them otherwise than the input; it leaves alone what is
            already so.
    """

    index: int
    kind: str
    codec: str
    fate: Literal["upscaled", "copied", "converted", "dropped"]
    reason: str = ""
    target_codec: str = ""
    filter: str = ""


def described(fates: Iterable[StreamFate]) -> list[str]:
    """One line for each reason why streams are dropped or converted; nothing is said of
    what was left out as asked, or comes back from metadata."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for fate in fates:
        if fate.reason not in ("", LEFT_OUT) and fate.target_codec not in (CHAPTERS, TIMECODE):
            what = f"{fate.kind} {fate.codec}".strip()
            end = f"converted to {fate.target_codec}" if fate.target_codec else "dropped"
            grouped.setdefault((end, fate.reason), []).append(f"{fate.index} ({what})")
    return [
        f"stream {names[0]} is {end}: {reason}"
        if len(names) == 1
        else f"streams {', '.join(names)} are {end}: {reason}"
        for (end, reason), names in grouped.items()
    ]
