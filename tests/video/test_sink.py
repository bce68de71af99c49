"""Frames written by the sink: samples, times, shape and colours, as Debian's ffprobe reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from hatvid.options import EncodeOptions, InputOptions
from hatvid.video.color import ColorTags
from hatvid.video.containers import format_of
from hatvid.video.convert import PlaneLayout
from hatvid.video.encoders import choose_encoder
from hatvid.video.pictures import FrameTime
from hatvid.video.sink import OutputFormat, VideoSink
from hatvid.video.source import FrameBatch, VideoSource

WIDTH, HEIGHT = 64, 48
MILLISECOND = Fraction(1, 1000)
BT709 = ColorTags(matrix=1, full_range=False, primaries=1, transfer=1, chroma_location=1)

Probe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def small(pyav: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is given to the sink as its source; nothing is read from it."""
    path = tmp_path_factory.mktemp("small") / "small.mkv"
    pyav("-f", "lavfi", "-i", "testsrc2=s=32x24:d=1", "-c:v", "ffv1", "-frames:v", "2", path)
    return path


def random_planes(layout: PlaneLayout, frames: int, height: int, width: int) -> tuple[Any, ...]:
    noise = np.random.default_rng(frames)
    kind = np.uint8 if layout.depth == 8 else np.uint16
    shapes = layout.plane_shapes(height, width)
    return tuple(
        torch.from_numpy(noise.integers(0, 1 << layout.depth, (frames, *shape), dtype=kind))
        for shape in shapes
    )


def write(
    path: Path,
    source: Path,
    times: Sequence[FrameTime],
    *,
    form: str | None = None,
    options: EncodeOptions | None = None,
    layout: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    tags: ColorTags = BT709,
    time_base: Fraction = MILLISECOND,
    aspect: Fraction | None = None,
    matrix: tuple[int, ...] | None = None,
    cut: bool = False,
) -> tuple[VideoSink, tuple[Any, ...]]:
    """Write random frames at these times; gives the sink and the planes."""
    container = format_of(form or path.suffix[1:])
    given = PlaneLayout.of(layout)
    assert given is not None
    width, height = size
    choice = choose_encoder(
        options or EncodeOptions(), container, given, width=width, height=height, tags=tags
    )
    planes = random_planes(choice.layout, len(times), height, width)
    with VideoSource(source, reading=InputOptions(progressive=True)) as opened:
        output = OutputFormat(
            container=container,
            encoder=choice,
            width=width,
            height=height,
            tags=choice.tags or tags,
            time_base=time_base,
            rate=Fraction(25),
            sample_aspect_ratio=aspect,
            display_matrix=matrix,
        )
        with path.open("w+b") as file:
            sink = VideoSink(file, output, opened, cut=cut)
            for begin in range(0, len(times), 3):
                part = tuple(plane[begin : begin + 3] for plane in planes)
                sink.write(FrameBatch(planes=part, times=tuple(times[begin : begin + 3])))
            sink.finish()
    assert sink.frames == len(times)
    return sink, planes


def frame_times(stamps: Iterable[int], last: int = 40) -> list[FrameTime]:
    """Each lasts until the next one."""
    stamps = list(stamps)
    lengths = [after - before for before, after in pairwise(stamps)] + [last]
    return [FrameTime(pts=p, duration=d) for p, d in zip(stamps, lengths, strict=True)]


# Samples.


