"""From the planes of a source's frames to those of the output's, on the network's device.

:class:`Straight` finishes each batch before it takes the next. :class:`InFlight` keeps
several on their way where the engine can: what has to be computed again in fp32 is found
when a batch has landed, and is then done the straight way.

Frames that repeat the one before take its planes (:mod:`hatvid.jobs.held`); tiles that
come again are the upscaler's business, and so not found in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from hatvid.engine.lanes import Lanes
from hatvid.engine.runtime import Runtime
from hatvid.errors import EngineError
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.held import HeldFrames, Holding
from hatvid.jobs.way import Done, Finished, Item, Larger, Way
from hatvid.resampling import resample
from hatvid.reuse import Reused
from hatvid.upscaler import Description, MendedTile, Upscaler
from hatvid.video.color import (
    alpha_to_rgb,
    planes_to_rgb,
    rgb_to_alpha,
    rgb_to_planes,
    with_edge_repeated,
)
from hatvid.video.convert import PlaneLayout
from hatvid.video.pictures import AnyPacket
from hatvid.video.source import FrameBatch, SourceInfo

__all__ = ["InFlight", "Source", "Straight", "WRITE_BEHIND", "way_for"]

WRITE_BEHIND = 4
"""Finished items that wait for the encoder at most."""


class Source(Protocol):
    """What has to be known of where frames come from."""

    info: SourceInfo


def way_for(
    source: Source,
    upscaler: Upscaler,
    facts: Description,
    plan: OutputPlan,
    done: Done,
    mended: Callable[[FrameBatch, MendedTile], None],
    *,
    frames: int,
    download: bool = True,
) -> Way:
    """The best that the upscaler's engine can do; arguments as of ``pump``.

    Args:
        frames: in a batch, at most.
        download: the encoder takes planes from main memory.
    """
    straight = Straight(source, upscaler, facts, plan, done, mended)
    runtime = upscaler.runtime(source.info.height, source.info.width)
    if runtime is not None:
        return InFlight(runtime, straight, frames=frames, download=download)
    if upscaler.reuse.mode != "off" and facts.alone:
        return Holding(straight, frames=frames, allowed=straight.reuses)
    return straight


@dataclass(frozen=True)
class Straight:
    """One batch after the other."""

    source: Source
    upscaler: Upscaler
    facts: Description
    plan: OutputPlan
    done: Done
    mended: Callable[[FrameBatch, MendedTile], None]

    @property
    def layout(self) -> PlaneLayout:
        """Of the source's planes."""
        return self.source.info.layout

    @property
    def tiles(self) -> int:
        """That go through the network for one frame."""
        return self.facts.tiles * (1 + self.through_alpha)

    def put(self, item: Item) -> Iterator[Finished]:
        """See :class:`~hatvid.jobs.way.Way`."""
        if isinstance(item, FrameBatch):
            item = self.told(item, self.computed(item))
        yield Finished(item)

    def flush(self) -> Iterator[Finished]:
        """See :class:`~hatvid.jobs.way.Way`."""
        return iter(())

    def close(self) -> None:
        """See :class:`~hatvid.jobs.way.Way`; nothing runs between two batches."""

    def computed(self, batch: FrameBatch) -> Larger:
        """What becomes of one batch, in main memory.

        Raises:
            EngineError: the network gave values that are no numbers.
        """
        device = torch.device(self.facts.device)
        planes = tuple(plane.to(device, non_blocking=True) for plane in batch.planes)
        mended: list[MendedTile] = []
        reused: list[Reused] = []

        def upscaled(rgb: Tensor) -> Tensor:
            return self.sized(self.upscaler(rgb, mended=mended.append, reused=reused.append))

        rgb = upscaled(planes_to_rgb(planes, self.layout, self.plan.tags_in))
        # One pass, which isfinite() is not; what is no number is the least and the most.
        if not torch.stack(rgb.aminmax()).isfinite().all():
            at = float(self.source.info.seconds(batch.times[0].pts))
            raise EngineError(
                f"the network gave values that are no numbers for the frame at {at:.3f} s "
                "even in fp32; look at the checkpoint with hatvid models check"
            )
        alpha = None
        if self.through_alpha:
            # After the colours, through the same network, as a gray picture.
            alpha = upscaled(alpha_to_rgb(planes, self.layout))
        larger = tuple(plane.cpu() for plane in self.coded(rgb, alpha))
        return Larger(larger, mended, sum(reused, Reused()))

    def told(self, batch: FrameBatch, larger: Larger) -> FrameBatch:
        """The larger frames, when those who want to know have been told of them."""
        for tile in larger.mended:
            self.mended(batch, tile)
        self.done(batch, larger.reused)
        return replace(batch, planes=larger.planes)

    def reuses(self) -> bool:
        """Whether a frame may take what became of another; see
        :meth:`hatvid.upscaler.Upscaler.reuses`."""
        return self.upscaler.reuses(self.source.info.height, self.source.info.width)

    @property
    def through_alpha(self) -> bool:
        """Whether opacity goes through the network too."""
        return self.layout.alpha and self.plan.layout.alpha

    def sized(self, rgb: Tensor) -> Tensor:
        """What the upscaler gives, at the output's size: (N, 3, H, W)."""
        width, height = self.plan.padded
        larger = resample(rgb, self.plan.height, self.plan.width)
        return with_edge_repeated(larger, height, width)

    def coded(self, rgb: Tensor, alpha: Tensor | None) -> tuple[Tensor, ...]:
        """The output's planes."""
        layout = self.plan.layout
        larger = rgb_to_planes(rgb, layout, self.plan.tags)
        if not layout.alpha:
            return larger
        if alpha is None:
            return (*larger, torch.full_like(larger[0], 2**layout.depth - 1))
        return (*larger, rgb_to_alpha(alpha, layout))


