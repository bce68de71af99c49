"""Patterns of names, and a video's frames as numbered pictures."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pyav_cli import pyav

from hatvid.errors import OptionError
from hatvid.video.color import ColorTags
from hatvid.video.convert import PlaneLayout
from hatvid.video.picture_names import (
    is_pattern,
    is_picture,
    missing_numbers,
    numbered_files,
    numbered_name,
    picture_format,
)
from hatvid.video.picture_sink import PictureSink, picture_layout
from hatvid.video.pictures import FrameTime
from hatvid.video.source import FrameBatch, VideoSource


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_%d.png", True),
        ("a_%04d.png", True),
        ("%010d.jpg", True),
        ("50%_%03d.png", True),
        ("100%.mp4", False),
        ("100%d.mp4", True),
        ("100%%d.mp4", False),
        ("a.png", False),
        ("a_%4d.png", False),
        ("a_%0d.png", False),
        ("a_%00d.png", False),
        ("a_%s.png", False),
        ("%d_%d.png", False),
        ("%03d_%d.png", False),
        ("%d/a.png", False),
    ],
)
def test_what_a_pattern_is(name: str, expected: bool) -> None:
    assert is_pattern(Path(name)) is expected


def test_names_of_numbers() -> None:
    assert numbered_name(Path("x/a_%03d.png"), 7) == Path("x/a_007.png")
    assert numbered_name(Path("x/a_%03d.png"), 12345) == Path("x/a_12345.png")
    assert numbered_name(Path("50%_%d.png"), 7) == Path("50%_7.png")


def test_files_that_fit(tmp_path: Path) -> None:
    fitting = ["a+_000.png", "a+_002.png", "a+_010.png", "a+_1234.png"]
    others = ["a+_2.png", "a+_0002.png", "a_003.png", "a+_003.PNG", "a+_004.png.part"]
    others += ["xa+_005.png", "a+_.png", "a+_0x1.png", "a+_٣٣٣.png", "a+_-01.png"]
    for name in fitting + others:
        (tmp_path / name).touch()
    found = numbered_files(tmp_path / "a+_%03d.png")
    assert list(found) == [0, 2, 10, 1234]
    assert [path.name for path in found.values()] == fitting
    assert list(numbered_files(tmp_path / "a+_%d.png")) == [2, 1234]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([], ""), ([5], ""), ([1, 2, 3], ""), ([1, 3], "2"), ([0, 5, 6, 8], "1 to 4, 7")],
)
def test_gaps_are_named(numbers: list[int], expected: str) -> None:
    assert missing_numbers(numbers) == expected


def test_formats_go_by_the_suffix() -> None:
    assert picture_format(Path("a.PNG")) == "PNG"
    assert picture_format(Path("a.jpeg")) == "JPEG"
    assert is_picture(Path("a.WebP"))
    assert not is_picture(Path("a.mp4"))
    with pytest.raises(OptionError, match=r"end it in one of \.png"):
        picture_format(Path("a.gif"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames with a sound, pixels of 16:15."""
    path = tmp_path_factory.mktemp("clip") / "in.mkv"
    pyav(
        *("-f", "lavfi", "-i", "testsrc=s=16x8:r=25:d=0.12", "-f", "lavfi", "-i", "sine=d=0.12"),
        *("-vf", "setsar=16/15", "-c:v", "libx264", "-pix_fmt", "yuv444p", "-c:a", "flac", path),
    )
    return path


def batch(*planes: Any) -> FrameBatch:
    count = len(planes[0])
    times = tuple(FrameTime(pts=number, duration=1) for number in range(count))
    return FrameBatch(planes=tuple(map(torch.from_numpy, planes)), times=times)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("depth", [8, 16])
