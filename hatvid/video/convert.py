"""av.VideoFrame to plane tensors and back.

Nothing is computed here: samples keep their integer values, palettes and bits of black
and white alone are spelled out. What the samples mean (matrix, range, chroma location)
is the business of :mod:`hatvid.video.color`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import av
import numpy as np
import torch
from av.video.format import VideoFormat
from torch import Tensor

from hatvid.errors import InputError

__all__ = [
    "PlaneLayout",
    "conversion_note",
    "frame_to_planes",
    "planar_pix_fmt",
    "planes_to_frame",
]


@dataclass(frozen=True, kw_only=True)
class PlaneLayout:
    """How the samples of one pixel format lie, as planes.

    Args:
        pix_fmt: FFmpeg's name of the frames, native byte order.
        family: ``yuv`` (Y, U, V planes), ``gray`` (Y alone) or ``rgb`` (R, G, B).
        depth: bits of a sample, 8 to 16.
        log2_chroma_w: chroma planes are narrower by 2 to this power.
        log2_chroma_h: chroma planes are lower by 2 to this power.
        alpha: whether a last component holds opacity, at full size.
        plane_order: which plane of the frame holds each component, in the order
            the family names them; those that share one take turns in it.
    """

    pix_fmt: str
    family: Literal["yuv", "gray", "rgb"]
    depth: int
    log2_chroma_w: int = 0
    log2_chroma_h: int = 0
    alpha: bool = False
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
            return (full, chroma, chroma, full)[: len(self.plane_order)]
        return (full,) * len(self.plane_order)

    @classmethod
    def of(cls, pix_fmt: str) -> PlaneLayout | None:
        """The layout of a format that is read as it lies, else None."""
        try:
            fmt = VideoFormat(pix_fmt, 16, 16)
        except ValueError:
            return None
        parts = fmt.components
        if not parts:  # frames of some hardware
            return None
        depth = parts[0].bits
        order = tuple(part.plane for part in parts)
        interleaved = len(set(order)) != len(order)
        if (
            fmt.has_palette
            or fmt.is_bit_stream
            or fmt.is_bayer
            or not 8 <= depth <= 16
            or any(part.bits != depth for part in parts)
            or any(part.is_alpha for part in parts[:-1])
            or (fmt.is_big_endian and depth > 8)
            or (interleaved and not pix_fmt.startswith("ya"))
            or pix_fmt.startswith("xyz")
            or "f16" in pix_fmt
            or "msb" in pix_fmt  # codes in the upper bits of each word
        ):
            return None
        alpha = parts[-1].is_alpha
        family: Literal["yuv", "gray", "rgb"]
        if len(parts) - alpha == 1:
            family = "gray"
        elif len(parts) - alpha == 3:
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
            alpha=alpha,
            plane_order=order,
        )

    @classmethod
    def packed(cls, pix_fmt: str) -> PlaneLayout | None:
        """The layout for writing frames of ``pix_fmt``, of its planar twin if it is packed.

        None where no planes make such frames without loss.
        """
        planar = None if pix_fmt in _SPELLED_OUT else planar_pix_fmt(pix_fmt)
        layout = cls.of(planar) if planar else None
        if layout is None or planar == pix_fmt:
            return layout
        return replace(layout, pix_fmt=pix_fmt)


# Formats that are only another packing of a planar one: the conversion moves
# samples and changes none.
_REPACKED = {
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    "nv16": "yuv422p",
    "nv24": "yuv444p",
    "nv42": "yuv444p",
    "nv20le": "yuv422p10le",
    "p010le": "yuv420p10le",
    "p012le": "yuv420p12le",
    "p016le": "yuv420p16le",
    "p210le": "yuv422p10le",
    "p212le": "yuv422p12le",
    "p216le": "yuv422p16le",
    "p410le": "yuv444p10le",
    "p412le": "yuv444p12le",
    "p416le": "yuv444p16le",
    "yuyv422": "yuv422p",
    "uyvy422": "yuv422p",
    "yvyu422": "yuv422p",
    "y210le": "yuv422p10le",
    "y212le": "yuv422p12le",
    "xv36le": "yuv444p12le",
    "yuv444p10msble": "yuv444p10le",
    "yuv444p12msble": "yuv444p12le",
    "ayuv": "yuva444p",
    "vuya": "yuva444p",
    "ayuv64le": "yuva444p16le",
    "rgb24": "gbrp",
    "bgr24": "gbrp",
    "0rgb": "gbrp",
    "rgb0": "gbrp",
    "0bgr": "gbrp",
    "bgr0": "gbrp",
    "rgb48le": "gbrp16le",
    "bgr48le": "gbrp16le",
    "x2rgb10le": "gbrp10le",
    "x2bgr10le": "gbrp10le",
    "rgba": "gbrap",
    "bgra": "gbrap",
    "argb": "gbrap",
    "abgr": "gbrap",
    "rgba64le": "gbrap16le",
    "bgra64le": "gbrap16le",
}
# Formats that planes can hold, but not give back: (planar twin, what happens).
_SPELLED_OUT = {
    "pal8": ("gbrp", "its palette is looked up"),
    "monow": ("gray", "its bits become black and white"),
    "monob": ("gray", "its bits become black and white"),
}
# Parts of names, and why their like is refused.
_REFUSED = {
    "xyz": "CIE XYZ needs a colour conversion; convert the video to rgb48le first",
    "f32": "its samples are floating point; convert the video to gbrp16le or gray16le first",
    "f16": "its samples are floating point; convert the video to gbrp16le or gray16le first",
    "bayer": "it is what a sensor saw; convert (develop) the video to rgb48le first",
}


def planar_pix_fmt(pix_fmt: str) -> str | None:
    """The planar format that holds ``pix_fmt``'s very samples, None if there is none.

    A palette with transparency has ``gbrap`` in place of what is said here.
    """
    if PlaneLayout.of(pix_fmt) is not None:
        return pix_fmt
    if pix_fmt in _SPELLED_OUT:
        return _SPELLED_OUT[pix_fmt][0]
    if pix_fmt in _REPACKED:
        return _REPACKED[pix_fmt]
    little = pix_fmt.removesuffix("be") + "le" if pix_fmt.endswith("be") else None
    return planar_pix_fmt(little) if little else None


def conversion_note(pix_fmt: str) -> str | None:
    """What a user should know of how ``pix_fmt`` is read, one line; None where nothing."""
    if pix_fmt not in _SPELLED_OUT:
        return None
    planar, what = _SPELLED_OUT[pix_fmt]
    return f"{pix_fmt} is read as {planar}: {what}; no output is {pix_fmt} again"


def frame_to_planes(frame: av.VideoFrame) -> tuple[PlaneLayout, tuple[Tensor, ...]]:
    """Copy a decoded frame's samples into tensors of their own.

    Args:
        frame: any format with a planar twin, see :func:`planar_pix_fmt`.

    Returns:
        The layout, and one (h, w) tensor a component: uint8 for 8 bit, else
        uint16, in the order Y, U, V or R, G, B, and alpha last.

    Raises:
        InputError: the format has no planar twin.
    """
    name = frame.format.name
    planar = planar_pix_fmt(name)
    if planar is None:
        advice = next((text for part, text in _REFUSED.items() if part in name), None)
        raise InputError(
            f"pixel format {name} is not supported; "
            + (advice or "convert the video to yuv420p, yuv444p or gbrp first")
        )
    if name == "pal8":
        return _looked_up(frame)
    if name in _SPELLED_OUT:
        return _black_and_white(frame)
    if planar != name:
        # One thread: FFmpeg's slices race, and overwrite samples at their borders.
        frame = frame.reformat(format=planar, threads=1)
    layout = PlaneLayout.of(planar)
    assert layout is not None  # planar_pix_fmt answers nothing else
    shapes = layout.plane_shapes(frame.height, frame.width)
    tensors = []
    for component, (height, width) in enumerate(shapes):
        samples = _samples(frame, layout, component)
        tensors.append(torch.from_numpy(samples[:height, :width].copy()))
    return layout, tuple(tensors)


def planes_to_frame(planes: tuple[Tensor, ...], layout: PlaneLayout) -> av.VideoFrame:
    """Copy plane tensors into a new frame.

    Args:
        planes: one (h, w) CPU tensor a component, of ``layout.dtype``, alpha last.
        layout: of the frame to make.

    Returns:
        A frame of ``layout.pix_fmt``, without pts and colour tags.
    """
    height, width = planes[0].shape
    planar = planar_pix_fmt(layout.pix_fmt)
    assert planar is not None  # or there were no layout of it
    frame = av.VideoFrame(width, height, planar)
    if len(planes) != len(layout.plane_order):
        raise ValueError(f"{len(planes)} planes for {layout.pix_fmt}: alpha is a plane too")
    for component, tensor in enumerate(planes):
        h, w = tensor.shape
        _samples(frame, layout, component)[:h, :w] = tensor.numpy()
    if planar != layout.pix_fmt:
        return frame.reformat(format=layout.pix_fmt, threads=1)
    return frame


def _samples(frame: av.VideoFrame, layout: PlaneLayout, component: int) -> np.ndarray[Any, Any]:
    """One component's samples in the frame's memory, with what pads the rows."""
    index = layout.plane_order[component]
    item = np.dtype(np.uint8 if layout.depth == 8 else np.uint16)
    plane = frame.planes[index]
    rows = np.frombuffer(plane, item).reshape(-1, abs(plane.line_size) // item.itemsize)
    if plane.line_size < 0:  # stored from the bottom up
        rows = rows[::-1]
    return rows[:, layout.plane_order[:component].count(index) :: layout.plane_order.count(index)]


def _looked_up(frame: av.VideoFrame) -> tuple[PlaneLayout, tuple[Tensor, ...]]:
    """Each pixel's colour out of the palette: 256 words of A, R, G, B from the top bits."""
    codes = torch.from_numpy(_rows(frame)[:, : frame.width].astype(np.int64))
    words = np.frombuffer(frame.planes[1], np.uint32)[:256].astype(np.int64)
    palette = torch.from_numpy(np.stack([words >> shift & 255 for shift in (16, 8, 0, 24)]))
    planes = tuple(part[codes].to(torch.uint8) for part in palette)
    opaque = bool((planes[3] == 255).all())
    layout = PlaneLayout.of("gbrp" if opaque else "gbrap")
    assert layout is not None
    return layout, planes[: len(layout.plane_order)]


def _black_and_white(frame: av.VideoFrame) -> tuple[PlaneLayout, tuple[Tensor, ...]]:
    """The legal codes of black and white in the frame's range, out of a bit a pixel."""
    bits = np.unpackbits(_rows(frame), axis=1)[:, : frame.width]
    if frame.format.name == "monow":
        bits = 1 - bits
    full = frame.color_range == 2
    codes = bits * 255 if full else bits * np.uint8(219) + np.uint8(16)
    layout = PlaneLayout.of("gray")
    assert layout is not None
    return layout, (torch.from_numpy(codes.astype(np.uint8)),)


def _rows(frame: av.VideoFrame) -> np.ndarray[Any, Any]:
    """The bytes of the first plane, (height, stride)."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, abs(plane.line_size))
    return (rows[::-1] if plane.line_size < 0 else rows)[: frame.height]
