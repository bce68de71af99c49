"""Frames of a clip to larger ones: what the command line does between decoder and encoder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from hatvid import Upscaler
from hatvid.errors import EngineError, InputError
from hatvid.options import ColorOptions
from hatvid.resampling import resample
from hatvid.video.color import ColorTags, assumed, planes_to_rgb, rgb_to_planes
from hatvid.video.convert import PlaneLayout
from hatvid.video.resize import aspect_after
from hatvid.video.vs_frames import number_in, props_of, tags_of

__all__ = ["Enlarger", "Reading", "Shape", "refuse_fields"]

type Planes = tuple[Tensor, ...]


class Reading:
    """What the codes of one clip's frames mean.

    Args:
        layout: of the planes.
        height: of the frames in pixels.
        width: likewise.
        colors: in place of what frames say.
        say: told, once, what was assumed of frames that do not say it.
    """

    def __init__(
        self,
        layout: PlaneLayout,
        height: int,
        width: int,
        *,
        colors: ColorOptions,
        say: Callable[[str], None],
    ) -> None:
        self._layout = layout
        self._size = height, width
        self._colors = colors
        self._say: Callable[[str], None] | None = say
        self._lock = threading.Lock()

    def tags(self, props: Mapping[str, Any]) -> ColorTags:
        """By which a frame is read, and its larger one written; nothing left open.

        Raises:
            InputError: its matrix is one that hatvid has no formula for.
        """
        said = tags_of(props).overruled_by(self._colors)
        tags = assumed(said, self._layout, *self._size)
        if said.describe() != tags.describe() and self._layout.family != "rgb":
            with self._lock:
                say, self._say = self._say, None
            if say is not None:
                say(f"colours: {said.describe()} -> {tags.describe()}, and tagged so")
        return tags


class Shape:
    """The properties of larger frames that are not those of the frames they come from.

    Args:
        before: (width, height) of the frames.
        after: (width, height) of the larger ones.
        reading: None where samples are no codes.
    """

    def __init__(
        self, before: tuple[int, int], after: tuple[int, int], reading: Reading | None
    ) -> None:
        self._before, self._after = before, after
        self._reading = reading

    def changed(self, props: Mapping[str, Any]) -> dict[str, int]:
        """What is to be set on a frame that has all properties of its source."""
        changes = {} if self._reading is None else props_of(self._reading.tags(props))
        told = number_in(props, "_SARNum") or 0, number_in(props, "_SARDen") or 0
        aspect = Fraction(*told) if min(told) > 0 else None
        after = aspect_after(aspect, self._before, self._after)
        if after is not None and after != aspect:
            changes |= {"_SARNum": after.numerator, "_SARDen": after.denominator}
        return changes


class Enlarger:
    """Runs frames through an upscaler.

    Args:
        upscaler: warmed up for them.
        layout: of their planes; None for RGB in floating point.
        height: of the larger frames, in pixels.
        width: likewise.
    """

    def __init__(
        self, upscaler: Upscaler, layout: PlaneLayout | None, *, height: int, width: int
    ) -> None:
        self._upscaler = upscaler
        self._layout = layout
        self._size = height, width

    def __call__(self, frames: Sequence[Planes], tags: Sequence[ColorTags | None]) -> list[Planes]:
        """Larger frames.

        Args:
            frames: planes of each.
            tags: of each; None where samples are no codes.

        Raises:
            EngineError: the network gave values that are no numbers, or failed.
            OutOfMemoryError: a smaller tile is needed.
        """
        pairs = list(zip(frames, tags, strict=True))
        rgb = torch.cat([self._decoded(planes, read_by) for planes, read_by in pairs])
        larger = resample(self._upscaler(rgb), *self._size)
        if not larger.isfinite().all():
            raise EngineError(
                "the network gave values that are no numbers even in fp32; look at the "
                "checkpoint with hatvid models check"
            )
        return [
            self._coded(larger[number : number + 1], planes[0].dtype, written_by)
            for number, (planes, written_by) in enumerate(pairs)
        ]

    def _decoded(self, planes: Planes, tags: ColorTags | None) -> Tensor:
        there = tuple(plane.to(self._upscaler.device).unsqueeze(0) for plane in planes)
        if self._layout is None or tags is None:
            return torch.stack(there, 1).to(torch.float32)
        return planes_to_rgb(there, self._layout, tags)

    def _coded(self, rgb: Tensor, dtype: torch.dtype, tags: ColorTags | None) -> Planes:
        if self._layout is None or tags is None:
            return tuple(rgb[0].to(dtype).cpu())
        return tuple(plane[0].cpu() for plane in rgb_to_planes(rgb, self._layout, tags))


def refuse_fields(props: Mapping[str, Any]) -> None:
    """Stop at a frame that is two pictures, as the command line does.

    Raises:
        InputError: it is.
    """
    if number_in(props, "_FieldBased"):
        raise InputError(
            "the clip is interlaced (_FieldBased): deinterlace it first; if it only says so, "
            "clip.std.SetFieldBased(0)"
        )
