"""Side data of frames: captions and the like, carried from the source to the encoder."""

from __future__ import annotations

import av
import numpy as np
from torch import Tensor

from hatvid.video.convert import PlaneLayout, planes_to_frame

__all__ = ["CARRIED", "KINDS", "bears", "carried", "carrying_options", "frame_beside"]

KINDS = {
    "A53_CC": "closed captions",
    "AFD": "active format description",
    "S12M_TIMECODE": "timecode",
    "GOP_TIMECODE": "timecode",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
}
"""What is worth carrying or naming, by FFmpeg's names of AVFrameSideDataType."""

_CAPTIONS = frozenset({"A53_CC"})
_NVENC = _CAPTIONS | {"S12M_TIMECODE"}

CARRIED = {
    "libx264": _CAPTIONS,
    "libx264rgb": _CAPTIONS,
    "libx265": _CAPTIONS,
    "mpeg2video": _CAPTIONS,
    "h264_nvenc": _NVENC,
    "hevc_nvenc": _NVENC,
    "av1_nvenc": _NVENC,
}
"""Which kinds of frame side data an encoder writes into its stream, by FFmpeg's names of
the encoder and of AVFrameSideDataType. Those not listed write none."""

_OPTIONS = {
    "libx265": {"a53cc": "1"},
    "h264_nvenc": {"s12m_tc": "1"},
    "hevc_nvenc": {"s12m_tc": "1"},
    "av1_nvenc": {"s12m_tc": "1"},
}


def carried(codec: str, kind: str) -> bool:
    """Whether an encoder writes a kind of side data, see :data:`CARRIED`."""
    return kind in CARRIED.get(codec, ())


def bears(carrier: av.VideoFrame | None, codec: str) -> bool:
    """Whether a frame has side data that an encoder writes."""
    return carrier is not None and any(carried(codec, kind.name) for kind in carrier.side_data)


def carrying_options(codec: str) -> dict[str, str]:
    """What an encoder must be told to write all the side data that it can."""
    return dict(_OPTIONS.get(codec, {}))


def frame_beside(
    carrier: av.VideoFrame | None, planes: tuple[Tensor, ...], layout: PlaneLayout, codec: str
) -> av.VideoFrame:
    """A frame of these samples, with the carrier's side data if the encoder takes any.

    Args:
        carrier: the source's frame, of any size and format.
        planes: one (h, w) CPU tensor a component, of ``layout.dtype``.
        layout: of the frame to make.
        codec: FFmpeg's name of the encoder.

    Returns:
        A frame without pts; what it says of its colours may be the carrier's.
    """
    made = planes_to_frame(planes, layout)
    if carrier is None or not bears(carrier, codec):
        return made
    try:
        # The only way that PyAV has to copy side data; the samples are replaced at once. Where
        # nothing is to convert it gives the carrier itself, so it is made larger in between.
        frame = carrier.reformat(width=carrier.width + 16, interpolation="POINT").reformat(
            width=made.width, height=made.height, format=layout.pix_fmt, interpolation="POINT"
        )
        frame.make_writable()
    except (av.error.FFmpegError, ValueError):
        return made  # samples that FFmpeg cannot convert: the picture is worth more
    for old, new in zip(frame.planes, made.planes, strict=True):
        rows = np.frombuffer(new, np.uint8).reshape(-1, new.line_size)
        target = np.frombuffer(old, np.uint8).reshape(-1, old.line_size)
        width = min(rows.shape[1], target.shape[1])
        height = min(rows.shape[0], target.shape[0])
        target[:height, :width] = rows[:height, :width]
    frame.pict_type = av.video.frame.PictureType.NONE  # else the encoder follows it
    return frame
