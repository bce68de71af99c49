"""Frames on their way: some planes at once, with the times that they are shown at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import av
import torch
from torch import Tensor

from hatvid.video.device_frames import cuda_stream
from hatvid.video.pictures import FrameTime

__all__ = ["FrameBatch", "batched"]


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Consecutive frames of one size.

    Args:
        planes: one (N, h, w) integer tensor a component, all on one device, the CPU or a
            GPU; complete there, so that any stream may use them.
        times: one for each of the N frames.
        carriers: for each frame the decoded one itself where it bears side data to carry
            on (captions, AFD, dynamic HDR, timecode), else None; empty if none does.
    """

    planes: tuple[Tensor, ...]
    times: tuple[FrameTime, ...]
    carriers: tuple[av.VideoFrame | None, ...] = ()


def batched(
    frames: Sequence[tuple[tuple[Tensor, ...], FrameTime, av.VideoFrame | None]],
) -> FrameBatch:
    """Single frames, each of (h, w) planes on one device, a time and a carrier, as a batch."""
    components = list(zip(*(planes for planes, _, _ in frames), strict=True))
    carriers = tuple(carrier for _, _, carrier in frames)
    with cuda_stream(components[0][0].device):
        planes = tuple(torch.stack(component) for component in components)
    return FrameBatch(
        planes=planes,
        times=tuple(time for _, time, _ in frames),
        carriers=carriers if any(c is not None for c in carriers) else (),
    )
