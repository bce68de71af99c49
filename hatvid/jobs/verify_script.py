"""What a script gave, with the face of a file that was read again.

A script may take days, and need not give the same twice. So it is not run again for the
proof: how many frames it gave, and when, is what the job was told; its pictures are not
compared. Its other streams are those of a file, which is read again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from hatvid.options import StreamOptions
from hatvid.video.compare import Presented
from hatvid.video.declared import Declared, color_names
from hatvid.video.inventory import Inventory, StreamContents, take_stock
from hatvid.video.source_info import SourceInfo

__all__ = ["Given", "stock_of"]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a job was given by a script.

    Args:
        info: of its frames.
        shown: when each of them is.
        streams_from: the file of the other streams.
    """

    info: SourceInfo
    shown: Presented
    streams_from: Path | None


def stock_of(given: Given, streams: StreamOptions) -> tuple[Inventory, Declared]:
    """What the script's side holds, and what it says of its pictures.

    Raises:
        InputError: the file of the other streams cannot be read.
    """
    info = given.info
    video = StreamContents(
        index=0,
        kind="video",
        codec=info.codec,
        time_base=info.time_base,
        metadata={},
        disposition=frozenset(),
        pts=given.shown.pts,
        durations=given.shown.durations,
    )
    if given.streams_from is None:
        stock = Inventory(
            path=info.path,
            container=info.container,
            muxer="nut",
            streams=(video,),
            video=0,
            wanted=frozenset({0}),
            metadata={},
            chapters=(),
            ended_early=None,
        )
    else:
        beside = take_stock(given.streams_from, wanted=streams.map)
        replaced = beside.stream(beside.video)
        video = replace(
            video,
            index=replaced.index,
            metadata=replaced.metadata,
            disposition=replaced.disposition,
        )
        stock = replace(
            beside,
            streams=tuple(
                video if stream.index == beside.video else stream for stream in beside.streams
            ),
        )
    aspect = info.sample_aspect_ratio or Fraction(1)
    names: dict[str, str | None] = dict.fromkeys(
        ("display matrix", "field order", "mastering display", "content light")
    )
    names["sample aspect ratio"] = (
        None if aspect == 1 else f"{aspect.numerator}:{aspect.denominator}"
    )
    return stock, Declared(
        tags=info.tags,
        width=info.width,
        height=info.height,
        aspect=aspect,
        names=names | color_names(info.tags),
    )
