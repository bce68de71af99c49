"""What a whole frame takes in memory, worked out from what :mod:`hatvid.model.whole` keeps."""

from __future__ import annotations

import torch

from hatvid.model.attention import OverlapAttention, WindowAttention
from hatvid.model.blocks import HAB, RHAG
from hatvid.model.hat import HAT, Upsample
from hatvid.model.tail import CollapsedTail
from hatvid.model.whole import CHUNK, STRIP, TAIL_HALO
from hatvid.model.whole_blocks import CAB_HALO, parts

__all__ = ["live_bytes"]


def live_bytes(
    model: HAT, height: int, width: int, *, batch: int = 1, chunk: int = CHUNK, strip: int = STRIP
) -> int:
    """Bytes of all tensors alive at the peak of ``WholeFrame(model)(x)``.

    Counted are maps, what a chunk or a strip takes beside them, input, output, and the
    tables of :meth:`HAT.prepare`. Not counted are the weights, what libraries take
    inside one operation (a convolution's workspace; attention scores, on a device with no
    fused attention for the size of a head), and what an allocator holds back.

    Args:
        model: as WholeFrame is given it; its dtypes count.
        height: of the input.
        width: of the input.
        batch: N.
        chunk: as in WholeFrame.
        strip: as in WholeFrame.
    """
    return _Bytes(model, height, width, batch, chunk, strip).peak()


class _Bytes:
    """Sizes of one pass. Those named ``pixel_...`` are for one pixel of the padded map."""

    def __init__(
        self, model: HAT, height: int, width: int, batch: int, chunk: int, strip: int
    ) -> None:
        config = model.config
        window = config.window_size
        group = model.layers[0]
        assert isinstance(group, RHAG)
        first = group.residual_group.blocks[0]
        assert isinstance(first, HAB)
        with torch.no_grad():
            pixel = model.conv_first(model.mean.expand(1, config.num_in_ch, 1, 1))
            stream: int = model.patch_embed(pixel).dtype.itemsize
        self.model, self.config = model, config
        self.batch, self.strip = batch, strip
        self.pixels_out = batch * height * width * config.upscale**2
        self.height_in = height
        self.height = -(-height // window) * window
        self.width = -(-width // window) * window
        self.pixels = batch * self.height * self.width
        self.chunk = max(chunk // batch, 1)
        # Bytes of a number: in and out, in the stream, in what is computed beside it.
        self.wide: int = pixel.dtype.itemsize
        self.low: int = first.attn.qkv.weight.dtype.itemsize
        self.pixel_stream = config.embed_dim * stream
        self.pixel_body = config.embed_dim * self.low
        self.pixel_norm = self.pixel_body
        if self.low < self.wide:  # in and out of a LayerNorm in fp32, for a moment
            normal = config.embed_dim * self.wide
            beside = self.pixel_body if stream == self.wide else normal
            self.pixel_norm = normal + beside

    def peak(self) -> int:
        outside = 2 * self.pixels * self.config.num_in_ch * self.wide
        return self._tables() + outside + max(self._habs(), self._ocab(), self._reconstruction())

    def _strip(self, height: int, halo: int) -> int:
        """Pixels of a strip with the rows around it."""
        rows = _largest_part(height, self.strip) + 2 * halo
        return self.batch * self.width * min(rows, self.height)

    def _tables(self) -> int:
        window, overlap = self.config.window_size, self.config.overlap_size
        # Four orders of the tokens, and the overlapping windows, in int32.
        index = 4 * self.height * self.width * (4 + (overlap / window) ** 2)
        bias = 0
        for module in self.model.modules():
            if isinstance(module, WindowAttention):
                bias += (4 if module.shift_size else 1) * module.num_heads * window**4
            elif isinstance(module, OverlapAttention):
                bias += module.num_heads * window**2 * overlap**2
        return int(index) + bias * self.low

    def _habs(self) -> int:
        maps = self.pixels * (2 * self.pixel_stream + self.pixel_body)
        squeezed = self.pixel_body // self.config.compress_ratio
        strip = self._strip(self.height, CAB_HALO) * max(
            self.pixel_norm, self.pixel_body + squeezed
        )
        hidden = int(self.pixel_body * self.config.mlp_ratio)
        beside = max(
            self.pixel_norm,
            5 * self.pixel_body,  # q, k, v, what attention makes of them, and its projection
            self.pixel_body + 2 * hidden,
            2 * self.pixel_body + hidden,
            3 * self.pixel_stream + self.pixel_body,  # the sum with CAB's output
        )
        area = self.config.window_size**2
        windows = self.height * self.width // area
        tokens = self.batch * _largest_part(windows, self.chunk) * area
        return maps + max(strip, tokens * (self.pixel_stream + beside))

    def _ocab(self) -> int:
        window, overlap = self.config.window_size, self.config.overlap_size
        across = self.batch * (self.width + overlap - window)
        band = across * overlap * 3 * self.pixel_body
        fresh = self.batch * self.width * window * (3 * self.pixel_body + self.pixel_norm)
        area = self.batch * _largest_part(self.width // window, self.chunk) * window**2
        # k and v of overlapping windows, q, what attention makes of them, the projection.
        seen = (2 * (overlap / window) ** 2 + 3) * self.pixel_body
        chunk = int(area * (self.pixel_stream + seen))
        return self.pixels * 2 * self.pixel_stream + band + max(fresh, chunk)

    def _reconstruction(self) -> int:
        config, scale = self.config, self.config.upscale
        result = config.num_in_ch * self.wide
        whole = self.pixels * self.pixel_stream + self.pixels_out * result
        rows = self._strip(self.height_in, TAIL_HALO)
        shallow = config.embed_dim * self.wide
        body = rows * 2 * (self.pixel_body + shallow)
        strip = rows * (shallow + config.num_feat * self.wide)
        features = config.num_feat * scale**2
        if isinstance(self.model.upsample, Upsample):
            # What the last shuffle takes and makes; or what the last convolution takes, in fp32.
            strip += rows * features * self.low * 2
            if self.low < self.wide:
                strip += rows * features * (self.wide - self.low)
        else:
            tail = self.model.upsample
            assert isinstance(tail, CollapsedTail)
            ring = self.batch * self.width * 2 * tail.ring * 2 * features * self.wide
            strip += max(ring, rows * 3 * result * scale**2)
        return whole + max(body, strip)


def _largest_part(count: int, most: int) -> int:
    """Of those that :func:`hatvid.model.whole_blocks.parts` cuts."""
    return max(stop - start for start, stop in parts(count, most))