def test_frames_become_numbered_png(
    clip: Path, tmp_path: Path, ffmpeg: Callable[..., bytes], depth: int, count: int
) -> None:
    random = np.random.default_rng(0)
    kind = np.uint8 if depth == 8 else np.uint16
    planes = random.integers(0, 2**depth, (count, 3, 6, 5)).astype(kind)
    placed: dict[str, bytes] = {}

    def place(path: Path, data: bytes) -> None:
        assert path.parent == tmp_path
        placed[path.name] = data

    with VideoSource(clip) as source:
        sink = PictureSink(tmp_path / "o_%03d.png", source, tags=ColorTags(), place=place, start=9)
        assert sink.copied == frozenset()
        sink.write(batch(*planes[:, :2]))
        sink.write(batch(*planes[:, 2:]))
        sink.finish()
    assert list(placed) == ["o_009.png", "o_010.png", "o_011.png"]
    assert sink.frames == 3
    for number, data in enumerate(placed.values()):
        expected = planes[:, number].transpose(1, 2, 0)
        path = tmp_path / "one.png"
        path.write_bytes(data)
        pix_fmt = {(1, 8): "gray", (3, 8): "rgb24", (1, 16): "gray16le", (3, 16): "rgb48le"}
        data = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", pix_fmt[count, depth], "-")
        got = np.frombuffer(data, kind).reshape(expected.shape)
        assert np.array_equal(got, expected)


def test_what_pictures_cannot_hold_is_told_before(clip: Path, tmp_path: Path) -> None:
    with VideoSource(clip) as source:
        assert source.info.sample_aspect_ratio == Fraction(16, 15)
        sink = PictureSink(
            tmp_path / "o_%d.png", source, tags=ColorTags(), place=lambda path, data: None
        )
    assert sink.notes == [
        "pictures hold no times: when and how long each frame is shown is lost, 25 a second on "
        "average",
        "pictures have square pixels: the sample aspect ratio 16/15 is lost",
        "stream 1 (audio flac) is dropped: pictures hold no other streams",
    ]
    assert [fate.fate for fate in sink.fates] == ["upscaled", "dropped"]


def test_colors_that_are_known_are_written(clip: Path, tmp_path: Path) -> None:
    """BT.2020 and PQ (H.273: 9 and 16), as FFmpeg reads them."""
    tags = ColorTags(matrix=0, full_range=True, primaries=9, transfer=16)
    path = tmp_path / "o_1.png"
    with VideoSource(clip) as source:
        sink = PictureSink(
            tmp_path / "o_%d.png",
            source,
            tags=tags,
            place=lambda path, data: path.write_bytes(data),
        )
        sink.write(batch(*np.zeros((3, 1, 4, 4), np.uint16)))
    assert b"\0\0\0\x04cICP\x09\x10\x00\x01" in path.read_bytes()
    with av.open(path) as container:
        frame = next(container.decode(video=0))
    assert (frame.color_primaries, frame.color_trc, frame.color_range) == (9, 16, 2)
    Image.open(path).verify()  # checksums


def test_other_formats_than_png_are_refused(clip: Path, tmp_path: Path) -> None:
    with VideoSource(clip) as source, pytest.raises(OptionError, match=r"end the name in \.png"):
        PictureSink(tmp_path / "o_%d.jpg", source, tags=ColorTags(), place=lambda path, data: None)


@pytest.mark.parametrize(
    ("pix_fmt", "expected"),
    [
        ("yuv420p", "gbrp"),
        ("yuv422p10le", "gbrp16le"),
        ("gbrp12le", "gbrp16le"),
        ("gray", "gray"),
        ("gray12le", "gray16le"),
        ("yuva420p", "gbrap"),
        ("yuva444p10le", "gbrap16le"),
        ("ya8", "ya8"),
        ("ya16le", "ya16le"),
    ],
)
def test_layouts_of_pictures(pix_fmt: str, expected: str) -> None:
    layout = PlaneLayout.of(pix_fmt)
    assert layout is not None
    assert picture_layout(layout).pix_fmt == expected
