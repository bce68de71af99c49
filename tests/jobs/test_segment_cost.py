"""What keeping a job in segments costs beside one straight encode: time and bytes.

Shows the figures with ``pytest -m calm -s tests/jobs/test_segment_cost.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hatvid
from hatvid.jobs.receipt import Receipt
from hatvid.options import EngineOptions
from hatvid.upscaler import Upscaler

SECONDS, RATE = 60, 24
ROUNDS = 3
SAMPLE = Path(__file__).parents[1] / "data" / "bunny_320x180.mp4"


class RepeatPixels(nn.Module):
    """Nearest neighbour: no engine is cheaper, and so hides less."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.calm
def test_segments_cost_next_to_nothing(ffmpeg: Callable[..., None], tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    ffmpeg(
        *("-stream_loop", "99", "-t", str(SECONDS), "-i", SAMPLE),
        *("-f", "lavfi", "-i", f"sine=duration={SECONDS}", "-map", "0:v", "-map", "1:a"),
        *("-t", str(SECONDS), "-vf", f"fps={RATE}", "-c:v", "libx264", "-preset", "veryfast"),
        *("-c:a", "aac", source),
    )
    upscaler = Upscaler(
        RepeatPixels(),
        scale=2,
        engine_options=EngineOptions(engine="eager", threads=torch.get_num_threads()),
        fingerprint="repeats pixels",
    )
    wall: dict[str, list[float]] = {"straight": [], "segments": []}
    size: dict[str, int] = {}
    with upscaler:
        for number in range(ROUNDS):
            # Each goes first as often as the other.
            for name in sorted(wall, reverse=bool(number % 2)):
                output = tmp_path / f"{name}.mp4"
                begun = time.monotonic()
                receipt = hatvid.upscale(
                    source,
                    output,
                    upscaler=upscaler,
                    segment=0 if name == "straight" else None,
                    verify="none",
                )
                wall[name].append(time.monotonic() - begun)
                size[name] = output.stat().st_size
                output.unlink()
                assert isinstance(receipt, Receipt)
                assert receipt.frames == SECONDS * RATE
    least = {name: min(times) for name, times in wall.items()}
    more = {
        "wall": least["segments"] / least["straight"] - 1,
        "size": size["segments"] / size["straight"] - 1,
    }
    sys.stdout.write(f"\nseconds, least of {ROUNDS}: {least}; bytes: {size}; more by {more}\n")
    assert more["wall"] < 0.02
    assert more["size"] < 0.02
