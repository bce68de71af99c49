"""av.VideoFrame to plane tensors and back.

Nothing is computed here: samples keep their integer values. What the samples
mean (matrix, range, chroma location) is the business of :mod:`hatvid.video.color`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np
import torch
from av.video.format import VideoFormat
from torch import Tensor

from hatvid.errors import InputError

__all__ = ["PlaneLayout", "frame_to_planes", "planar_pix_fmt", "planes_to_frame"]


@dataclass(frozen=True, kw_only=True)
class PlaneLayout:
    """How the samples of one planar pixel format lie.

    Args:
        pix_fmt: FFmpeg's name, native byte order.
        family: ``yuv`` (Y, U, V planes), ``gray`` (Y alone) or ``rgb`` (R, G, B).
        depth: bits of a sample, 8 to 16.
        log2_chroma_w: chroma planes are narrower by 2 to this power.
        log2_chroma_h: chroma planes are lower by 2 to this power.
        plane_order: which plane of the frame holds each component, in the order
            the family names them.
    """

    pix_fmt: str
    family: Literal["yuv", "gray", "rgb"]
    depth: int
    log2_chroma_w: int = 0
    log2_chroma_h: int = 0
    plane_order: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.depth == 8 else torch.uint16

    def plane_shapes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """(height, width) of each component's plane, chroma rounded up."""
        full = (height, width)
        chroma = (
            -(-height // (1 << self.log2_chroma_h)),
            -(-width // (1 << self.log2_chroma_w)),
        )
        if self.family == "yuv":
            return (full, chroma, chroma)
        return (full,) * len(self.plane_order)

    @classmethod
    def of(cls, pix_fmt: str) -> PlaneLayout | None:
        """The layout of a planar format that is read as it lies, else None."""
        try:
            fmt = VideoFormat(pix_fmt, 16, 16)
        except ValueError:
            return None
        parts = fmt.components
        if not parts:  # frames of some hardware
            return None
        depth = parts[0].bits
        if (
            fmt.has_palette
            or fmt.is_bit_stream
            or fmt.is_bayer
            or not 8 <= depth <= 16
            or any(part.bits != depth or part.is_alpha for part in parts)
            or (fmt.is_big_endian and depth > 8)
            or len({part.plane for part in parts}) != len(parts)
            or pix_fmt.startswith(("xyz", "ayuv", "vuya"))
            or "f16" in pix_fmt
            or "msb" in pix_fmt  # codes in the upper bits of each word
        ):
            return None
        family: Literal["yuv", "gray", "rgb"]
        if len(parts) == 1:
            family = "gray"
        elif len(parts) == 3:
            family = "rgb" if fmt.is_rgb else "yuv"
        else:
            return None
        return cls(
            # The yuvj names are the plain ones with the range spelled into them;
            # the range has a tag of its own.
            pix_fmt=pix_fmt.replace("yuvj", "yuv"),
            family=family,
            depth=depth,
            log2_chroma_w=(16 // fmt.chroma_width(16)).bit_length() - 1 if family == "yuv" else 0,
            log2_chroma_h=(16 // fmt.chroma_height(16)).bit_length() - 1 if family == "yuv" else 0,
            plane_order=tuple(part.plane for part in parts),
        )


# Formats that are only another packing of a planar one: the conversion moves
# samples and changes none.
_REPACKED = {
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    "nv16": "yuv422p",
    "nv24": "yuv444p",
    "nv20le": "yuv422p10le",
    "p010le": "yuv420p10le",
    "p012le": "yuv420p12le",
    "p016le": "yuv420p16le",
    "p210le": "yuv422p10le",
    "yuyv422": "yuv422p",
    "uyvy422": "yuv422p",
    "yvyu422": "yuv422p",
    "rgb24": "gbrp",
    "bgr24": "gbrp",
    "0rgb": "gbrp",
    "rgb0": "gbrp",
    "0bgr": "gbrp",
    "bgr0": "gbrp",
    "rgb48le": "gbrp16le",
    "bgr48le": "gbrp16le",
}


def planar_pix_fmt(pix_fmt: str) -> str | None:
    """The planar format that holds ``pix_fmt``'s very samples, None if there is none."""
    if PlaneLayout.of(pix_fmt) is not None:
        return pix_fmt
    if pix_fmt in _REPACKED:
        return _REPACKED[pix_fmt]
    little = pix_fmt.removesuffix("be") + "le" if pix_fmt.endswith("be") else None
    return planar_pix_fmt(little) if little else None


def frame_to_planes(frame: av.VideoFrame) -> tuple[PlaneLayout, tuple[Tensor, ...]]:
    """Copy a decoded frame's samples into tensors of their own.

    Args:
        frame: any format with a planar twin, see :func:`planar_pix_fmt`.

    Returns:
        The layout, and one (h, w) tensor a component: uint8 for 8 bit, else
        uint16, in the order Y, U, V or R, G, B.

    Raises:
        InputError: the format has no planar twin.
    """
    name = frame.format.name
    planar = planar_pix_fmt(name)
    if planar is None:
        raise InputError(
            f"pixel format {name} is not supported; convert the video to yuv420p, yuv444p or "
            "gbrp first"
        )
    if planar != name:
        # One thread: FFmpeg's slices race, and overwrite samples at their borders.
        frame = frame.reformat(format=planar, threads=1)
    layout = PlaneLayout.of(planar)
    assert layout is not None  # planar_pix_fmt answers nothing else
    item = _item(layout)
    shapes = layout.plane_shapes(frame.height, frame.width)
    tensors = []
    for index, (height, width) in zip(layout.plane_order, shapes, strict=True):
        rows = np.frombuffer(frame.planes[index], item).reshape(-1, _stride(frame, index, item))
        if frame.planes[index].line_size < 0:  # stored from the bottom up
            rows = rows[::-1]
        tensors.append(torch.from_numpy(rows[:height, :width].copy()))
    return layout, tuple(tensors)


def planes_to_frame(planes: tuple[Tensor, ...], layout: PlaneLayout) -> av.VideoFrame:
    """Copy plane tensors into a new frame.

    Args:
        planes: one (h, w) CPU tensor a component, of ``layout.dtype``.
        layout: of the frame to make.

    Returns:
        A frame without pts and colour tags.
    """
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, layout.pix_fmt)
    item = _item(layout)
    for index, tensor in zip(layout.plane_order, planes, strict=True):
        rows = np.frombuffer(frame.planes[index], item).reshape(-1, _stride(frame, index, item))
        h, w = tensor.shape
        rows[:h, :w] = tensor.numpy()
    return frame


def _item(layout: PlaneLayout) -> np.dtype[Any]:
    return np.dtype(np.uint8 if layout.depth == 8 else np.uint16)


def _stride(frame: av.VideoFrame, index: int, item: np.dtype[Any]) -> int:
    return abs(frame.planes[index].line_size) // item.itemsize
