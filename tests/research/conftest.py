"""Small videos without loss, of frames that a test chooses."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """``make_video(path, lumas)``: FFV1 of (H, W) lumas, chroma gray, limited range, BT.601."""

    def make(
        path: Path, lumas: Sequence[NDArray[Any]], *, pix_fmt: str = "yuv420p", rate: int = 25
    ) -> Path:
        height, width = lumas[0].shape
        deep = "10" in pix_fmt
        with av.open(f"file:{path}", "w") as container:
            video = container.add_stream("ffv1", rate=rate)
            video.width, video.height, video.pix_fmt = width, height, pix_fmt
            video.codec_context.color_range, video.codec_context.colorspace = 1, 6
            for number, luma in enumerate(lumas):
                frame = av.VideoFrame(width, height, pix_fmt)
                for at, plane in enumerate(frame.planes):
                    kind = np.uint16 if deep else np.uint8
                    rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
                    rows[:] = 512 if deep else 128
                    if not at:
                        rows[:, :width] = luma
                frame.pts, frame.time_base = number, Fraction(1, rate)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        return path

    return make


@pytest.fixture(scope="session")
def lumas() -> Callable[..., list[NDArray[np.uint8]]]:
    """``lumas(count, height, width)``: a picture that moves, 16 to 235."""

    def draw(count: int, height: int = 48, width: int = 64) -> list[NDArray[np.uint8]]:
        random = np.random.default_rng(5)
        coarse = random.integers(30, 220, (height // 4 + 1, width // 4 + 1))
        whole = coarse.repeat(4, 0).repeat(4, 1)[:height, :width].astype(np.uint8)
        return [np.roll(whole, 2 * number, axis=1) for number in range(count)]

    return draw


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser that needs no screen."""
    for name in ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"):
        if (program := shutil.which(name)) is not None:
            return program
    pytest.skip("chromium is not installed (Debian: apt install chromium-headless-shell)")
