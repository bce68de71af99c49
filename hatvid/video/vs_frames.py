"""VapourSynth's frames as planes, and their properties as colour tags, both ways.

Nothing here imports VapourSynth: its objects come from those who do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from hatvid.video.color import UNSPECIFIED, ColorTags
from hatvid.video.convert import PlaneLayout
from hatvid.video.hdr import ContentLight, Hdr, MasteringDisplay

__all__ = [
    "VSFormat",
    "VSFrame",
    "hdr_of",
    "layout_of",
    "number_in",
    "planes_of",
    "props_of",
    "tags_of",
]

_FAMILIES: dict[str, Literal["yuv", "gray", "rgb"]] = {"YUV": "yuv", "GRAY": "gray", "RGB": "rgb"}
_SUBSAMPLINGS = {
    (0, 0): "444",
    (0, 1): "440",
    (1, 0): "422",
    (1, 1): "420",
    (2, 0): "411",
    (2, 2): "410",
}


class VSFormat(Protocol):
    """What is asked of a ``vapoursynth.VideoFormat``."""

    color_family: Any
    sample_type: Any
    bits_per_sample: int
    subsampling_w: int
    subsampling_h: int
    num_planes: int


class VSFrame(Protocol):
    """What is asked of a ``vapoursynth.VideoFrame``."""

    width: int
    height: int

    def __getitem__(self, index: int) -> Any: ...


def layout_of(form: VSFormat) -> PlaneLayout | None:
    """The layout of a clip's planes; None for samples that are no codes of 8 to 16 bits.

    ``pix_fmt`` is as FFmpeg names such frames, even where it has none of that depth.
    """
    family, depth = _FAMILIES.get(form.color_family.name), form.bits_per_sample
    if family is None or form.sample_type.name != "INTEGER" or not 8 <= depth <= 16:
        return None
    subsampling = form.subsampling_w, form.subsampling_h
    names = {"yuv": f"yuv{_SUBSAMPLINGS.get(subsampling, '?')}p", "gray": "gray", "rgb": "gbrp"}
    return PlaneLayout(
        pix_fmt=names[family] + ("" if depth == 8 else f"{depth}le"),
        family=family,
        depth=depth,
        log2_chroma_w=form.subsampling_w,
        log2_chroma_h=form.subsampling_h,
        # FFmpeg has green first.
        plane_order={"yuv": (0, 1, 2), "gray": (0,), "rgb": (2, 0, 1)}[family],
    )


def planes_of(frame: VSFrame, count: int) -> tuple[Tensor, ...]:
    """Copies of a frame's planes, each (h, w), of the samples' own type."""
    return tuple(torch.from_numpy(np.array(frame[index])) for index in range(count))


def tags_of(props: Mapping[str, Any]) -> ColorTags:
    """What a frame's properties say of its colours.

    ``_Range`` counts as H.273 does, 1 is full; VapourSynth itself turns ``_ColorRange``,
    the older property that counts the other way round, into it.
    """

    def said(name: str, unsaid: int) -> int:
        value = number_in(props, name)
        return unsaid if value is None else value

    location = said("_ChromaLocation", -1)
    return ColorTags(
        matrix=said("_Matrix", UNSPECIFIED),
        full_range={0: False, 1: True}.get(said("_Range", -1)),
        primaries=said("_Primaries", UNSPECIFIED),
        transfer=said("_Transfer", UNSPECIFIED),
        # FFmpeg's are one more, and 0 where nothing is said.
        chroma_location=location + 1 if 0 <= location <= 5 else 0,
    )


def props_of(tags: ColorTags) -> dict[str, int]:
    """The properties that say matrix, range and, where there is one, chroma location."""
    props = {"_Matrix": tags.matrix, "_Range": int(bool(tags.full_range))}
    if tags.chroma_location:
        props["_ChromaLocation"] = tags.chroma_location - 1
    return props


def hdr_of(props: Mapping[str, Any]) -> Hdr | None:
    """What a frame's properties say of the display it was graded on, and of its brightness,
    by the names that BestSource and FFMS2 give them; None where they say neither."""

    def steps(name: str, unit: float) -> list[int]:
        value = props.get(f"MasteringDisplay{name}", [])
        numbers = value if isinstance(value, list) else [value]
        return [round(number / unit) for number in numbers if isinstance(number, int | float)]

    across, down = steps("PrimariesX", 2e-5), steps("PrimariesY", 2e-5)
    white = steps("WhitePointX", 2e-5) + steps("WhitePointY", 2e-5)
    least, most = steps("MinLuminance", 1e-4), steps("MaxLuminance", 1e-4)
    mastering = light = None
    if [len(part) for part in (across, down, white, least, most)] == [3, 3, 2, 1, 1]:
        red, green, blue = zip(across, down, strict=True)
        mastering = MasteringDisplay(
            red=red,
            green=green,
            blue=blue,
            white=(white[0], white[1]),
            max_luminance=most[0],
            min_luminance=least[0],
        )
    brightest = number_in(props, "ContentLightLevelMax") or 0
    average = number_in(props, "ContentLightLevelAverage") or 0
    if brightest or average:
        light = ContentLight(max_cll=brightest, max_fall=average)
    found = Hdr(mastering=mastering, light=light)
    return found if found.carried else None


def number_in(props: Mapping[str, Any], name: str) -> int | None:
    """A property that is a whole number; None where it is not there, or no such number."""
    value = props.get(name)
    return int(value) if isinstance(value, int) else None
