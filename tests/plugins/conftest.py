"""Clips of known pictures, and what the filter is compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import vapoursynth as vs


@pytest.fixture(scope="session")
def clip_of() -> Callable[..., vs.VideoNode]:
    """A clip that shows these pictures, by number in ``Number``.

    ``clip_of(pictures, vs.RGBS)``: pictures are (N, planes, H, W), planes of one size, or a
    list of planes (N, h, w).
    """

    def make(planes: torch.Tensor | list[torch.Tensor], form: int, **props: int) -> vs.VideoNode:
        parts = list(planes.unbind(1)) if isinstance(planes, torch.Tensor) else planes
        length, height, width = parts[0].shape
        blank = vs.core.std.BlankClip(format=form, width=width, height=height, length=length)

        def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            frame = f.copy()
            for index, part in enumerate(parts):
                np.copyto(np.asarray(frame[index]), part[n].numpy())
            frame.props["Number"] = n
            frame.props.update(props)
            return frame

        return blank.std.ModifyFrame(blank, fill)

    return make


@pytest.fixture(scope="session")
def planes_in() -> Callable[[vs.VideoFrame], list[torch.Tensor]]:
    """Copies of a frame's planes."""
    return lambda frame: [torch.from_numpy(np.array(plane)) for plane in frame]
