"""A whole frame through a HAT in bounded memory: exact, without tiles, without seams.

A tile of a HAT never gives what the whole frame gives, for channel attention takes the
mean over all it is shown. What makes a whole frame large is not its feature map but what
attention, MLPs, convolutions and the reconstruction compute beside it. Here these run
piece by piece: attention and MLPs on a chunk of windows at a time, convolutions and the
reconstruction on a strip of rows with the rows around it that they look at. The result is
that of the network in one pass, up to the rounding of sums that are added up in another
order.

Of the (N, H*W, C) maps, H and W padded to the window, no more than three live at a time:

=====================================  ==================================================
the stream that enters an RHAG         added in its end, so it lives all through the body
the stream inside the RHAG             changed in place by one block after another
CAB's output, before its gate          the gate needs the mean over all of it
=====================================  ==================================================

The shallow feature map is none of them: it is computed again, from the input, where it
is added. In a CAB's place, an OCAB has the queries, keys and values of a band of rows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from hatvid.model.attention import WindowTables
from hatvid.model.blocks import HAB, RHAG
from hatvid.model.hat import HAT
from hatvid.model.scaled import RescaledRHAG
from hatvid.model.whole_blocks import around, hab_in_place, ocab_in_place, parts

__all__ = ["CHUNK", "Pieces", "STRIP", "TAIL_HALO", "WholeFrame"]

CHUNK = 64
"""Windows at a time, if nothing else is said: some percent of a map of a video frame. On a
GPU each piece is kernels to start, so there it is as much as memory holds."""

STRIP = 32
"""Rows at a time."""

LEAST_STRIP = 8
"""Below this a strip is mostly rows around it, and its own memory is nothing beside a map."""

TAIL_HALO = 4
"""Rows around a strip that the layers after the last RHAG look at: one for
conv_after_body and conv_first, and for the reconstruction one each for
conv_before_upsample and the first convolution of the upsampling, and less than one for
all that follow, whose pixels are smaller (x2: 1/2, x3: 1/3, x4: 1/2 + 1/4, x8: 1/2 + 1/4 +
1/8). A collapsed tail is the same function of the strip it is given."""


class Pieces(NamedTuple):
    """How a frame is cut."""

    chunk: int
    """Windows at a time, of all pictures of a batch together."""

    strip: int
    """Rows of a picture at a time."""


class WholeFrame(nn.Module):
    """A HAT that goes through its input in chunks of windows and strips of rows.

    It has no gradient: maps are changed in place.

    Args:
        model: a HAT as it was built, or rewritten (collapsed tail, rescaled, in 16 bits).
            It is not changed; its parameters are shared.
        chunk: windows at a time, of all pictures of a batch together, but at least one of
            each.
        strip: rows of a picture at a time.
        pieces: by height and width of the input, what :meth:`prepare` takes in their place.

    Attributes:
        chunk: as given, or what :meth:`shrink` made of it.
        strip: likewise.
        few: pieces of each kind that are run; None for all. With fewer no picture comes of it,
            but its memory can be counted.
    """

    few: int | None = None

    def __init__(
        self,
        model: HAT,
        *,
        chunk: int = CHUNK,
        strip: int = STRIP,
        pieces: Mapping[tuple[int, int], Pieces] | None = None,
    ) -> None:
        super().__init__()
        if chunk < 1 or strip < 1:
            raise ValueError(f"chunk is {chunk} and strip {strip}; both must be at least 1")
        self.model = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
        self.model.drop_tables()
        self.chunk = chunk
        self.strip = strip
        self.pieces = {} if pieces is None else pieces

    def pieces_for(self, height: int, width: int) -> Pieces:
        """How an input of a size is cut."""
        return self.pieces.get((height, width), Pieces(self.chunk, self.strip))

    def prepare(self, height: int, width: int) -> Self:
        """Build the buffers for inputs of one size; see :meth:`HAT.prepare`."""
        self.chunk, self.strip = self.pieces_for(height, width)
        self.model.prepare(height, width)
        return self

    def shrink(self) -> bool:
        """Halve chunks and strips, for less memory and the same result.

        Returns:
            False if both are at their least, and nothing was changed.
        """
        before = self.chunk, self.strip
        self.chunk = max(self.chunk // 2, 1)
        self.strip = max(self.strip // 2, min(self.strip, LEAST_STRIP))
        return before != (self.chunk, self.strip)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale; equal to ``model(x)``.

        Args:
            x: (N, 3, H, W) float in [0, 1], RGB, of any size.

        Returns:
            (N, 3, sH, sW) of the same dtype, not clamped.

        Raises:
            RuntimeError: gradients are wanted.
        """
        if torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.parameters())
        ):
            raise RuntimeError(
                "a whole frame in chunks has no gradient; call it in torch.inference_mode(), "
                "or train on the model itself"
            )
        model = self.model
        height, width = x.shape[2:]
        if model.prepared != (height, width):
            self.prepare(height, width)
        tables = model.tables
        assert tables is not None
        x = (x - model.mean) * model.config.img_range
        if model.pad_rows is not None:
            x = x.index_select(2, model.pad_rows)
        if model.pad_columns is not None:
            x = x.index_select(3, model.pad_columns)
        stream = self._embedded(x, tables)
        self._body(stream, tables)
        return self._reconstructed(stream, x, height, width)

    def _embedded(self, rgb: Tensor, tables: WindowTables) -> Tensor:
        """(N, 3, H, W), normalised -> (N, H, W, C): what enters the first RHAG."""
        stream: Tensor | None = None
        for start, stop in parts(tables.height, self.strip, self.few):
            low, high = around(start, stop, 1, tables.height)
            shallow = self.model.conv_first(rgb[:, :, low:high])[:, :, start - low : stop - low]
            tokens = self.model.patch_embed(shallow)
            if stream is None:
                stream = tokens.new_empty(len(rgb), tables.height, tables.width, tokens.shape[-1])
            stream[:, start:stop] = tokens.view(len(rgb), stop - start, tables.width, -1)
        assert stream is not None
        return stream

    def _body(self, stream: Tensor, tables: WindowTables) -> None:
        """All RHAGs, in place: (N, H, W, C)."""
        inside = torch.empty_like(stream)
        for group in self.model.layers:
            assert isinstance(group, RHAG)
            if isinstance(group, RescaledRHAG):
                stream *= group.factor
            inside.copy_(stream)
            self._blocks(group, inside.flatten(1, 2), tables)
            for start, stop in parts(tables.height, self.strip, self.few):
                low, high = around(start, stop, 1, tables.height)
                deep = group.conv(inside[:, low:high].permute(0, 3, 1, 2))
                stream[:, start:stop] += deep[:, :, start - low : stop - low].permute(0, 2, 3, 1)

    def _blocks(self, group: RHAG, x: Tensor, tables: WindowTables) -> None:
        """HABs and OCAB of one RHAG, in place: (N, H*W, C)."""
        local: Tensor | None = None
        for block in group.residual_group.blocks:
            assert isinstance(block, HAB)
            local = hab_in_place(
                block, x, local, tables, chunk=self.chunk, strip=self.strip, few=self.few
            )
        del local  # an OCAB needs its memory for other things
        if (last := group.residual_group.overlap_attn) is not None:
            ocab_in_place(last, x, tables, chunk=self.chunk, few=self.few)

    def _reconstructed(self, stream: Tensor, rgb: Tensor, height: int, width: int) -> Tensor:
        """What follows the last RHAG.

        Args:
            stream: (N, H, W, C), H and W padded.
            rgb: (N, 3, H, W), normalised and padded.
            height: of the input, before padding.
            width: of the input, before padding.

        Returns:
            (N, 3, s * height, s * width).
        """
        model, scale = self.model, self.model.config.upscale
        larger: Tensor | None = None
        for start, stop in parts(height, self.strip, self.few):
            low, high = around(start, stop, TAIL_HALO, stream.shape[1])
            deep = model.norm(stream[:, low:high]).permute(0, 3, 1, 2)
            deep = model.conv_after_body(deep) + model.conv_first(rgb[:, :, low:high])
            deep = model.conv_last(model.upsample(model.conv_before_upsample(deep)))
            deep = deep[:, :, (start - low) * scale : (stop - low) * scale, : width * scale]
            if larger is None:
                larger = deep.new_empty(*deep.shape[:2], height * scale, width * scale)
            larger[:, :, start * scale : stop * scale] = deep / model.config.img_range + model.mean
        assert larger is not None
        return larger
