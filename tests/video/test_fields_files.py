"""Fields of files, judged as a source opens them, and deinterlaced as by Debian's ffmpeg."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from debian import ffmpeg
from pyav_cli import WEAVE, pyav

from hatvid.options import InputOptions
from hatvid.selectors import TimePoint
from hatvid.video.fields import Fields
from hatvid.video.source import FrameBatch, VideoSource

# 50 pictures a second of something that moves in every part.
MOVING = "testsrc2=s=176x144:r=50:d=2,scroll=h=0.011:v=0.004"
FIELDS = ("-flags", "+ilme+ildct")
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-pix_fmt", "yuv420p", "-bf", "2")
MPEG2 = ("-c:v", "mpeg2video", "-b:v", "2M", "-bf", "2")


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    def run(path: Path, filters: str, *options: str) -> Path:
        graph = f"{MOVING},{filters}"
        if "weave" in filters:
            graph, options = f"{graph},setpts=N/25/TB", ("-r", "25", *options)
        pyav("-f", "lavfi", "-i", graph, *options, path)
        return path

    return run


def fields_of(path: Path) -> Fields:
    with VideoSource(path) as source:
        fields = source.info.fields
    assert fields is not None
    return fields


CODERS: dict[str, tuple[str, ...]] = {
    ".mp4": (*X264, *FIELDS),
    ".mkv": (*X264, *FIELDS),
    ".ts": (*MPEG2, *FIELDS),
    ".mpg": (*MPEG2, *FIELDS),
    ".mov": ("-c:v", "prores_ks", *FIELDS),
}


@pytest.mark.parametrize("order", WEAVE)
@pytest.mark.parametrize("suffix", CODERS)
def test_interlaced_files(
    suffix: str, order: str, encode: Callable[..., Path], tmp_path: Path
) -> None:
    made = encode(tmp_path / f"a{suffix}", WEAVE[order], *CODERS[suffix])
    found = fields_of(made)
    assert (found.coded, found.measured) == (order, order)
    assert (found.interlaced, found.top_first, found.note) == (True, order == "top first", None)


@pytest.mark.parametrize("order", WEAVE)
@pytest.mark.parametrize("codec", ["x264", "ffv1", "mpeg4"])
def test_woven_files_without_a_flag(
    codec: str, order: str, encode: Callable[..., Path], tmp_path: Path
) -> None:
    coder = {"x264": X264, "ffv1": ("-c:v", "ffv1"), "mpeg4": ("-c:v", "mpeg4", "-q:v", "3")}[codec]
    made = encode(tmp_path / "a.mkv", f"{WEAVE[order]},setfield=prog", *coder)
    found = fields_of(made)
    assert found.coded in ("progressive", "unknown")
    assert (found.interlaced, found.measured) == (True, order)
    assert (found.note is not None) == (found.coded == "progressive")


@pytest.mark.parametrize("coder", [X264, MPEG2], ids=["x264", "mpeg2"])
def test_progressive_files_coded_as_interlaced(
    coder: tuple[str, ...], encode: Callable[..., Path], tmp_path: Path
) -> None:
    # As broadcasters and discs of 25 pictures a second have it.
    made = encode(tmp_path / "a.ts", "framestep=2,setfield=tff", *coder, *FIELDS)
    found = fields_of(made)
    assert (found.coded, found.interlaced, found.measured) == ("top first", False, "progressive")
    assert found.note is not None
    assert found.note.startswith("flagged as interlaced, top field first, but the pictures are ")


@pytest.mark.parametrize("coder", [X264, MPEG2], ids=["x264", "mpeg2"])
def test_progressive_files(
    coder: tuple[str, ...], encode: Callable[..., Path], tmp_path: Path
) -> None:
    found = fields_of(encode(tmp_path / "a.ts", "framestep=2", *coder))
    assert (found.coded, found.interlaced, found.note) == ("progressive", False, None)


def test_telecine(encode: Callable[..., Path], tmp_path: Path) -> None:
    made = encode(tmp_path / "a.mkv", "telecine=first_field=top:pattern=23", *X264)
    found = fields_of(made)
    assert (found.interlaced, found.measured) == (True, "top first")
    assert 10 * found.progressive >= found.pictures


def test_nobody_looks_where_the_fields_are_told(
    encode: Callable[..., Path], tmp_path: Path
) -> None:
    made = encode(tmp_path / "a.mkv", WEAVE["top first"], *X264, *FIELDS)
    with VideoSource(made, reading=InputOptions(progressive=True)) as source:
        assert source.info.fields is None


# Deinterlaced by the source.


def played(
    path: Path, mode: Literal["frame", "field"], **cut: Any
) -> tuple[Any, list[Any], list[Any]]:
    times, planes = [], []
    with VideoSource(path, reading=InputOptions(deinterlace=mode), **cut) as source:
        for item in source.items(4, frozenset()):
            assert isinstance(item, FrameBatch)
            times += item.times
            planes += [plane.numpy() for plane in item.planes[0]]
        return source.info, times, planes


@pytest.fixture(scope="session")
def woven(encode: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bottom field first, lossless, without a flag: 50 frames."""
    path = tmp_path_factory.mktemp("woven") / "a.mkv"
    filters = f"{WEAVE['bottom first']},setfield=prog,format=yuv420p"
    return encode(path, filters, "-c:v", "ffv1")


def as_ffmpeg(path: Path, mode: str) -> np.ndarray[Any, Any]:
    data = ffmpeg(
        *("-i", path, "-vf", f"bwdif=send_{mode}:bff:all"),
        *("-fps_mode", "passthrough", "-f", "rawvideo", "-"),
    )
    frames = np.frombuffer(data, np.uint8).reshape(-1, 144 * 176 * 3 // 2)
    return frames[:, : 144 * 176].reshape(-1, 144, 176)


@pytest.mark.usefixtures("ffmpeg")
def test_a_picture_of_each_frame(woven: Path) -> None:
    info, times, planes = played(woven, "frame")
    assert (info.time_base, info.average_rate) == (Fraction(1, 1000), 25)
    assert [time.pts for time in times] == list(range(0, 2000, 40))
    np.testing.assert_array_equal(planes, as_ffmpeg(woven, "frame"))


@pytest.mark.usefixtures("ffmpeg")
def test_a_picture_of_each_field(woven: Path) -> None:
    info, times, planes = played(woven, "field")
    assert (info.time_base, info.average_rate) == (Fraction(1, 2000), 50)
    assert [time.pts for time in times] == list(range(0, 4000, 40))
    assert {time.duration for time in times} == {40}
    np.testing.assert_array_equal(planes, as_ffmpeg(woven, "field"))


@pytest.mark.usefixtures("ffmpeg")
def test_a_part_of_it(woven: Path) -> None:
    cut = {"start": TimePoint.parse("0.4"), "end": TimePoint.parse("0.8")}
    _, times, planes = played(woven, "field", **cut)
    assert [time.pts for time in times] == list(range(800, 1600, 40))
    # The first frame has none before it, the last none after it, to look at.
    np.testing.assert_array_equal(planes[2:-2], as_ffmpeg(woven, "field")[22:38])
