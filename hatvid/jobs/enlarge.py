"""From the planes of a source's frames to those of the output's, on the network's device.

:class:`Straight` finishes each batch before it takes the next. :class:`InFlight` keeps
several on their way where the engine can: what has to be computed again in fp32 is found
when a batch has landed, and is then done the straight way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from hatvid.engine.lanes import Lanes
from hatvid.engine.runtime import Runtime
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
from hatvid.video.pictures import AnyPacket
from hatvid.video.source import FrameBatch, SourceInfo

__all__ = ["Finished", "InFlight", "Source", "Straight", "WRITE_BEHIND", "Way", "way_for"]

Item = FrameBatch | AnyPacket

WRITE_BEHIND = 4
"""Finished items that wait for the encoder at most."""


@dataclass(frozen=True)
class Finished:
    """A packet, or larger frames; in the order of what was put in."""

    item: Item
    release: Callable[[], None] | None = None
    """To be called when the item's planes are no longer read."""


class Source(Protocol):
    """What has to be known of where frames come from."""

    info: SourceInfo

    def seconds(self, pts: int) -> Fraction:
        """A pts as seconds after the first frame of the file."""
        ...


class Way(Protocol):
    """How items get from the decoder to the encoder."""

    def put(self, item: Item) -> Iterator[Finished]:
        """Take one item; what is finished by then, in order."""
        ...

    def flush(self) -> Iterator[Finished]:
        """What is still on its way."""
        ...

    def close(self) -> None:
        """Leave nothing running, whatever was not finished."""
        ...


def way_for(
    source: Source,
    upscaler: Upscaler,
    facts: Description,
    plan: OutputPlan,
    done: Callable[[FrameBatch], None],
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
    if runtime is None:
        return straight
    return InFlight(runtime, straight, frames=frames, download=download)


@dataclass(frozen=True)
class Straight:
    """One batch after the other."""

    source: Source
    upscaler: Upscaler
    facts: Description
    plan: OutputPlan
    done: Callable[[FrameBatch], None]
    mended: Callable[[FrameBatch, MendedTile], None]

    @property
    def layout(self) -> PlaneLayout:
        """Of the source's planes."""
        return self.source.info.layout

    def put(self, item: Item) -> Iterator[Finished]:
        """See :class:`Way`."""
        yield Finished(self.enlarged(item) if isinstance(item, FrameBatch) else item)

    def flush(self) -> Iterator[Finished]:
        """See :class:`Way`."""
        return iter(())

    def close(self) -> None:
        """See :class:`Way`; nothing runs between two batches."""

    def enlarged(self, batch: FrameBatch) -> FrameBatch:
        """The larger frames of one batch.

        Raises:
            EngineError: the network gave values that are no numbers.
        """
        device = torch.device(self.facts.device)
        planes = tuple(plane.to(device, non_blocking=True) for plane in batch.planes)

        def upscaled(rgb: Tensor) -> Tensor:
            return self.upscaler(rgb, mended=lambda tile: self.mended(batch, tile))

        rgb = self.sized(upscaled(planes_to_rgb(planes, self.layout, self.plan.tags_in)))
        if not rgb.isfinite().all():
            at = float(self.source.seconds(batch.times[0].pts))
            raise EngineError(
                f"the network gave values that are no numbers for the frame at {at:.3f} s "
                "even in fp32; look at the checkpoint with hatvid models check"
            )
        alpha = None
        if self.through_alpha:
            # Beside the colours, through the same network, as a gray picture.
            alpha = self.sized(upscaled(alpha_to_rgb(planes, self.layout)))
        larger = self.coded(rgb, alpha)
        self.done(batch)
        return replace(batch, planes=tuple(plane.cpu() for plane in larger))

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


class InFlight:
    """Several batches on their way at once.

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
        # Packets keep their places between the batches; None stands for one of those.
        self._order: deque[AnyPacket | None] = deque()

    def put(self, item: Item) -> Iterator[Finished]:
        """See :class:`Way`."""
        if not isinstance(item, FrameBatch):
            self._order.append(item)
        else:
            if self._lanes.full:
                yield self._landed()
            self._lanes.submit(item.planes, item)
            self._order.append(None)
        yield from self._packets()

    def flush(self) -> Iterator[Finished]:
        """See :class:`Way`."""
        while self._lanes:
            yield from self._packets()
            yield self._landed()
        yield from self._packets()

    def close(self) -> None:
        """See :class:`Way`."""
        # Buffers are given back with the lanes; nothing may be writing to them then.
        self._runtime.synchronize()

    def _packets(self) -> Iterator[Finished]:
        while self._order and (packet := self._order[0]) is not None:
            self._order.popleft()
            yield Finished(packet)

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
            return Finished(self._straight.enlarged(batch))
        self._straight.done(batch)
        larger = replace(batch, planes=tuple(plane[:count] for plane in planes))
        return Finished(larger, landed.release)

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
