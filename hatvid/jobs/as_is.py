"""Frames that are only encoded, as a script made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hatvid.description import Description
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.way import Done, Finished, Item
from hatvid.reuse import Reused
from hatvid.video.batch import FrameBatch
from hatvid.video.color import planes_to_rgb, rgb_to_planes, with_edge_repeated
from hatvid.video.source import SourceInfo

__all__ = ["AS_IS", "AsIs", "as_is"]

AS_IS = "none"
"""Stands for the model, the engine and the precision where there is none."""


def as_is(info: SourceInfo) -> Description:
    """How frames are upscaled that are not."""
    return Description(
        model=AS_IS,
        scale=1,
        network_scale=1,
        engine=AS_IS,
        precision=AS_IS,
        device="cpu",
        threads=1,
        streams=1,
        tile_height=info.height,
        tile_width=info.width,
        overlap=0,
        tiles=1,
        tile=0,
        chunked=False,
        batch=1,
        fidelity=None,
    )


@dataclass(frozen=True)
class AsIs:
    """Hands batches on: the very samples, where the encoder takes such."""

    info: SourceInfo
    plan: OutputPlan
    done: Done

    def put(self, item: Item) -> Iterator[Finished]:
        """See :class:`~hatvid.jobs.way.Way`."""
        if isinstance(item, FrameBatch):
            item = replace(item, planes=self._coded(item.planes))
            self.done(item, Reused())
        yield Finished(item)

    def flush(self) -> Iterator[Finished]:
        """See :class:`~hatvid.jobs.way.Way`."""
        return iter(())

    def close(self) -> None:
        """See :class:`~hatvid.jobs.way.Way`; nothing runs between two batches."""

    def _coded(self, planes: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        before, after = self.info.layout, self.plan.layout
        width, height = self.plan.padded
        # Packed formats are made of these planes too.
        same = replace(before, pix_fmt="", plane_order=()) == replace(
            after, pix_fmt="", plane_order=()
        )
        if same and self._same_colors and (width, height) == (self.info.width, self.info.height):
            return planes
        rgb = with_edge_repeated(planes_to_rgb(planes, before, self.plan.tags_in), height, width)
        coded = rgb_to_planes(rgb, after, self.plan.tags)
        if not after.alpha:
            return coded
        if not before.alpha:
            return (*coded, torch.full_like(coded[0], 2**after.depth - 1))
        return (*coded, self._alpha(planes[-1]))

    @property
    def _same_colors(self) -> bool:
        before, after = self.plan.tags_in, self.plan.tags
        return (before.matrix, before.full_range, before.chroma_location) == (
            after.matrix,
            after.full_range,
            after.chroma_location,
        )

    def _alpha(self, alpha: Tensor) -> Tensor:
        before, after = self.info.layout, self.plan.layout
        width, height = self.plan.padded
        value = alpha.to(torch.float32).unsqueeze(1) / (2.0**before.depth - 1)
        value = with_edge_repeated(value, height, width)[:, 0]
        codes = (value * (2.0**after.depth - 1)).round()
        return codes.to(torch.int32).to(after.dtype)