@dataclass(frozen=True)
class _Held:
    """A batch that repeats the one before."""

    batch: FrameBatch


class InFlight:
    """Several batches on their way at once.

    Frames are recorded whole: tiles are not looked at. Batches that repeat the one before
    are not computed; each frame must be where the other was, as bits may hang on that.

    Args:
        runtime: of the upscaler's device.
        straight: does what has to be done again.
        frames: in a batch, at most; a shorter one is filled up.
        download: bring the planes to main memory.
    """

    def __init__(
        self, runtime: Runtime, straight: Straight, *, frames: int, download: bool = True
    ) -> None:
        self._runtime = runtime
        self._straight = straight
        self._frames = frames
        info, upscaler = straight.source.info, straight.upscaler
        shapes = straight.layout.plane_shapes(info.height, info.width)
        programs = []
        for number in range(straight.facts.streams):
            inputs = tuple(
                torch.zeros((frames, *shape), dtype=straight.layout.dtype, device=runtime.device)
                for shape in shapes
            )
            programs.append(
                upscaler.program(
                    runtime,
                    inputs,
                    height=info.height,
                    width=info.width,
                    before=self._before,
                    after=self._after,
                    own=number > 0,
                )
            )
        self._lanes: Lanes[FrameBatch] = Lanes(
            runtime, programs, held=WRITE_BEHIND + 1, download=download
        )
        # Packets keep their places between the batches; None stands for one on its way.
        self._order: deque[AnyPacket | _Held | None] = deque()
        self._held = HeldFrames(self._may_hold)
        self._last: Larger | None = None

    def put(self, item: Item) -> Iterator[Finished]:
        """See :class:`~hatvid.jobs.way.Way`."""
        if not isinstance(item, FrameBatch):
            self._order.append(item)
        elif self._held.repeats(item.planes):
            if sum(isinstance(entry, _Held) for entry in self._order) >= self._lanes.depth:
                yield self._landed()
            self._order.append(_Held(item))
        else:
            if self._lanes.full:
                yield self._landed()
            self._lanes.submit(item.planes, item)
            self._order.append(None)
        yield from self._ready()

    def flush(self) -> Iterator[Finished]:
        """See :class:`~hatvid.jobs.way.Way`."""
        while self._lanes:
            yield from self._ready()
            yield self._landed()
        yield from self._ready()

    def close(self) -> None:
        """See :class:`~hatvid.jobs.way.Way`."""
        # Buffers are given back with the lanes; nothing may be writing to them then.
        self._runtime.synchronize()

    def _ready(self) -> Iterator[Finished]:
        """What waits for no batch that is on its way."""
        while self._order and (entry := self._order[0]) is not None:
            self._order.popleft()
            if isinstance(entry, _Held):
                assert self._last is not None
                tiles = len(entry.batch.times) * self._straight.tiles
                last = replace(self._last, reused=Reused(tiles=tiles, hits=tiles))
                yield Finished(self._straight.told(entry.batch, last))
            else:
                yield Finished(entry)

    def _landed(self) -> Finished:
        landed = self._lanes.collect()
        self._order.popleft()
        batch = landed.item
        count = len(batch.times)
        *planes, finite, wrong = landed.outputs
        suspect = wrong.view(-1, self._frames, self._straight.facts.tiles)[:, :count].any()
        watched = self._straight.facts.precision != "fp32"
        if not finite[:count].all() or (watched and suspect):
            # The engine is shared with what is on its way.
            self._runtime.synchronize()
            landed.release()
            self._last = self._straight.computed(batch)
            return Finished(self._straight.told(batch, self._last))
        counted = Reused(tiles=count * self._straight.tiles)
        larger = Larger(tuple(plane[:count] for plane in planes), (), counted)
        following = (entry for entry in self._order if entry is None or isinstance(entry, _Held))
        if next(following, _Held) is not None:
            # One that repeats it follows, or may. The lane's buffers are used again.
            self._last = replace(larger, planes=tuple(plane.clone() for plane in larger.planes))
        return Finished(self._straight.told(batch, larger), landed.release)

    def _may_hold(self) -> bool:
        # It is tried with the engine, whose buffers others may be using.
        self._runtime.synchronize()
        return self._straight.reuses()

    def _before(self, planes: tuple[Tensor, ...]) -> Tensor:
        straight = self._straight
        rgb = planes_to_rgb(planes, straight.layout, straight.plan.tags_in)
        if not straight.through_alpha:
            return rgb
        return torch.cat([rgb, alpha_to_rgb(planes, straight.layout)])

    def _after(self, larger: Tensor) -> tuple[Tensor, ...]:
        straight = self._straight
        sized = straight.sized(larger)
        rgb, alpha = sized.chunk(2) if straight.through_alpha else (sized, None)
        finite = rgb.isfinite().flatten(1).all(1)
        return (*straight.coded(rgb, alpha), finite)
