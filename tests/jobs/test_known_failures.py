"""What other upscalers get wrong, each as a whole job that would show it.

Where a test names a program, that is where the mistake was found.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import hatvid
from hatvid.options import EngineOptions, TileOptions

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
EAGER = EngineOptions(engine="eager", threads=1)

Run = Callable[..., None]
Times = Callable[[Path], list[tuple[Fraction, Fraction]]]


def clip(size: str, frames: int, rate: str = "25") -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}", "-frames:v", str(frames))


def luma(path: Path) -> list[NDArray[np.uint8]]:
    """Of each frame."""
    with av.open(str(path)) as container:
        return [
            frame.to_ndarray(format="gray").copy()
            if frame.format.name.startswith("gray")
            else np.frombuffer(frame.planes[0], np.uint8)
            .reshape(frame.height, -1)[:, : frame.width]
            .copy()
            for frame in container.decode(video=0)
        ]


class Repeat(nn.Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


class Blurred(Repeat):
    """Every output pixel depends on the 11 input pixels to each side."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(avg_pool2d(x, 23, 1, 11, count_include_pad=False))


def test_the_overlap_is_in_input_pixels(pyav: Run, tmp_path: Path) -> None:
    """vs-mlrt takes the overlap for output pixels: at 4x an overlap of 8 leaves 2 of context."""
    source = tmp_path / "in.mkv"
    pyav(*clip("160x96", 1), "-c:v", "ffv1", "-pix_fmt", "gray", source)
    shown = []
    for name, tile in (("whole", 0), ("tiled", 64)):
        options = TileOptions(tile=tile, overlap=32)
        with hatvid.Upscaler(
            Blurred(4), scale=4, engine_options=EAGER, tile_options=options
        ) as upscaler:
            output = tmp_path / f"{name}.mkv"
            # What blurs so much is no enlargement, and would be found out.
            hatvid.upscale(source, output, upscaler=upscaler, codec="ffv1", verify="none")
        shown.append(luma(output)[0])
    np.testing.assert_array_equal(shown[1], shown[0])


@pytest.mark.parametrize("size", ["176x80", "80x176", "131x67", "67x131"])
def test_no_edge_is_left_and_no_axis_mixed_up(size: str, pyav: Run, tmp_path: Path) -> None:
    """QualityScaler divides by rounding down, which leaves a black rest at the edge; chaiNNer
    mixes x and y where it splits a tile."""
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    pyav(*clip(size, 1), "-c:v", "ffv1", "-pix_fmt", "gray", source)
    options = TileOptions(tile=48, overlap=16)
    with hatvid.Upscaler(
        Repeat(3), scale=3, engine_options=EAGER, tile_options=options
    ) as upscaler:
        hatvid.upscale(source, output, upscaler=upscaler, codec="ffv1")
    np.testing.assert_array_equal(luma(output)[0], luma(source)[0].repeat(3, 0).repeat(3, 1))


@pytest.mark.parametrize("frames", [1, 2, 3, 41])
def test_the_last_frames_come_too(
    frames: int, repeat: hatvid.Upscaler, pyav: Run, times: Times, tmp_path: Path
) -> None:
    """video2x never drains the decoder: the last two frames of a video with B-frames are lost."""
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    pyav(*clip("64x48", frames), "-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p", source)
    receipt = hatvid.upscale(source, output, upscaler=repeat)
    assert receipt.frames == len(times(output)) == len(times(source)) == frames


def test_a_frame_is_not_where_its_number_says(
    repeat: hatvid.Upscaler, pyav: Run, times: Times, tmp_path: Path
) -> None:
    """video2x takes the number of a frame for its time: a variable rate and a late start are
    lost, and sound drifts away."""
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    pyav(
        *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1.6"),
        *("-itsoffset", "0.4", "-f", "lavfi", "-i", "sine=d=1.6"),
        *("-vf", "select='not(eq(mod(n,9),4))',setpts=PTS+0.7/TB", "-fps_mode", "passthrough"),
        *X264, "-c:a", "flac", source,
    )  # fmt: skip
    hatvid.upscale(source, output, upscaler=repeat)
    assert times(source)[0][0] > 0.5
    assert [pts for pts, _ in times(output)] == [pts for pts, _ in times(source)]


class FailsAt(Repeat):
    """Breaks, or goes mad, at its third call."""

    def __init__(self, how: str) -> None:
        super().__init__(2)
        self.how = how
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 4:  # the first is the warm-up's
            if self.how == "raises":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().forward(x) * torch.nan
        return super().forward(x)


@pytest.mark.parametrize("how", ["raises", "not a number"])
def test_a_tile_that_fails_is_never_another_one(how: str, pyav: Run, tmp_path: Path) -> None:
    """Real-ESRGAN's script and HAT's own tester print the error and paste the tile before, or
    leave the frame out; others write a black frame where fp16 overflows."""
    source = tmp_path / "in.mp4"
    pyav(*clip("64x48", 5), *X264, source)
    with (
        hatvid.Upscaler(FailsAt(how), scale=2, engine_options=EAGER) as upscaler,
        pytest.raises(hatvid.HatvidError, match=r"illegal memory|no numbers"),
    ):
        hatvid.upscale(source, tmp_path / "out.mp4", upscaler=upscaler)
    assert list(tmp_path.iterdir()) == [source]


def test_frames_that_repeat_stay_and_so_does_the_sound(
    repeat: hatvid.Upscaler,
    pyav: Run,
    times: Times,
    packets: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    """TheAnimeScripter drops equal frames, and the sound with them; a variable rate becomes a
    constant one."""
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    pyav(
        *("-f", "lavfi", "-i", "color=gray:s=64x48:r=25:d=1", "-f", "lavfi", "-i", "sine=d=1"),
        *X264, "-c:a", "aac", source,
    )  # fmt: skip
    hatvid.upscale(source, output, upscaler=repeat)
    assert [pts for pts, _ in times(output)] == [Fraction(n, 25) for n in range(25)]
    sounds = [[p["data_hash"] for p in packets(path, "a:0")] for path in (source, output)]
    assert sounds[1] == sounds[0]
