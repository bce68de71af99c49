"""Frames that lie in a GPU's memory, given to NVENC as they lie.

NVENC is told of a surface by one address and one distance of rows: it takes the chroma
rows to follow the luma rows at once, so both planes have to lie in one piece of memory. It
remembers each address that it was given; so surfaces are kept and used again, and none is
used again before NVENC has given the packet of the frame in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import av
import torch
from av.codec.hwaccel import HWAccel
from av.video.frame import CudaContext
from torch import Tensor

from hatvid.video.convert import PlaneLayout
from hatvid.video.device_frames import SEMI_PLANAR, cuda_context, cuda_stream, shared_context

__all__ = ["Surfaces", "fill", "halves", "new_surface", "surfaces_for"]

_NVENC = frozenset({"h264_nvenc", "hevc_nvenc", "av1_nvenc"})

# What lies in a surface for the layouts that an encoder is chosen with.
_FORMATS = {"yuv420p": "nv12", "nv12": "nv12", "yuv420p10le": "p010le", "p010le": "p010le"}

# Bytes that rows begin at multiples of, as FFmpeg's own CUDA frames do. NVENC asks for 4.
_ALIGNMENT = 256


def new_surface(height: int, width: int, depth: int, device: torch.device) -> Tensor:
    """Memory for a semi-planar 4:2:0 frame, luma rows first.

    Args:
        height: of the frame in rows, even.
        width: of the frame in samples, even.
        depth: bits of a sample.

    Returns:
        (1.5 * height, pitch), uint8 for a depth of 8, else uint16, with a pitch of at least
        the width and of a multiple of 256 bytes; what it holds is undefined.
    """
    dtype, size = (torch.uint8, 1) if depth == 8 else (torch.uint16, 2)
    pitch = -(-width * size // _ALIGNMENT) * _ALIGNMENT // size
    return torch.empty(height * 3 // 2, pitch, dtype=dtype, device=device)


def halves(surface: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The luma plane (h, w) and the chroma plane (h/2, w/2, 2) of a surface, as views."""
    height = surface.shape[0] * 2 // 3
    chroma = surface[height:, :width]
    return surface[:height, :width], chroma.view(height // 2, width // 2, 2)


def fill(surface: Tensor, planes: Sequence[Tensor], depth: int) -> None:
    """Write planar 4:2:0 samples into a surface, the inverse of
    :func:`~hatvid.video.device_frames.planar`.

    Args:
        surface: as :func:`new_surface` makes it.
        planes: Y (h, w), Cb and Cr (h/2, w/2) on the same device, uint8 for a depth of 8,
            else uint16.
        depth: bits of a sample; they come to lie in the upper bits of its 16, zeros below.
    """
    luma, chroma = halves(surface, planes[0].shape[1])
    targets = (luma, chroma[..., 0], chroma[..., 1])
    bits = 16 - depth if surface.dtype == torch.uint16 else 0
    for target, plane in zip(targets, planes, strict=True):
        # uint16 has no shifts on a GPU.
        target.copy_((plane.to(torch.int32) << bits).to(plane.dtype) if bits else plane)


class Surfaces:
    """Makes CUDA frames of planes for one encoder.

    Args:
        device: where the surfaces lie.
        pix_fmt: ``nv12`` or ``p010le``, see
            :data:`~hatvid.video.device_frames.SEMI_PLANAR`.
    """

    def __init__(self, device: torch.device, pix_fmt: str) -> None:
        self.device = device
        self.pix_fmt = pix_fmt
        self._free: list[Tensor] = []
        self._lent: dict[int, Tensor] = {}
        self._context = CudaContext(
            device_id=device.index or 0, primary_ctx=False, current_ctx=True
        )

    def accelerator(self) -> HWAccel | None:
        """What the encoder's stream is added with, inside
        :func:`~hatvid.video.device_frames.cuda_context`."""
        return shared_context(self.device)

    def frame(self, planes: Sequence[Tensor], pts: int) -> av.VideoFrame:
        """A frame of these samples, which lies where they do if that is the device.

        Args:
            planes: as for :func:`fill`, on any device, complete there.
            pts: that the packet of the frame will have.

        Returns:
            A frame without pts, complete whatever stream it is read in.
        """
        height, width = planes[0].shape
        depth = SEMI_PLANAR[self.pix_fmt]
        with cuda_stream(self.device):
            if self._free:
                surface = self._free.pop()
            else:
                surface = new_surface(height, width, depth, self.device)
            fill(surface, [plane.to(self.device) for plane in planes], depth)
            # Behind work on the device: the first frame takes the context that is current.
            frame = av.VideoFrame.from_dlpack(
                halves(surface, width), format=self.pix_fmt, cuda_context=self._context
            )
        self._lent[pts] = surface
        return frame

    def release(self, pts: int) -> None:
        """Take note that the encoder has given the packet with this pts."""
        if pts in self._lent:
            self._free.append(self._lent.pop(pts))


def surfaces_for(
    codec: str,
    layout: PlaneLayout,
    options: Mapping[str, str],
    size: tuple[int, int],
    device: torch.device | None,
    notes: list[str],
) -> Surfaces | None:
    """What gives an encoder its frames in a GPU's memory.

    Args:
        codec: FFmpeg's name of the encoder.
        layout: of the frames it was chosen with.
        options: it is opened with.
        size: (width, height) of the frames.
        device: where the frames' planes will lie.
        notes: takes a line if NVENC refuses what it should take.

    Returns:
        None where the encoder takes frames in main memory: those that are not NVENC's, other
        layouts than 4:2:0 of 8 and 10 bit, odd sizes, and planes that lie there already.
    """
    pix_fmt = _FORMATS.get(layout.pix_fmt)
    if device is None or device.type != "cuda" or codec not in _NVENC or pix_fmt is None:
        return None
    if any(side % 2 for side in size):
        return None
    surfaces = Surfaces(device, pix_fmt)
    try:
        with cuda_context(device):
            _try(codec, surfaces, options, size)
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError, AssertionError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        notes.append(
            f"{codec} takes no frames from the memory of {device} ({reason}): they go through "
            "main memory"
        )
        return None
    return surfaces


def _try(codec: str, surfaces: Surfaces, options: Mapping[str, str], size: tuple[int, int]) -> None:
    """Open the encoder and close it again: a stream once added cannot be taken back."""
    context = av.CodecContext.create(codec, "w", hwaccel=surfaces.accelerator())
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = size
    context.sw_format = surfaces.pix_fmt
    context.options = dict(options)
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.open()
