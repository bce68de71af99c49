"""Clips of known pictures, a tiny network, and an account of what engines run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import vapoursynth as vs
from torch import Tensor

from hatvid.engine.eager import EagerEngine

Planes = list[Tensor]


@pytest.fixture(scope="session")
def network(smallest_hat: Path) -> str:
    """A checkpoint of scale 2."""
    return str(smallest_hat)


@pytest.fixture(scope="session")
def clip_of() -> Callable[..., vs.VideoNode]:
    """A clip that shows these pictures: ``clip_of([(N, h, w), ...], vs.YUV420P8, _Matrix=1)``.

    Each frame says its number in ``Number``.
    """

    def make(planes: Sequence[Tensor], form: int, **props: int) -> vs.VideoNode:
        length, height, width = planes[0].shape
        blank = vs.core.std.BlankClip(format=form, width=width, height=height, length=length)

        def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            frame = f.copy()
            for index, part in enumerate(planes):
                np.copyto(np.asarray(frame[index]), part[n].numpy())
            frame.props["Number"] = n
            frame.props.update(props)
            return frame

        return blank.std.ModifyFrame(blank, fill)

    return make


@pytest.fixture(scope="session")
def planes_in() -> Callable[[vs.VideoFrame], Planes]:
    """Copies of a frame's planes."""
    return lambda frame: [torch.from_numpy(np.array(plane)) for plane in frame]


@pytest.fixture
def engine_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tiles each call of an eager engine was given."""
    calls: list[int] = []
    run = EagerEngine.run

    def counted(self: EagerEngine, tiles: Tensor) -> Tensor:
        calls.append(len(tiles))
        return run(self, tiles)

    monkeypatch.setattr(EagerEngine, "run", counted)
    return calls


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads VapourSynth has; they are as before afterwards."""
    before = vs.core.num_threads

    def choose(count: int) -> None:
        vs.core.num_threads = count

    yield choose
    vs.core.num_threads = before
