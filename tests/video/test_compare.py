"""What is measured between two files, against other people's measures."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio

from hatvid.video.color import ColorTags
from hatvid.video.compare import Likeness, likenesses, present
from hatvid.video.inventory import NO_PTS, holds, take_stock

WIDTH, HEIGHT = 48, 32
LIMITED = ColorTags(matrix=1, full_range=False)
FULL = ColorTags(matrix=1, full_range=True)


def write(path: Path, pictures: list[NDArray[Any]], pix_fmt: str = "gray") -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        height, width = pictures[0].shape[:2]
        if pix_fmt.startswith("yuv"):
            height = height * 2 // 3
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for number, picture in enumerate(pictures):
            given = "rgb24" if pix_fmt == "bgr0" else pix_fmt
            frame = av.VideoFrame.from_ndarray(picture, given).reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def noise(seed: int, top: int = 256) -> NDArray[Any]:
    kind = np.uint8 if top <= 256 else np.uint16
    return np.random.default_rng(seed).integers(0, top, (HEIGHT, WIDTH)).astype(kind)


def measured(
    source: Path, output: Path, tags: tuple[ColorTags, ColorTags] = (FULL, FULL)
) -> list[Likeness]:
    stamps = [40 * number for number in range(len(present(output, 0).pts))]
    shown = {pts: number for number, pts in enumerate(stamps)}
    return list(likenesses((source, 0), (output, 0), shown, tags=tags))


def test_psnr_is_that_of_scikit_image(tmp_path: Path) -> None:
    pictures = [noise(seed) for seed in range(5)]
    spoilt = [np.clip(p.astype(int) + noise(9 + n) // 16, 0, 255) for n, p in enumerate(pictures)]
    larger = [p.repeat(3, 0).repeat(3, 1).astype(np.uint8) for p in spoilt]
    source = write(tmp_path / "in.mkv", pictures)
    found = measured(source, write(tmp_path / "out.mkv", larger))
    assert [like.number for like in found] == list(range(5))
    for like, before, after in zip(found, pictures, spoilt, strict=True):
        wanted = peak_signal_noise_ratio(before, after.astype(np.uint8), data_range=255)
        assert like.psnr == pytest.approx(wanted, abs=0.001)
    exact = [picture.repeat(2, 0).repeat(2, 1) for picture in pictures]
    equal = measured(source, write(tmp_path / "equal.mkv", exact))
    assert all(like.psnr == math.inf and like.drift == 0 for like in equal)


def test_the_nearest_neighbour_is_found(tmp_path: Path) -> None:
    pictures = [noise(seed) for seed in range(8)]
    order = [0, 1, 4, 3, 2, 5, 7, 6]
    source = write(tmp_path / "in.mkv", pictures)
    larger = [pictures[n].repeat(2, 0).repeat(2, 1) for n in order]
    found = measured(source, write(tmp_path / "out.mkv", larger))
    wrong = {like.number: like.nearest for like in found if like.nearest_error == 0}
    assert wrong == {2: 2, 4: -2, 6: 1, 7: -1}


def test_depth_and_range_are_not_differences(tmp_path: Path) -> None:
    """8 bit limited and 10 bit full of one meaning are one picture."""
    codes = 16 + noise(1) % 220
    meant = (codes.astype(float) - 16) / 219
    deep = (meant * 1023).round().astype(np.uint16).repeat(2, 0).repeat(2, 1)
    source = write(tmp_path / "in.mkv", [codes.astype(np.uint8)])
    output = write(tmp_path / "out.mkv", [deep], "gray10le")
    (like,) = measured(source, output, (LIMITED, FULL))
    assert like.psnr > 60
    (like,) = measured(source, output, (LIMITED, LIMITED))
    assert like.psnr < 30


def test_rgb_is_compared_by_the_luma_of_the_other(tmp_path: Path) -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    luma = rgb @ np.array([0.2126, 0.7152, 0.0722])
    planes = np.full((HEIGHT * 3, WIDTH * 2), 128, np.uint8)
    planes[: HEIGHT * 2] = (
        (16 + luma * 219 / 255).round().astype(np.uint8).repeat(2, 0).repeat(2, 1)
    )
    source = write(tmp_path / "in.mkv", [rgb], "bgr0")
    output = write(tmp_path / "out.mkv", [planes], "yuv420p")
    (like,) = measured(source, output, (ColorTags(matrix=0), LIMITED))
    assert like.psnr > 55


def test_an_odd_size_padded_or_scaled_freely(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(HEIGHT) * 3, np.arange(WIDTH) * 2).astype(np.uint8)[:31, :45]
    source = write(tmp_path / "in.mkv", [smooth])
    larger = np.pad(smooth.repeat(3, 0).repeat(3, 1), ((0, 1), (0, 1)), mode="edge")
    (like,) = measured(source, write(tmp_path / "padded.mkv", [larger]))
    assert like.psnr == math.inf
    frame = av.VideoFrame.from_ndarray(smooth, "gray")
    free = frame.reformat(width=70, height=50, interpolation="BICUBIC").to_ndarray()
    (like,) = measured(source, write(tmp_path / "free.mkv", [free]))
    assert like.psnr > 35


def test_a_constant_picture_is_called_flat(tmp_path: Path) -> None:
    wave = (120 + 60 * np.sin(np.arange(WIDTH) / 8))[None].repeat(HEIGHT, 0).astype(np.uint8)
    source = write(tmp_path / "in.mkv", [wave, wave])
    output = [wave.repeat(2, 0).repeat(2, 1), np.full((2 * HEIGHT, 2 * WIDTH), 120, np.uint8)]
    found = measured(source, write(tmp_path / "out.mkv", output))
    assert [like.flat for like in found] == [False, True]


def test_present_gives_what_ffprobe_gives(tmp_path: Path, ffprobe: Any, make_clip: Any) -> None:
    """B-frames and a first packet that an edit list leaves out."""
    path = make_clip(tmp_path / "in.mp4", options={"bf": "3"}, pts=[3, 4, 5, 8, 9, 10, 14, 15])
    found = present(path, 0)
    frames = ffprobe("-show_frames", "-select_streams", "v", path)["frames"]
    assert list(found.pts) == [frame["pts"] for frame in frames]
    assert NO_PTS not in found.pts
    assert found.lost == ()


def test_what_a_container_holds_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as output:
        output.add_stream("ffv1", rate=25, width=16, height=16, pix_fmt="gray")
        output.add_stream("pcm_s16le", rate=8000, layout="mono")
        output.add_attachment("a.ttf", "font/ttf", b"x" * 100)
        output.start_encoding()
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16), np.uint8), "gray")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        output.mux([*output.streams.video[0].encode(frame), *output.streams.video[0].encode(None)])
    stock = take_stock(path)
    sound, font = stock.streams[1:]
    held = {muxer: holds(muxer, path, sound, None) for muxer in ("matroska", "mov", "flv", "webm")}
    assert held == {"matroska": True, "mov": True, "flv": False, "webm": False}
    assert [m for m in ("matroska", "mp4", "webm") if holds(m, path, font, None)] == ["matroska"]
