"""The VapourSynth filter gives the pixels of Upscaler, and says what it cannot take."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import vapoursynth as vs
from hatvid_vs import upscale

import hatvid

FRAMES = 4
HEIGHT, WIDTH = 20, 36


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(FRAMES, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def clip(pictures: torch.Tensor) -> vs.VideoNode:
    blank = vs.core.std.BlankClip(format=vs.RGBS, width=WIDTH, height=HEIGHT, length=FRAMES)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        for index in range(3):
            np.copyto(np.asarray(frame[index]), pictures[n, index].numpy())
        frame.props["Number"] = n
        return frame

    return blank.std.ModifyFrame(blank, fill)


@pytest.fixture(scope="module")
def enlarged(clip: vs.VideoNode) -> vs.VideoNode:
    return upscale(clip, scale=4, engine="eager", precision="fp32", tile=16, overlap=0)


@pytest.fixture(scope="module")
def expected(pictures: torch.Tensor) -> Iterator[torch.Tensor]:
    with hatvid.Upscaler.from_checkpoint(
        scale=4, engine="eager", precision="fp32", tile=16, overlap=0, batch=1
    ) as upscaler:
        yield torch.cat([upscaler(picture[None]) for picture in pictures])


def _planes(frame: vs.VideoFrame) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.array(frame[index]) for index in range(3)]))


def test_pixels_are_those_of_upscaler_in_any_order(
    enlarged: vs.VideoNode, expected: torch.Tensor
) -> None:
    order = [*range(FRAMES), *reversed(range(FRAMES))]
    random.Random(0).shuffle(order)
    for number in order:
        with enlarged.get_frame(number) as frame:
            assert torch.equal(_planes(frame), expected[number])


def test_size_length_and_properties(clip: vs.VideoNode, enlarged: vs.VideoNode) -> None:
    assert (enlarged.width, enlarged.height) == (4 * WIDTH, 4 * HEIGHT)
    assert enlarged.num_frames == FRAMES
    assert (enlarged.fps, enlarged.format.id) == (clip.fps, vs.RGBS)
    for number, frame in enumerate(enlarged.frames()):
        assert frame.props["Number"] == number


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda clip: clip.resize.Bicubic(format=vs.RGB24), "RGBS"),
        (lambda clip: clip.resize.Bicubic(format=vs.YUV420P8, matrix=1), "RGBS"),
        (
            lambda clip: vs.core.std.Splice([clip, clip.std.CropRel(right=2)], mismatch=True),
            "varies",
        ),
    ],
)
def test_clips_that_do_not_fit(clip: vs.VideoNode, change: object, word: str) -> None:
    with pytest.raises(vs.Error, match=f"^hatvid: .*{word}"):
        upscale(change(clip))  # type: ignore[operator]


@pytest.mark.parametrize(
    "options", [{"model": "no-such-model"}, {"scale": 5}, {"tile": 17}, {"engine": "quick"}]
)
def test_options_that_do_not_fit(clip: vs.VideoNode, options: dict[str, object]) -> None:
    with pytest.raises(vs.Error, match=r"^hatvid: "):
        upscale(clip, **options)  # type: ignore[arg-type]


def test_openvino_runs_beside_the_plugin_that_brings_another() -> None:
    """In a program of its own: which library was loaded first holds for all of one."""
    code = (
        "import vapoursynth as vs; import hatvid_vs; clip = vs.core.std.BlankClip("
        "format=vs.RGBS, width=16, height=16, length=1); "
        "assert hasattr(vs.core, 'ov'), 'vapoursynth-mlrt-ov is not installed'; "
        "larger = hatvid_vs.upscale(clip, scale=2, engine='openvino', precision='fp32'); "
        "print(larger.get_frame(0).width)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "32\n"), done.stderr
