"""What a video says of its own colours, shape and fields, as names for people."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.sidedata.sidedata import Type

from hatvid.codepoints import CHROMA_LOCATIONS, MATRICES, PRIMARIES, TRANSFERS, name_of
from hatvid.errors import InputError
from hatvid.options import ColorOptions, InputOptions
from hatvid.video.color import ColorTags
from hatvid.video.compare import decoded
from hatvid.video.inventory import open_file
from hatvid.video.pictures import positive

__all__ = ["Declared", "color_names", "declared", "frame_tags"]

# FFmpeg's AVFieldOrder.
_FIELD_ORDERS = {
    1: "progressive",
    2: "top first",
    3: "bottom first",
    4: "top first",
    5: "bottom first",
}


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What the first frame and the header say.

    Args:
        tags: of colour.
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        aspect: sample aspect ratio, 1 where the file says nothing.
        names: each property as text; None where the file says nothing.
    """

    tags: ColorTags
    width: int
    height: int
    aspect: Fraction
    names: Mapping[str, str | None]


def declared(path: Path, stream: int, reading: InputOptions | None = None) -> Declared:
    """Read what a file says of one of its video streams.

    Raises:
        InputError: the file cannot be read, or no frame of it decoded.
    """
    with closing(decoded(path, stream, reading)) as frames:  # type: ignore[type-var]
        frame = next(frames, None)
        if frame is None:
            raise InputError(f"{path}: no frame can be decoded; is the file whole?")
        tags = frame_tags(frame, reading.colors if reading is not None else ColorOptions())
        sides = {kind: bytes(frame.side_data[kind]) for kind in frame.side_data}
        size = frame.width, frame.height
    with open_file(path, reading) as container:
        video = container.streams[stream]
        assert isinstance(video, av.VideoStream)
        coded = video.codec_context.coded_side_data
        aspect = positive(video.sample_aspect_ratio) or Fraction(1)
        order = _FIELD_ORDERS.get(int(video.codec_context.field_order))
        mastering = coded.get("mastering_display_metadata") or sides.get(
            Type.MASTERING_DISPLAY_METADATA
        )
        light = coded.get("content_light_level") or sides.get(Type.CONTENT_LIGHT_LEVEL)
        matrix = coded.get("display_matrix") or sides.get(Type.DISPLAYMATRIX)
    names = {
        **color_names(tags),
        # Square is what a player takes where nothing is said.
        "sample aspect ratio": None if aspect == 1 else f"{aspect.numerator}:{aspect.denominator}",
        "display matrix": _display_matrix(matrix),
        "field order": order,
        "mastering display": _mastering(mastering),
        "content light": "max {}, average {}".format(*struct.unpack_from("=2I", light))
        if light
        else None,
    }
    return Declared(tags=tags, width=size[0], height=size[1], aspect=aspect, names=names)


def color_names(tags: ColorTags) -> dict[str, str | None]:
    """Each of the tags as text, None where it says nothing."""
    return {
        "matrix": _known(MATRICES, tags.matrix, 2),
        "range": {None: None, False: "limited", True: "full"}[tags.full_range],
        "primaries": _known(PRIMARIES, tags.primaries, 2),
        "transfer": _known(TRANSFERS, tags.transfer, 2),
        "chroma location": _known(CHROMA_LOCATIONS, tags.chroma_location, 0),
    }


def frame_tags(frame: av.VideoFrame, given: ColorOptions) -> ColorTags:
    """The colours that a frame is tagged with, or ``given`` in their place."""
    extent = {1: False, 2: True}.get(int(frame.color_range))
    if extent is None and frame.format.name.startswith("yuvj"):
        extent = True
    tags = ColorTags(
        matrix=int(frame.colorspace),
        full_range=extent,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        chroma_location=int(frame.chroma_location),
    )
    return tags.overruled_by(given)


def _known(table: dict[str, int], code: int, unspecified: int) -> str | None:
    # 0 and 3 are reserved by H.273, but for the matrix of RGB.
    if code == unspecified or (table is not MATRICES and code in (0, 3) and unspecified == 2):
        return None
    return name_of(table, code)


def _display_matrix(data: bytes | None) -> str | None:
    """The four numbers that turn and mirror; the others only move."""
    if not data:
        return None
    values = struct.unpack_from("=9i", data)
    turn = tuple(round(values[n] / 65536, 3) for n in (0, 1, 3, 4))
    return None if turn == (1, 0, 0, 1) else " ".join(f"{value:g}" for value in turn)


def _mastering(data: bytes | None) -> str | None:
    """AVMasteringDisplayMetadata: primaries, white point, luminance, as rationals.

    In the steps of SMPTE ST 2086 (0.00002 and 0.0001 cd/m2): containers keep floats.
    """
    if not data:
        return None
    numbers = struct.unpack_from("=22i", data)
    pairs = [(numbers[n], numbers[n + 1]) for n in range(0, 20, 2)]
    values = [a / b if b else 0.0 for a, b in pairs]
    points = " ".join(
        f"({x:.4f},{y:.4f})" for x, y in zip(values[0:8:2], values[1:8:2], strict=True)
    )
    parts = []
    if numbers[20]:
        parts.append(f"primaries and white {points}")
    if numbers[21]:
        parts.append(f"{values[8]:.4f} to {values[9]:.2f} cd/m2")
    return ", ".join(parts) or None