@pytest.mark.parametrize(
    ("name", "codec", "layout", "size"),
    [
        ("a.mkv", "ffv1", "yuv420p", (63, 47)),
        ("a.mkv", "ffv1", "yuv422p10le", (33, 20)),
        ("a.mkv", "ffv1", "gbrp", (50, 34)),
        ("a.mkv", "ffv1", "yuva420p", (50, 34)),
        ("a.mkv", "libvpx-vp9", "yuv444p", (35, 21)),
        ("a.mp4", "libx264", "yuv420p10le", (64, 48)),
        ("a.mp4", "libx265", "yuv444p", (65, 48)),
        ("a.ts", "libx264", "yuv420p", (64, 48)),
        ("a.nut", "ffv1", "gray", (31, 17)),
        ("a.flv", "libx264", "yuv420p", (64, 48)),
        ("a.y4m", None, "yuv420p", (63, 47)),
        ("a.y4m", None, "yuv444p12le", (30, 20)),
    ],
)
def test_every_sample_is_written(
    name: str,
    codec: str | None,
    layout: str,
    size: tuple[int, int],
    small: Path,
    ffmpeg: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    path = tmp_path / name
    options = EncodeOptions(
        codec=codec,
        lossless=codec not in (None, "ffv1"),
        preset="ultrafast" if codec and "x26" in codec else None,
    )
    _, planes = write(
        path, small, frame_times(range(0, 280, 40)), options=options, layout=layout, size=size
    )
    data = ffmpeg(
        *("-i", path, "-fps_mode", "passthrough", "-pix_fmt", layout, "-f", "rawvideo", "-")
    )
    order = PlaneLayout.of(layout).plane_order  # type: ignore[union-attr]
    expected = b"".join(
        planes[order.index(place)][number].numpy().tobytes()
        for number in range(7)
        for place in range(len(planes))
    )
    assert data == expected


# Times.

CODECS = {"webm": "libvpx-vp9"}
STAMPS = {
    "even": list(range(0, 480, 40)),
    "uneven": [0, 40, 50, 90, 190, 200, 290, 300, 1400, 1420, 1430, 1500],
    "late": list(range(1500, 1980, 40)),
    "one frame": [0],
    "one late frame": [700],
    "two frames": [0, 40],
}


def read_times(ffprobe: Probe, path: Path) -> list[tuple[Fraction, Fraction]]:
    """(pts, duration) in seconds, in order of presentation."""
    found = ffprobe("-select_streams", "v:0", "-show_streams", "-show_packets", path)
    tick = Fraction(found["streams"][0]["time_base"])
    assert not any("D" in p["flags"] for p in found["packets"])  # which players leave out
    return sorted((p["pts"] * tick, p.get("duration", 0) * tick) for p in found["packets"])


def coding(form: str, codec: str | None = None) -> EncodeOptions:
    codec = codec or CODECS.get(form, "libx264")
    if codec == "libx264":
        params = {"x264-params": "bframes=3:b-adapt=0:keyint=6"}
        return EncodeOptions(codec=codec, preset="ultrafast", encoder_options=params)
    return EncodeOptions(codec=codec)


@pytest.mark.parametrize("name", STAMPS)
@pytest.mark.parametrize("form", ["mp4", "mov", "mkv", "webm", "ts", "flv", "nut"])
def test_every_pts_stays(form: str, name: str, small: Path, ffprobe: Probe, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    stamps = STAMPS[name]
    write(path, small, frame_times(stamps), options=coding(form))
    found = read_times(ffprobe, path)
    assert [pts for pts, _ in found] == [Fraction(stamp, 1000) for stamp in stamps]


@pytest.mark.parametrize("form", ["mp4", "mkv"])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_every_encoder_keeps_the_times(
    codec: str, form: str, small: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    options = EncodeOptions(codec=codec, preset="13" if codec == "libsvtav1" else "ultrafast")
    write(path, small, frame_times(STAMPS["uneven"]), options=options)
    found = read_times(ffprobe, path)
    assert [pts * 1000 for pts, _ in found] == STAMPS["uneven"]


@pytest.mark.parametrize("form", ["mp4", "mkv", "webm"])
@pytest.mark.parametrize("name", ["even", "uneven", "one frame"])
@pytest.mark.parametrize("last", [7, 2000])
def test_every_duration_stays_to_the_last(
    last: int, name: str, form: str, small: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    times = frame_times(STAMPS[name], last)
    options = EncodeOptions(
        codec=CODECS.get(form, "libx264"), encoder_options={"bf": "0"} if form != "webm" else {}
    )
    write(path, small, times, options=options)
    found = read_times(ffprobe, path)
    assert [duration * 1000 for _, duration in found] == [time.duration for time in times]


@pytest.mark.parametrize("name", STAMPS)
def test_a_film_with_b_frames_lasts_as_long(
    name: str, small: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / "a.mp4"
    times = frame_times(STAMPS[name], 1234)
    write(path, small, times, options=coding("mp4"))
    stream = ffprobe("-select_streams", "v:0", "-show_streams", path)["streams"][0]
    length = times[-1].pts + 1234 - times[0].pts
    assert stream["duration_ts"] * Fraction(stream["time_base"]) == Fraction(length, 1000)


@pytest.mark.parametrize("form", ["mp4", "mov", "mkv", "webm", "ts", "flv", "nut"])
def test_times_before_zero_move_together(
    form: str, small: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    write(path, small, frame_times(range(-80, 400, 40)), options=coding(form))
    assert [pts * 1000 for pts, _ in read_times(ffprobe, path)] == STAMPS["even"]


@pytest.mark.parametrize("form", ["mp4", "mkv", "ts", "nut"])
def test_a_part_begins_at_zero(form: str, small: Path, ffprobe: Probe, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    write(path, small, frame_times(STAMPS["late"]), options=coding(form), cut=True)
    assert [pts * 1000 for pts, _ in read_times(ffprobe, path)] == STAMPS["even"]


def test_times_finer_than_a_container_holds_are_rounded_once(
    small: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / "a.mkv"
    tick = Fraction(1001, 30000)
    write(path, small, frame_times(range(30), 1), time_base=tick, options=coding("mkv"))
    found = [pts for pts, _ in read_times(ffprobe, path)]
    assert max(abs(pts - number * tick) for number, pts in enumerate(found)) <= MILLISECOND / 2


@pytest.mark.parametrize("form", ["mp4", "nut"])
def test_exact_clocks_stay_exact(form: str, small: Path, ffprobe: Probe, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    tick = Fraction(1001, 30000)
    write(path, small, frame_times(range(30), 1), time_base=tick, options=coding(form))
    assert [pts for pts, _ in read_times(ffprobe, path)] == [n * tick for n in range(30)]


def test_y4m_has_a_rate_alone(small: Path, ffprobe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "a.y4m"
    write(path, small, frame_times(STAMPS["uneven"]))
    stream = ffprobe("-count_packets", "-show_streams", path)["streams"][0]
    assert (stream["r_frame_rate"], stream["nb_read_packets"]) == ("25/1", "12")


# Shape and colours.


@pytest.mark.parametrize("form", ["mp4", "mov", "mkv", "webm", "ts", "flv", "nut", "y4m"])
def test_the_sample_aspect_ratio(form: str, small: Path, ffprobe: Probe, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    options = None if form == "y4m" else coding(form)
    write(path, small, frame_times(range(0, 120, 40)), options=options, aspect=Fraction(16, 15))
    found = ffprobe("-show_streams", path)["streams"][0]
    assert found["sample_aspect_ratio"] == "16:15"


TAGS = {
    "bt709": (BT709, ("bt709", "bt709", "bt709", "tv")),
    "bt2020 PQ": (
        ColorTags(matrix=9, full_range=False, primaries=9, transfer=16, chroma_location=3),
        ("bt2020nc", "bt2020", "smpte2084", "tv"),
    ),
    "PAL, full range": (
        ColorTags(matrix=5, full_range=True, primaries=5, transfer=6, chroma_location=1),
        ("bt470bg", "bt470bg", "smpte170m", "pc"),
    ),
}


@pytest.mark.parametrize("name", TAGS)
@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("mp4", "libx264"),
        ("mp4", "libx265"),
        ("mkv", "libx264"),
        ("mkv", "ffv1"),
        ("ts", "libx264"),
        ("flv", "libx264"),
        ("nut", "libx264"),
    ],
)
def test_colour_tags(
    form: str, codec: str, name: str, small: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    tags, expected = TAGS[name]
    write(
        path, small, frame_times(range(0, 120, 40)), options=EncodeOptions(codec=codec), tags=tags
    )
    found = ffprobe("-show_streams", path)["streams"][0]
    names = ("color_space", "color_primaries", "color_transfer", "color_range")
    assert tuple(found[name] for name in names) == expected
    places = {1: "left", 3: "topleft"}
    if codec != "ffv1":
        assert found["chroma_location"] == places[tags.chroma_location]


# Turned by 90 degrees: 16.16 fixed point, the translation (in pixels) in the third row.
TURNED = (0, 65536, 0, -65536, 0, 0, 24 << 16, 0, 1 << 30)


@pytest.mark.parametrize("form", ["mp4", "mov", "mkv", "webm"])
def test_the_display_matrix(form: str, small: Path, ffprobe: Probe, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    write(path, small, frame_times(range(0, 120, 40)), options=coding(form), matrix=TURNED)
    if form in ("mkv", "webm"):
        # Debian's ffprobe is older than Matroska's rotation; PyAV's FFmpeg reads it.
        with av.open(str(path)) as container:
            assert next(container.decode(video=0)).rotation == -90
        return
    found = ffprobe("-show_streams", path)["streams"][0]["side_data_list"][0]
    assert found["rotation"] == -90
    numbers = [
        int(number)
        for line in found["displaymatrix"].split("\n")
        if line
        for number in line.split(":")[1].split()
    ]
    # Twice as large, so twice as far.
    assert numbers == [*TURNED[:6], 48 << 16, *TURNED[7:]]


@pytest.mark.parametrize("form", ["ts", "flv", "nut"])
def test_containers_without_a_matrix(
    form: str, small: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    write(path, small, frame_times(range(0, 120, 40)), options=coding(form), matrix=TURNED)
    assert "side_data_list" not in ffprobe("-show_streams", path)["streams"][0]
