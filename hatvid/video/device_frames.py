"""Frames that FFmpeg decodes into a GPU's memory, as planes that stay there.

NVDEC gives 4:2:0 frames with the chroma samples in turn (NV12, and P010 or P016 with the
codes in the upper bits of each word). They are copied apart on the device; FFmpeg then
writes its next picture where they lay.

FFmpeg is given the CUDA context that PyTorch computes in, by the ``current_ctx`` option of
its device. That is the device's primary context. FFmpeg's own ``primary_ctx`` would be the
same one, but refuses it where PyTorch made it first, with other scheduling flags.

FFmpeg works in CUDA's legacy default stream, which PyTorch's other streams do not wait for.
So whatever crosses between the two is done in that stream, and waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import av
import torch
from av.codec.hwaccel import HWAccel, HWDevice
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from hatvid.errors import OutOfMemoryError
from hatvid.video.convert import PlaneLayout, frame_to_planes, planar_pix_fmt

__all__ = [
    "SEMI_PLANAR",
    "cuda_context",
    "cuda_stream",
    "hardware_decoder",
    "in_main_memory",
    "is_on_device",
    "planar",
    "read_frame",
    "shared_context",
    "software_format",
]

SEMI_PLANAR = {"nv12": 8, "p010le": 10, "p016le": 16}
"""FFmpeg's formats of a luma plane and one of both chroma components that DLPack carries
to and from a GPU, with the bits of a sample. Of 16 bits those are the upper ones."""

_FFMPEG_CUDA = "cuda"


def planar(luma: Tensor, chroma: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Copy the two planes of a semi-planar 4:2:0 frame apart.

    Args:
        luma: (h, w), uint8 for a depth of 8, else uint16; rows may lie apart.
        chroma: (ceil(h/2), ceil(w/2), 2) of the same, Cb before Cr.
        depth: bits of a sample, in the upper bits of its 16.

    Returns:
        Y, Cb and Cr of the same dtype and device, contiguous, the codes in the lower bits.
        What lay below them is gone; FFmpeg writes zeros there.
    """
    parts = (luma, chroma[..., 0], chroma[..., 1])
    y, cb, cr = (_lowered(part, 16 - depth if part.element_size() == 2 else 0) for part in parts)
    return y, cb, cr


def _lowered(codes: Tensor, bits: int) -> Tensor:
    if bits:
        # uint16 has no shifts on a GPU.
        return (codes.to(torch.int32) >> bits).to(torch.uint16).contiguous()
    return codes.clone(memory_format=torch.contiguous_format)


# Frames.


def is_on_device(frame: av.VideoFrame) -> bool:
    """Whether a frame lies in a GPU's memory."""
    return frame.format.name == _FFMPEG_CUDA


def software_format(frame: av.VideoFrame) -> str:
    """FFmpeg's name of the pixel format of a frame's samples, wherever they lie."""
    return (frame.sw_format or frame.format).name


def in_main_memory(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame itself, or a copy with its side data if it lies in a GPU's memory."""
    return frame.reformat(format=software_format(frame)) if is_on_device(frame) else frame


def read_frame(frame: av.VideoFrame) -> tuple[PlaneLayout, tuple[Tensor, ...]]:
    """Copy a decoded frame's samples into tensors of their own, where it lies.

    A frame in a GPU's memory is brought to main memory only where DLPack does not carry it:
    with full chroma, and with an odd side, whose last chroma samples it would leave out.

    Returns:
        The layout, and one (h, w) tensor a component, as
        :func:`~hatvid.video.convert.frame_to_planes`; complete when it returns, whatever
        stream they are used in.

    Raises:
        InputError: the pixel format has no planar twin.
    """
    name = software_format(frame)
    if not is_on_device(frame) or name not in SEMI_PLANAR or frame.width % 2 or frame.height % 2:
        return frame_to_planes(in_main_memory(frame))
    layout = PlaneLayout.of(planar_pix_fmt(name) or name)
    assert layout is not None  # all of SEMI_PLANAR have one
    luma, chroma = frame.planes
    with cuda_stream(torch.device(_FFMPEG_CUDA, luma.__dlpack_device__()[1])):
        # Without a stream: torch.from_dlpack(plane) names one, which PyAV refuses.
        samples = from_dlpack(luma.__dlpack__()), from_dlpack(chroma.__dlpack__())
        return layout, planar(*samples, SEMI_PLANAR[name])


# What PyTorch and FFmpeg share.


@contextmanager
def cuda_stream(device: torch.device) -> Iterator[None]:
    """Work in the stream that FFmpeg works in, and wait for it at the end.

    Args:
        device: any; there is nothing to do but on a CUDA device.

    Raises:
        OutOfMemoryError: the work inside needs more memory than there is.
    """
    if device.type != _FFMPEG_CUDA:
        yield
        return
    with torch.cuda.device(device):
        stream = torch.cuda.default_stream(device)
        try:
            with torch.cuda.stream(stream):
                yield
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"the memory of {device} ran out for the frames of the video; choose a smaller "
                "--tile, or decode and encode on the CPU"
            ) from error
        stream.synchronize()


@contextmanager
def cuda_context(device: torch.device) -> Iterator[None]:
    """Make a CUDA device's primary context current in this thread, as FFmpeg will take it.

    Args:
        device: any; there is nothing to do but on a CUDA device.

    Raises:
        RuntimeError: there is no such device, or it has failed.
    """
    if device.type != _FFMPEG_CUDA:
        yield
        return
    with torch.cuda.device(device):
        # Only a call that needs the context makes it, and makes it current.
        torch.cuda.synchronize(device)
        yield


def shared_context(device: torch.device) -> HWAccel:
    """FFmpeg's CUDA device for a decoder or an encoder whose frames stay on it.

    It takes the context that is current where FFmpeg opens it: do so in
    :func:`cuda_context`.

    Args:
        device: a CUDA device; without an index, the first.
    """
    options: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
    return HWAccel(_FFMPEG_CUDA, device=device.index or 0, options=options, is_hw_owned=True)


@contextmanager
def hardware_decoder(
    name: str | None, device: torch.device | None, notes: list[str]
) -> Iterator[HWAccel | None]:
    """What ``av.open`` is given to decode on a hardware device; open inside the block.

    Args:
        name: FFmpeg's name of the kind of device; None decodes on the CPU.
        device: where CUDA's frames are to stay; None and the CPU have them, as those of
            all other kinds, brought to main memory.
        notes: takes a line if there is no such device; None is given then.
    """
    if name is None:
        yield None
        return
    stays = device if name == _FFMPEG_CUDA and device is not None else torch.device("cpu")
    with ExitStack() as stack:
        try:
            stack.enter_context(cuda_context(stays))
            accelerator = _opened(name, stays)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            notes.append(_without(name, getattr(error, "strerror", None) or str(error)))
            accelerator = None
        except (RuntimeError, AssertionError) as error:  # no GPU, or a PyTorch without CUDA
            notes.append(_without(name, str(error).partition("\n")[0]))
            accelerator = None
        yield accelerator


def _opened(name: str, device: torch.device) -> HWAccel:
    """Open it once: FFmpeg would say only at the first frame that there is none."""
    if device.type != _FFMPEG_CUDA:
        HWDevice(name)
        return HWAccel(name)
    accelerator = shared_context(device)
    HWDevice(name, device=device.index or 0, options=accelerator.options)
    return accelerator


def _without(name: str, reason: str) -> str:
    return f"no {name} device to decode on ({reason}): decoding on the CPU"
