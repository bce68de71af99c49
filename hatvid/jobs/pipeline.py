"""Decode, upscale and encode, each in its own thread, between two bounded queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from hatvid.errors import EngineError
from hatvid.jobs.format import OutputPlan
from hatvid.resampling import resample
from hatvid.upscaler import Description, MendedTile, Upscaler
from hatvid.video.color import (
    alpha_to_rgb,
    planes_to_rgb,
    rgb_to_alpha,
    rgb_to_planes,
    with_edge_repeated,
)
from hatvid.video.convert import PlaneLayout
from hatvid.video.fates import StreamFate
from hatvid.video.pictures import AnyPacket
from hatvid.video.prefetch import Prefetch, Writer
from hatvid.video.source import FrameBatch, VideoSource

__all__ = ["Sink", "pump"]

# Items that wait before and behind the network. Small frames are read well ahead, so
# that packets lying between them do not starve it; large ones are few.
_READ_AHEAD = 16
_WRITE_BEHIND = 4


class Sink(Protocol):
    """What takes the larger frames and the copied packets, and tells what became of them:
    :class:`~hatvid.video.sink.VideoSink` or
    :class:`~hatvid.video.picture_sink.PictureSink`."""

    notes: list[str]
    fates: tuple[StreamFate, ...]

    @property
    def copied(self) -> frozenset[int]: ...

    @property
    def frames(self) -> int: ...

    @property
    def packets_copied(self) -> dict[int, int]: ...

    @property
    def packets_moved(self) -> dict[int, int]: ...

    @property
    def packets_lost(self) -> dict[int, int]: ...

    @property
    def packets_early(self) -> dict[int, int]: ...

    @property
    def side_data_lost(self) -> Counter[str]: ...

    def write(self, item: FrameBatch | AnyPacket) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


def pump(
    source: VideoSource,
    sink: Sink,
    upscaler: Upscaler,
    facts: Description,
    plan: OutputPlan,
    done: Callable[[FrameBatch], None],
    mended: Callable[[FrameBatch, MendedTile], None],
) -> None:
    """Bring every frame and every copied packet from the source to the sink.

    Args:
        facts: of the upscaler, for the source's frame size.
        plan: of the output.
        done: told of each batch that has been upscaled, in this thread.
        mended: told of each tile of a batch that was computed again in fp32.
    """
    # As many frames at once as fill the engine's batch.
    frames = max(1, facts.batch // facts.tiles)
    device = torch.device(facts.device)
    layout = source.info.layout
    items = source.items(frames, sink.copied)
    with (
        Prefetch(items, depth=_READ_AHEAD, name="hatvid-decode") as reader,
        Writer(sink.write, depth=_WRITE_BEHIND, name="hatvid-encode") as writer,
    ):
        for item in reader:
            if not isinstance(item, FrameBatch):
                writer.put(item)
                continue
            planes = tuple(plane.to(device, non_blocking=True) for plane in item.planes)

            def told(tile: MendedTile, batch: FrameBatch = item) -> None:
                mended(batch, tile)

            larger = _enlarged(planes, layout, upscaler, plan, told)
            if larger is None:
                at = float(source.seconds(item.times[0].pts))
                raise EngineError(
                    f"the network gave values that are no numbers for the frame at {at:.3f} s "
                    "even in fp32; look at the checkpoint with hatvid models check"
                )
            writer.put(replace(item, planes=tuple(plane.cpu() for plane in larger)))
            done(item)
        writer.finish()


def _enlarged(
    planes: tuple[Tensor, ...],
    layout: PlaneLayout,
    upscaler: Upscaler,
    plan: OutputPlan,
    mended: Callable[[MendedTile], None],
) -> tuple[Tensor, ...] | None:
    """The output's planes; None where the network gave a value that is no number."""
    width, height = plan.padded

    def sized(rgb: Tensor) -> Tensor:
        larger = resample(upscaler(rgb, mended=mended), plan.height, plan.width)
        return with_edge_repeated(larger, height, width)

    rgb = sized(planes_to_rgb(planes, layout, plan.tags_in))
    if not rgb.isfinite().all():
        return None
    larger = rgb_to_planes(rgb, plan.layout, plan.tags)
    if not plan.layout.alpha:
        return larger
    if not layout.alpha:
        opaque = torch.full_like(larger[0], 2**plan.layout.depth - 1)
        return (*larger, opaque)
    # Beside the colours, through the same network, as a gray picture.
    return (*larger, rgb_to_alpha(sized(alpha_to_rgb(planes, layout)), plan.layout))
