"""Inputs that are no video, or a broken one: one line that says what to do, nothing written."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

Refused = Callable[..., Any]
Make = Callable[..., Path]


def test_a_missing_file(refused: Refused, tmp_path: Path) -> None:
    refused(tmp_path / "gone.mp4", code=1, says=r"gone\.mp4: no such file; check the name")


def test_a_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "clips.mp4").mkdir()
    refused(tmp_path / "clips.mp4", code=1, says=r"is a folder; name a video file")


def test_a_path_through_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a folder")
    refused(tmp_path / "notes.txt" / "a.mp4", code=1, says="check the name")


def test_a_dangling_link(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    refused(tmp_path / "link.mp4", code=1, says=r"link\.mp4: no such file; check the name")


def test_a_link_to_itself(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    refused(tmp_path / "loop.mp4", code=1, says="check the name")


def test_a_name_too_long(refused: Refused, tmp_path: Path) -> None:
    refused(tmp_path / ("a" * 300 + ".mp4"), code=1, says="check the name")


def test_an_empty_name(refused: Refused) -> None:
    refused("", code=1, says="name")


def test_a_device(refused: Refused, tmp_path: Path) -> None:
    # It can be opened, read from without end or not at all, and is no video.
    for device in ("/dev/null", "/dev/zero"):
        output = tmp_path / "out.mp4"
        refused(device, "-o", output, code=1, says="not a file; name a video file")


def test_a_pipe_is_not_waited_for(refused: Refused, tmp_path: Path) -> None:
    # Opening a pipe that nobody writes to would wait for ever.
    os.mkfifo(tmp_path / "pipe.mp4")
    output = tmp_path / "out.mp4"
    refused(tmp_path / "pipe.mp4", "-o", output, code=1, says="not a file; name a video file")


def test_an_empty_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", code=1, says=r"empty\.mp4 is empty; was it copied")


def test_random_bytes(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(random.Random(1).randbytes(50_000))
    refused(tmp_path / "noise.mp4", code=1, says="cannot be read as a video.*is the file whole")


@pytest.mark.parametrize("name", ["poem.txt", "poem.mp4", "poem.mkv", "poem.srt"])
def test_text(refused: Refused, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Tyger Tyger, burning bright,\nIn the forests of the night\n" * 40)
    refused(
        tmp_path / name,
        "-o",
        tmp_path / "out.mkv",
        code=1,
        says="no video|cannot be read as a video",
    )


def test_an_mp4_cut_off_before_its_index(refused: Refused, tmp_path: Path, make_clip: Make) -> None:
    whole = make_clip(tmp_path / "clip.mp4")
    data = whole.read_bytes()
    assert data.index(b"mdat") < data.index(b"moov")
    whole.write_bytes(data[: data.index(b"moov") - 8])
    refused(whole, code=1, says="cannot be read as a video.*is the file whole")


def test_a_header_and_no_frame(refused: Refused, tmp_path: Path, make_clip: Make) -> None:
    whole = make_clip(tmp_path / "clip.mkv")
    data = whole.read_bytes()
    cluster = data.index(b"\x1f\x43\xb6\x75")
    whole.write_bytes(data[:cluster])
    refused(whole, code=1, says="cannot be read as a video.*is the file whole")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.mkv", "flac")]
)
def test_sound_only(
    refused: Refused, tmp_path: Path, make_sound: Make, name: str, codec: str
) -> None:
    path = make_sound(tmp_path / name, codec=codec)
    output = tmp_path / "out.mkv"
    refused(path, "-o", output, code=1, says=r"no video \(only audio\); name a file with a video")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.mkv", "aac")]
)
def test_a_cover_picture_only(
    refused: Refused, tmp_path: Path, make_sound: Make, name: str, codec: str
) -> None:
    path = make_sound(tmp_path / name, codec=codec, cover=True)
    with av.open(str(path)) as container:
        assert container.streams.video, "the cover is to be seen as a video stream"
    output = tmp_path / "out.mkv"
    refused(
        path, "-o", output, code=1, says="no video.*only a cover picture and audio.*name a file"
    )


@pytest.mark.parametrize(
    ("name", "codec", "old", "new"),
    [
        ("clip.mp4", "libx264", b"avc1", b"zzq9"),
        ("clip.mkv", "libx264", b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/QQQ"),
        ("clip.avi", "mpeg4", b"FMP4", b"zzq9"),
    ],
)
def test_a_codec_that_nobody_knows(
    refused: Refused,
    tmp_path: Path,
    make_clip: Make,
    name: str,
    codec: str,
    old: bytes,
    new: bytes,
) -> None:
    path = make_clip(tmp_path / name, codec=codec)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    output = tmp_path / "out.mkv"
    refused(path, "-o", output, code=1, says="no decoder for its video codec.*convert it")


def test_frames_without_extent(refused: Refused, tmp_path: Path, make_clip: Make) -> None:
    y4m = tmp_path / "clip.y4m"
    y4m.write_bytes(b"YUV4MPEG2 W0 H0 F24:1 Ip A1:1 C420jpeg\nFRAME\n")
    refused(y4m, "-o", tmp_path / "out.mkv", code=1, says="cannot be read as a video|no frame")

    avi = make_clip(tmp_path / "clip.avi", codec="rawvideo")
    data = bytearray(avi.read_bytes())
    header = data.index(b"strf") + 8
    assert struct.unpack_from("<iii", data, header) == (40, 32, 24)
    struct.pack_into("<ii", data, header + 4, 0, 0)
    avi.write_bytes(data)
    refused(avi, "-o", tmp_path / "out.mkv", code=1, says="cannot be read as a video|no frame")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 24), (33, 1)])
def test_the_smallest_frames_work(
    hatvid: Callable[..., Any],
    cheap: list[str],
    tmp_path: Path,
    make_clip: Make,
    width: int,
    height: int,
) -> None:
    small = make_clip(
        tmp_path / "small.nut", codec="rawvideo", pix_fmt="yuv444p", width=width, height=height
    )
    larger = tmp_path / "larger.mkv"
    done = hatvid("upscale", *cheap, small, "-o", larger)
    assert done.code == 0, done.err
    with av.open(str(larger)) as container:
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert sizes == [(width * 2, height * 2)] * 6


def test_a_pixel_format_that_is_not_supported(
    refused: Refused, tmp_path: Path, make_clip: Make
) -> None:
    path = make_clip(tmp_path / "clip.nut", codec="rawvideo", pix_fmt="rgb555le")
    refused(path, "-o", tmp_path / "out.mkv", code=1, says="rgb555le is not supported; convert")


def test_the_program_says_it_in_one_line_too(
    hatvid_program: Callable[..., Any], refusal: Refused, tmp_path: Path, make_sound: Make
) -> None:
    # As a program, what a library prints by itself on standard error would show as well.
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(random.Random(1).randbytes(50_000))
    song = make_sound(tmp_path / "song.m4a", codec="aac", cover=True)
    for path, says in [(noise, "cannot be read as a video"), (song, "no video")]:
        refusal(hatvid_program("upscale", path, "-o", tmp_path / "o.mp4"), code=1, says=says)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["noise.mp4", "song.m4a"]


def test_a_message_stays_one_line_whatever_the_name(refused: Refused, tmp_path: Path) -> None:
    outcome = refused(tmp_path / "a\nb\r\n\x1b[2J[bold]c.mp4", code=1, says="no such file")
    assert "[bold]c.mp4" in outcome.err
    assert "\x1b" not in outcome.err
