"""Every frame of a file arrives once, in order, at its pts, and shows the right picture.

The references are the packets of the file, read by PyAV's demuxer alone, and Debian's
ffprobe, a build of FFmpeg of its own; and each frame of a clip shows its own number.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from hatvid.errors import DecodeError
from hatvid.selectors import TimePoint
from hatvid.video.source import VideoSource

X265 = "log-level=none:scenecut=0:keyint=8:min-keyint=8:"
UNEVEN = [1000, 1001, 1005, 1006, 1020, 1021, 1090, 1100, 1101, 1200, 1201]

CLIPS: dict[str, tuple[str, dict[str, Any]]] = {
    "x264 B-frames mp4": ("a.mp4", {"options": {"preset": "medium", "bf": "3", "g": "12"}}),
    "x264 B-frames mkv": ("a.mkv", {"options": {"preset": "medium", "bf": "3", "g": "12"}}),
    "x264 B-frames mov": ("a.mov", {"options": {"preset": "medium", "bf": "3", "g": "12"}}),
    "x264 B-frames ts": ("a.ts", {"options": {"preset": "medium", "bf": "3", "g": "12"}}),
    "x264 open GOP": (
        "a.mp4",
        {
            "options": {
                "preset": "medium",
                "bf": "3",
                "x264-params": "open-gop=1:b-adapt=0:scenecut=0:keyint=8",
            }
        },
    ),
    "x264 long delay": (
        "a.mp4",
        {"options": {"preset": "medium", "x264-params": "bframes=8:b-adapt=0:b-pyramid=normal"}},
    ),
    "x264 MBAFF": ("a.ts", {"options": {"flags": "+ildct+ilme", "bf": "2", "preset": "medium"}}),
    "x264 10 bit": ("a.mp4", {"pix_fmt": "yuv420p10le", "options": {"bf": "3"}}),
    "x265 open GOP mkv": (
        "a.mkv",
        {"codec": "libx265", "options": {"x265-params": X265 + "open-gop=1:bframes=4:b-adapt=0"}},
    ),
    "x265 open GOP mp4": (
        "a.mp4",
        {"codec": "libx265", "options": {"x265-params": X265 + "open-gop=1:bframes=4:b-adapt=0"}},
    ),
    "uneven times and a late start mp4": (
        "a.mp4",
        {"pts": UNEVEN, "time_base": Fraction(1, 1000), "options": {"bf": "2"}},
    ),
    "uneven times and a late start mkv": (
        "a.mkv",
        {"pts": UNEVEN, "time_base": Fraction(1, 1000), "options": {"bf": "2"}},
    ),
    "mpeg2 ts": ("a.ts", {"codec": "mpeg2video", "options": {"bf": "2", "g": "6"}}),
    "interlaced mpeg2 ts": (
        "a.ts",
        {"codec": "mpeg2video", "options": {"bf": "2", "g": "6", "flags": "+ildct+ilme"}},
    ),
    "mpeg4 avi": ("a.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "ffv1 mkv": ("a.mkv", {"codec": "ffv1"}),
    "prores mov": ("a.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
    "vp9 with hidden frames webm": (
        "a.webm",
        {
            "codec": "libvpx-vp9",
            "options": {"lag-in-frames": "16", "auto-alt-ref": "6", "cpu-used": "4"},
        },
    ),
    "av1 mkv": ("a.mkv", {"codec": "libsvtav1"}),
    "av1 mp4": ("a.mp4", {"codec": "libsvtav1"}),
}


def packet_pts(path: Path) -> list[int]:
    """Of the video, in order of presentation, by PyAV's demuxer alone."""
    with av.open(f"file:{path}") as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert None not in stamps
    return sorted(stamps)  # type: ignore[type-var]


@pytest.fixture(scope="session")
def clips(
    tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]
) -> Callable[[str], Path]:
    """A clip of the table above, made when it is asked for first."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            file, options = CLIPS[name]
            made[name] = make_clip(tmp_path_factory.mktemp("clip") / file, **options)
        return made[name]

    return get


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_arrives(
    name: str, clips: Callable[[str], Path], play: Callable[..., Any]
) -> None:
    path = clips(name)
    count = len(CLIPS[name][1].get("pts", range(24)))
    played = play(path)
    assert played.numbers == list(range(count))
    assert played.pts == packet_pts(path)
    assert played.info.start == played.pts[0]
    assert not any(t.repeated or t.damaged or t.moved for t in played.times)
    assert played.ended_early is None


# AVI holds no pts, and ffprobe works out none for B-frames.
@pytest.mark.parametrize("name", [name for name in CLIPS if "avi" not in name])
def test_times_are_those_of_ffprobe(
    name: str,
    clips: Callable[[str], Path],
    play: Callable[..., Any],
    ffprobe: Callable[..., dict[str, Any]],
) -> None:
    path = clips(name)
    said = ffprobe("-show_frames", "-show_streams", "-select_streams", "v:0", path)
    played = play(path)
    assert played.pts == [frame["pts"] for frame in said["frames"]]
    [stream] = said["streams"]
    assert played.info.time_base == Fraction(stream["time_base"])
    assert (played.info.width, played.info.height) == (stream["width"], stream["height"])
    assert played.info.layout.pix_fmt == stream["pix_fmt"]


def test_frames_without_a_time_of_their_own_are_moved_and_said(
    make_clip: Callable[..., Path], play: Callable[..., Any], tmp_path: Path
) -> None:
    """A bare elementary stream knows no times; nothing may be lost for that."""
    clip = make_clip(tmp_path / "a.mp4", options={"bf": "2", "preset": "medium"})
    with av.open(str(clip)) as source, av.open(str(tmp_path / "a.h264"), "w") as target:
        twin = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = twin
                target.mux(packet)
    played = play(tmp_path / "a.h264")
    assert played.numbers == list(range(24))
    assert all(b > a for a, b in zip(played.pts[:-1], played.pts[1:], strict=True))


def _numbered_frame(number: int, width: int = 64, height: int = 48) -> av.VideoFrame:
    """The blocks that the fixture ``numbers`` reads."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        rows[:] = 128
        for bit in range(8 if index == 0 else 0):
            top, left = bit // 4 * 16, bit % 4 * 16
            rows[top : top + 16, left : left + 16] = 200 if number >> bit & 1 else 56
    return frame


def test_a_changing_picture_size_is_refused_with_its_time(
    play: Callable[..., Any], tmp_path: Path
) -> None:
    parts = []
    for part, (width, height) in enumerate([(64, 48), (96, 64)]):
        path = tmp_path / f"{part}.ts"
        with av.open(str(path), "w", format="mpegts") as output:
            stream = output.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for number in range(12):
                frame = _numbered_frame(number, width, height)
                frame.pts, frame.time_base = part * 12 + number, Fraction(1, 24)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        parts.append(path.read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    with pytest.raises(DecodeError) as caught:
        play(tmp_path / "both.ts")
    assert "64x48 to 96x64 at 0.500 s" in str(caught.value)
    first = play(tmp_path / "both.ts", end=TimePoint.parse("0.5"))
    assert first.numbers == list(range(12))


def test_info_of_a_header(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4")
    with VideoSource(path) as source:
        info = source.info
    assert (info.codec, info.frames, info.average_rate) == ("h264", 24, 24)
    assert info.duration is not None
    assert info.duration * info.time_base == 1
    # ISO/IEC 14496-12: the time scale lies in 'mdhd', 12 bytes into the version 0 box.
    data = path.read_bytes()
    at = data.index(b"mdhd") + 4
    assert struct.unpack(">I", data[at + 12 : at + 16])[0] == info.time_base.denominator
