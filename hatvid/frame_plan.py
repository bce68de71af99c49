"""How frames of one size are run: in tiles, or whole in chunks of windows.

What ``auto`` stands for is decided here, by the memory that is free and by what a
network takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import lcm

import torch
from torch import Tensor, nn

from hatvid.engine import COMPILERS, ON_CUDA, RECORDING, ResolvedEngine, TileSpec
from hatvid.engine.memory import (
    MEMORY_SHARE,
    MIN_TILE,
    available_memory,
    bytes_per_pixel,
    choose_tile,
)
from hatvid.errors import OptionError
from hatvid.frame_memory import (
    network_bytes,
    pieces_by_size,
    recorded_frame_bytes,
    tile_bytes,
)
from hatvid.model.forms import Forms
from hatvid.model.whole import Pieces
from hatvid.options import WINDOW, TileOptions
from hatvid.tiling import TilePlan

__all__ = ["FramePlan", "FramePlanner", "check_frames"]

GIGABYTE = 10**9

FILLING_PIXELS = 2**17
"""Input pixels in one call that are taken to fill a GPU. By arithmetic, not measured: 512
windows of six heads are 3,072 blocks of attention, 23 for each of the 132 multiprocessors
of an H100."""


@dataclass(frozen=True)
class FramePlan:
    """How frames of one size are run."""

    tiles: TilePlan

    chunked: bool = False
    """The one tile is the whole frame, and the network goes through it in chunks of
    windows: the same result, in less memory."""

    batch: int = 1
    """Tiles in one call of the engine."""

    asked: int = 0
    """The side that tiles were planned by, 0 for the whole frame: asked for again, it gives
    the same plan."""

    def spec(self, scale: int, device: torch.device) -> TileSpec:
        """Of an engine that runs the tiles."""
        return TileSpec(
            batch=self.batch,
            height=self.tiles.tile_height,
            width=self.tiles.tile_width,
            scale=scale,
            device=device,
        )


class FramePlanner:
    """Plans each frame size once, and holds to it.

    Args:
        forms: of the network.
        scale: of the network.
        engine: that runs the tiles.
        fixed: the engine was asked for by name, and no other may take its place.
        options: tile, overlap, batch.
        device: whose memory counts.
        runs: the network in the form that the engine is given, in chunks or not; the one that
            takes most, if more than one may be. It is counted for engines that PyTorch runs.
        streams: tiles that a CPU computes side by side; networks that a GPU does.
        sharers: of the device's memory.
    """

    def __init__(
        self,
        forms: Forms,
        *,
        scale: int,
        engine: str,
        fixed: bool,
        options: TileOptions,
        device: torch.device,
        runs: Callable[[bool], nn.Module] | None = None,
        streams: int = 1,
        sharers: int = 1,
    ) -> None:
        self._forms = forms
        self._scale = scale
        self._engine = engine
        self._fixed = fixed
        self._options = options
        self._device = device
        self._runs_by, self._streams = engine, streams
        self._sharers = sharers
        self._runs = runs or (lambda chunked: forms.form(chunked=chunked))
        self._recorded = engine in RECORDING
        self._tile_bytes: tuple[int, int] | None = None
        self._counted: dict[tuple[TileSpec, bool, Pieces | None], int] = {}
        self._plans: dict[tuple[int, int], FramePlan] = {}

    @property
    def _batch(self) -> int:
        """As asked for. One tile keeps all cores busy, and a larger tile is better than
        more of them."""
        return 1 if self._options.batch == "auto" else self._options.batch

    def plan(self, height: int, width: int) -> FramePlan:
        """Of frames of one size, the same whenever it is asked for.

        Raises:
            OptionError: the size is not possible, or the whole frame does not fit.
        """
        if (height, width) not in self._plans:
            tile = self._options.tile
            if tile == "auto":
                plan = self._auto(height, width)
            elif tile == 0:
                plan = self._whole(height, width) or FramePlan(
                    self._cut(height, width, 0), self._in_chunks(height, width)
                )
            else:
                plan = FramePlan(self._cut(height, width, tile), asked=tile)
            self._plans[height, width] = replace(plan, batch=self._filling(plan))
        return self._plans[height, width]

    def shrink(self, height: int, width: int) -> bool:
        """Take smaller tiles for frames of one size from now on.

        Returns:
            False if the whole frame was asked for, or the tiles are at their smallest.
        """
        now = self.plan(height, width).tiles
        least = max(MIN_TILE, -(-2 * self._least_overlap // 16) * 16)
        longer = max(now.tile_height, now.tile_width)
        if self._options.tile == 0 or longer <= least:
            return False
        tile = max(least, longer // 2 // 16 * 16)
        plan = FramePlan(self._cut(height, width, tile), batch=self._batch, asked=tile)
        self._plans[height, width] = plan
        return True

    def settle(self, resolved: ResolvedEngine) -> None:
        """Fill batches for an engine that was measured to be faster than the one planned for;
        tiles stay as they are."""
        if resolved.engine != self._runs_by:
            self._runs_by, self._streams = resolved.engine, resolved.streams
            for size, plan in self._plans.items():
                self._plans[size] = replace(plan, batch=self._filling(plan))

    @property
    def _least_overlap(self) -> int:
        """That no tile may be less than twice as large as."""
        return 0 if self._options.overlap == "auto" else self._options.overlap

    def _cut(self, height: int, width: int, tile: int) -> TilePlan:
        grid = self._forms.grid
        if tile:
            grid = lcm(grid, WINDOW)
        return TilePlan.make(
            height, width, tile=tile, overlap=self._options.overlap_for(tile), grid=grid
        )

    def _auto(self, height: int, width: int) -> FramePlan:
        if (plan := self._whole(height, width)) is not None and self._fits(plan):
            return plan
        fixed, cost = self._cost()
        free = max(self._free(height, width) - int(fixed / MEMORY_SHARE), 0)
        tile = choose_tile(height, width, cost, free, self._least_overlap)
        return FramePlan(self._cut(height, width, tile), asked=tile)

    def _whole(self, height: int, width: int) -> FramePlan | None:
        """The whole frame, as PyTorch runs it: at once where that fits and is faster, else in
        the largest chunks that fit, or in the smallest; None if it is not ours to cut."""
        if not self._forms.rewritable or self._engine in COMPILERS:
            return None
        asked = self._options.chunked
        plan = FramePlan(self._cut(height, width, 0))
        # Without a recording chunks are no slower: what they compute with stays in the cache.
        if asked is False or (asked is None and self._recorded and self._fits(plan)):
            return plan
        plan = replace(plan, chunked=True)
        if self._recorded or self._device.type == "cuda":
            spec = self._whole_spec(plan)
            for pieces in pieces_by_size(spec, self._forms.grid):
                self._forms.pieces[spec.height, spec.width] = pieces
                if self._fits(plan):
                    break
        return plan

    def _fits(self, plan: FramePlan) -> bool:
        """Whether there is memory for a whole frame."""
        spec = self._whole_spec(plan)
        pieces = self._forms.pieces.get((spec.height, spec.width)) if plan.chunked else None
        if (spec, plan.chunked, pieces) not in self._counted:
            network = self._runs(plan.chunked)
            needed = network_bytes(network, spec, on_gpu=self._device.type == "cuda")
            self._counted[spec, plan.chunked, pieces] = needed * (
                self._streams if self._recorded else 1
            )
        free = self._free(plan.tiles.height, plan.tiles.width)
        return self._counted[spec, plan.chunked, pieces] <= free * MEMORY_SHARE

    def _whole_spec(self, plan: FramePlan) -> TileSpec:
        return replace(plan, batch=self._batch).spec(self._scale, self._device)

    def _in_chunks(self, height: int, width: int) -> bool:
        """Whether a whole frame that was asked for has to be run in chunks."""
        if not self._forms.rewritable:
            return False
        if self._options.chunked is not None:
            return self._options.chunked
        free = self._free(height, width)
        _, cost = self._cost()
        if choose_tile(height, width, cost, free, self._least_overlap) == 0:
            return False
        if self._fixed:
            needed = cost * height * width / GIGABYTE
            raise OptionError(
                f"engine {self._engine} takes about {needed:.1f} GB for a whole frame of "
                f"{width}x{height}, and {free / GIGABYTE:.1f} GB are free; engine eager runs it "
                "in chunks, or choose tile auto"
            )
        return True

    def _filling(self, plan: FramePlan) -> int:
        """How many tiles fill a GPU, or a CPU's streams, if that is left to us and there is
        memory for them."""
        if self._options.batch != "auto" or plan.chunked:
            return self._batch
        pixels = plan.tiles.tile_height * plan.tiles.tile_width
        if self._runs_by in ON_CUDA:
            wanted = FILLING_PIXELS // pixels
        elif self._runs_by == "openvino":
            wanted = self._streams
        else:
            return self._batch
        if wanted <= 1:
            return 1
        fixed, cost = self._cost()
        room = int(self._free(plan.tiles.height, plan.tiles.width) * MEMORY_SHARE) - fixed
        return max(1, min(wanted, room // (cost * pixels)))

    def _cost(self) -> tuple[int, int]:
        """Bytes that tiles take whatever their size, and for each pixel of a batch."""
        if self._tile_bytes is None:
            if self._recorded and self._forms.rewritable:
                on_gpu = self._device.type == "cuda"
                fixed, each = tile_bytes(self._runs(False), self._scale, on_gpu=on_gpu)
                self._tile_bytes = fixed * self._streams, each * self._streams
            else:
                each = bytes_per_pixel(self._forms.form(), scale=self._scale, engine=self._engine)
                self._tile_bytes = 0, each
        fixed, each = self._tile_bytes
        return fixed, each * self._batch

    def _free(self, height: int, width: int) -> int:
        """What is left of the device's memory, without what stands around the network."""
        if self._recorded:
            around = recorded_frame_bytes(height * width, self._scale, self._streams)
        else:
            # The result itself, and the strip of it that is being put together.
            around = 2 * height * width * 3 * self._scale**2 * torch.float32.itemsize
        return max(available_memory(self._device) // self._sharers - around, 0)


def check_frames(frames: Tensor) -> None:
    """Raise OptionError unless ``frames`` are (N, 3, H, W) of a floating dtype."""
    if not isinstance(frames, Tensor):
        raise OptionError(f"frames are {type(frames).__name__}; pass a torch tensor (N, 3, H, W)")
    if not frames.is_floating_point():
        raise OptionError(
            f"frames are {frames.dtype}; pass floating point in [0, 1], for 8 bits "
            "frames.float() / 255"
        )
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise OptionError(
            f"frames are {tuple(frames.shape)}; pass RGB (N, 3, H, W), one picture as (1, 3, H, W)"
        )
