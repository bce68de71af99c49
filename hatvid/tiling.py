"""Where tiles lie on a frame, what each one owns, and how they are put together.

A frame is padded right and bottom, by reflection, to a multiple of the window
grid, as the published network pads it. Along each axis tiles of one size then
cover the padded length; their origins lie on the grid, so that every tile sees
the same windows as the whole frame would. A seam runs through the middle of
what two neighbours share; around it the two are blended by a linear ramp.

All positions are integers. Those of :class:`Axis` are in input pixels; the
scale comes in only when tiles are put together, and then everything, the blend
bands too, is multiplied by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from hatvid.errors import OptionError

__all__ = ["Axis", "Canvas", "Ramps", "TilePlan", "blend_ramps"]

Ramps = Mapping[int, Tensor]
"""As :func:`blend_ramps` makes them."""

BLEND = 8
"""Width of a blend band in input pixels. The rest of what two tiles share is context
that they look at and do not show: near its own edge a tile knows least, so a narrow
band in the middle is nearer to the whole frame than a wide one."""


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis of a frame, in input pixels."""

    length: int
    """Of the frame."""

    padded: int
    """Of the frame after padding, a multiple of the grid."""

    tile: int
    """Of every tile, a multiple of the grid."""

    origins: tuple[int, ...]
    """Where each tile starts; the last one ends at ``padded``."""

    overlap: int
    """Width that a blend band has where there is room for it."""

    @classmethod
    def make(cls, length: int, *, tile: int, overlap: int, grid: int) -> Axis:
        """Lay the fewest tiles that share at least ``overlap`` pixels.

        A smaller tile that needs no more tiles is taken instead of ``tile``:
        the same seams, fewer pixels computed twice.

        Args:
            length: of the frame, at least 1.
            tile: the largest tile, a multiple of ``grid``; 0 for the whole axis.
            overlap: pixels that neighbours share at least.
            grid: what origins, tiles and the padded length are multiples of.

        Raises:
            OptionError: the overlap leaves no step of at least one grid line.
        """
        padded = -(-length // grid) * grid
        if tile == 0 or tile >= padded:
            return cls(length, padded, padded, (0,), overlap)
        count = _tile_count(padded, tile, overlap, grid)
        if count == 0:
            raise OptionError(
                f"overlap {overlap} leaves tiles of {tile} pixels no room to advance by {grid}; "
                "take a larger tile or a smaller overlap"
            )
        while _tile_count(padded, tile - grid, overlap, grid) == count:
            tile -= grid
        lines = (padded - tile) // grid
        origins = tuple(index * lines // (count - 1) * grid for index in range(count))
        return cls(length, padded, tile, origins, overlap)

    @cached_property
    def seams(self) -> tuple[int, ...]:
        """Between neighbours: the middle of what they share."""
        starts, tile = self.origins, self.tile
        return tuple((a + tile + b) // 2 for a, b in pairwise(starts))

    @cached_property
    def owned(self) -> tuple[tuple[int, int], ...]:
        """For each tile the pixels ``[start, stop)`` of the frame that it owns."""
        cuts = (0, *self.seams, self.length)
        return tuple(pairwise(cuts))

    @cached_property
    def bands(self) -> tuple[int, ...]:
        """Width of the blend band around each seam.

        At most ``BLEND`` and ``overlap``, or less where the next seam is nearer than
        that: no pixel is a mixture of more than two tiles.
        """
        cuts = (-self.padded, *self.seams, 2 * self.padded)
        gaps = [b - a for a, b in pairwise(cuts)]
        return tuple(min(BLEND, self.overlap, *pair) for pair in pairwise(gaps))

    def band(self, seam: int, scale: int) -> tuple[int, int]:
        """Output pixels ``[start, stop)`` blended around seam number ``seam``."""
        width = self.bands[seam] * scale
        start = self.seams[seam] * scale - width // 2
        return start, start + width


def _tile_count(padded: int, tile: int, overlap: int, grid: int) -> int:
    """Fewest tiles that cover the axis; 0 if such tiles cannot advance."""
    step = (tile - overlap) // grid * grid
    return 1 + -(-(padded - tile) // step) if step > 0 else 0


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one frame size, row by row from the top left.

    Make it with :meth:`make`. Plans are equal when they cut alike.
    """

    rows: Axis
    columns: Axis

    @classmethod
    def make(cls, height: int, width: int, *, tile: int, overlap: int, grid: int = 16) -> TilePlan:
        """Plan the tiles of a frame.

        Args:
            height: of the frame in pixels, at least 1.
            width: of the frame in pixels, at least 1.
            tile: the largest side of a tile, a multiple of ``grid``; 0 takes the
                whole padded frame as one tile. An axis that is not longer than
                ``tile`` has one tile of its padded length.
            overlap: pixels that neighbours share at least, and over which they
                are blended.
            grid: the window size of the network.

        Raises:
            OptionError: a value is out of range, or tile and overlap do not fit.
        """
        if height < 1 or width < 1:
            raise OptionError(f"a frame of {width}x{height} pixels has nothing to upscale")
        if tile < 0 or tile % grid:
            raise OptionError(f"tile is {tile}; it must be 0 or a multiple of {grid}")
        if overlap < 0:
            raise OptionError(f"overlap is {overlap}; it must be 0 or more")
        return cls(
            Axis.make(height, tile=tile, overlap=overlap, grid=grid),
            Axis.make(width, tile=tile, overlap=overlap, grid=grid),
        )

    @property
    def height(self) -> int:
        """Of the frame."""
        return self.rows.length

    @property
    def width(self) -> int:
        """Of the frame."""
        return self.columns.length

    @property
    def tile_height(self) -> int:
        return self.rows.tile

    @property
    def tile_width(self) -> int:
        return self.columns.tile

    @property
    def count(self) -> int:
        """Tiles of one frame."""
        return len(self.rows.origins) * len(self.columns.origins)

    def place(self, number: int) -> tuple[int, int, int]:
        """Frame, top and left, in input pixels, of tile ``number`` of those that
        :meth:`extract` gives."""
        frame, index = divmod(number, self.count)
        row, column = divmod(index, len(self.columns.origins))
        return frame, self.rows.origins[row], self.columns.origins[column]

    def extract(self, frames: Tensor) -> Tensor:
        """Cut frames into tiles.

        Args:
            frames: (N, C, height, width), any dtype, on any device.

        Returns:
            (N * count, C, tile_height, tile_width), all tiles of the first frame
            row by row, then those of the second.

        Raises:
            ValueError: the frames are not of this plan's size.
        """
        if frames.ndim != 4 or tuple(frames.shape[-2:]) != (self.height, self.width):
            raise ValueError(
                f"frames are {tuple(frames.shape)}; this plan cuts (N, C, {self.height}, "
                f"{self.width})"
            )
        padded = _reflect(_reflect(frames, -2, self.rows.padded), -1, self.columns.padded)
        cut = torch.stack(
            [
                padded[..., y : y + self.tile_height, x : x + self.tile_width]
                for y in self.rows.origins
                for x in self.columns.origins
            ],
            dim=1,
        )
        return cut.flatten(0, 1)

    def assemble(self, tiles: Tensor, *, scale: int) -> Tensor:
        """Put upscaled tiles together and crop the padding away.

        Args:
            tiles: (N * count, C, tile_height * scale, tile_width * scale),
                floating point, ordered as :meth:`extract` orders them.
            scale: output pixels an input pixel, along each axis.

        Returns:
            (N, C, height * scale, width * scale).

        Raises:
            ValueError: the number or the shape of the tiles is not this plan's.
        """
        frames, rest = divmod(len(tiles), self.count)
        if rest:
            raise ValueError(f"{len(tiles)} tiles make no whole frames of {self.count} tiles")
        canvas = Canvas(
            self, frames, tiles.shape[1], scale=scale, dtype=tiles.dtype, device=tiles.device
        )
        canvas.extend(tiles)
        return canvas.frames


class Canvas:
    """Frames that grow tile by tile.

    Tiles are added in the order of :meth:`TilePlan.extract`. Beside the frames
    themselves only one row of tiles of one frame is kept, and no tile after it
    was added, so that an engine may use its output buffer again.

    Two tiles are blended as ``a + w * (b - a)``: where they agree the result is
    what they agree on, bit for bit.
    """

    frames: Tensor
    """(N, C, height * scale, width * scale); complete when ``missing`` is 0."""

    def __init__(
        self,
        plan: TilePlan,
        frames: int,
        channels: int = 3,
        *,
        scale: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        ramps: Ramps | None = None,
    ) -> None:
        self._plan = plan
        if ramps is None:
            ramps = blend_ramps(plan, scale=scale, dtype=dtype, device=torch.device(device))
        self._ramps = ramps
        self._scale = scale
        height, width = plan.height * scale, plan.width * scale
        self.frames = torch.empty((frames, channels, height, width), dtype=dtype, device=device)
        self._tile_shape = (channels, plan.tile_height * scale, plan.tile_width * scale)
        rows = 0 if len(plan.rows.origins) == 1 else plan.tile_height * scale
        self._strip = torch.empty((channels, rows, width), dtype=dtype, device=device)
        self._added = 0

    @property
    def missing(self) -> int:
        """Tiles not added yet."""
        return len(self.frames) * self._plan.count - self._added

    def extend(self, tiles: Iterable[Tensor]) -> None:
        """Add tiles, each (C, tile_height * scale, tile_width * scale).

        Raises:
            ValueError: a tile has another shape, or no tile is missing.
        """
        for tile in tiles:
            self._add(tile)

    def _add(self, tile: Tensor) -> None:
        if not self.missing:
            raise ValueError("all tiles of these frames were added already")
        if tuple(tile.shape) != self._tile_shape:
            raise ValueError(f"a tile is {tuple(tile.shape)}; expected {self._tile_shape}")
        columns = self._plan.columns
        frame, index = divmod(self._added, self._plan.count)
        row, column = divmod(index, len(columns.origins))
        target = self.frames[frame]
        if len(self._plan.rows.origins) == 1:
            self._lay(target, tile[:, : target.shape[-2]], columns, column, dim=-1)
        else:
            self._lay(self._strip, tile, columns, column, dim=-1)
            if column == len(columns.origins) - 1:
                self._lay(target, self._strip, self._plan.rows, row, dim=-2)
        self._added += 1

    def _lay(self, target: Tensor, piece: Tensor, axis: Axis, index: int, *, dim: int) -> None:
        """Lay piece number ``index`` of an axis over ``target``, along ``dim``.

        ``piece`` holds all its tile's pixels along ``dim``. What lies before the
        blend band on its left stays, the band is blended, the rest is overwritten,
        up to the end of the band on its right, where the next piece blends.
        """
        scale, end = self._scale, target.shape[dim]
        last = index == len(axis.origins) - 1
        stop = end if last else min(axis.band(index, scale)[1], end)
        origin = axis.origins[index] * scale
        start = 0
        if index:
            first, start = axis.band(index - 1, scale)
            start = min(start, end)
            if start > first:
                mixed = target.narrow(dim, first, start - first)
                new = piece.narrow(dim, first - origin, start - first)
                ramp = self._ramps[axis.bands[index - 1] * scale]
                weight = ramp[: start - first].reshape([-1] + [1] * (-1 - dim))
                torch.lerp(mixed, new, weight, out=mixed)
        target.narrow(dim, start, stop - start).copy_(
            piece.narrow(dim, start - origin, stop - start)
        )


def blend_ramps(plan: TilePlan, *, scale: int, dtype: torch.dtype, device: torch.device) -> Ramps:
    """Weights of the right-hand (lower) tile in each blend band of a plan.

    Returns:
        By width in output pixels: (width,), pixel centres on a line from 0 to 1.
    """
    ramps = {}
    for band in {*plan.rows.bands, *plan.columns.bands}:
        width = band * scale
        steps = torch.arange(width, dtype=torch.float64)
        ramps[width] = ((steps + 0.5) / max(width, 1)).to(device=device, dtype=dtype)
    return ramps


def _reflect(frames: Tensor, dim: int, padded: int) -> Tensor:
    """Continue ``frames`` along ``dim`` to ``padded`` by reflection at the last pixel.

    ``torch.nn.functional.pad`` refuses a pad as long as the axis; here the
    reflection goes on back and forth, and a single pixel is repeated.
    """
    length = frames.shape[dim]
    if length == padded:
        return frames
    if length == 1:
        return frames.repeat_interleave(padded, dim)
    # Slices, not a table of positions, which would be copied to a GPU for each frame.
    back, forth = frames.narrow(dim, 0, length - 1).flip(dim), frames.narrow(dim, 1, length - 1)
    turns = -(-(padded - length) // (length - 1))
    parts = [frames, *((forth if turn % 2 else back) for turn in range(turns))]
    return torch.cat(parts, dim).narrow(dim, 0, padded)
