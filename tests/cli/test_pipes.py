"""Video through pipes, with FFmpeg at both ends: nothing but video comes out."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from pyav_cli import pyav

Hatvid = Callable[..., Any]
Make = Callable[..., Path]
Probe = Callable[..., dict[str, Any]]

PICTURE = "testsrc2=s=32x24:r=24000/1001:d=0.25"


def frames(data: bytes) -> list[tuple[Any, ...]]:
    """Time, duration and samples of each frame that FFmpeg reads from a pipe."""
    with av.open(io.BytesIO(data)) as container:
        return [
            (frame.pts * frame.time_base, frame.duration, frame.to_ndarray().tobytes())
            for frame in container.decode(video=0)
        ]


def y4m(pix_fmt: str = "yuv420p", source: str = PICTURE) -> bytes:
    return pyav(
        *("-f", "lavfi", "-i", source, "-pix_fmt", pix_fmt, "-strict", "-1"),
        *("-f", "yuv4mpegpipe", "-"),
    )


@contextmanager
def standing_for(number: int, descriptor: int) -> Iterator[None]:
    """One descriptor in the place of another, for as long as this lasts."""
    kept = os.dup(number)
    os.dup2(descriptor, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


@pytest.fixture
def through(
    hatvid: Hatvid, cheap: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, bytes]]:
    """``WRITER | hatvid COMMAND - OPTIONS | cat``: how it ended, and what came out."""

    def run(data: bytes, *options: str | Path, command: str = "upscale") -> tuple[Any, bytes]:
        sent, received = tmp_path / "sent", tmp_path / "received"
        sent.write_bytes(data)
        settings = [*cheap, "--progress", "none"] if command == "upscale" else cheap
        read, write = os.pipe()
        with (
            subprocess.Popen(["cat", sent], stdout=write),
            received.open("wb") as file,
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file) as reader,
            os.fdopen(read) as stdin,
        ):
            os.close(write)
            assert reader.stdin is not None
            monkeypatch.setattr(sys, "stdin", stdin)
            with standing_for(1, reader.stdin.fileno()):
                done = hatvid(command, *settings, "-", *options)
            reader.stdin.close()
        found = received.read_bytes()
        sent.unlink()
        received.unlink()
        return done, found

    return run


def test_a_program_between_two_ffmpegs(
    hatvid: Hatvid, cheap: list[str], program_environment: dict[str, str], tmp_path: Path
) -> None:
    video = y4m("yuv420p10le")
    command = [sys.executable, "-m", "hatvid", "upscale", "-", "-o", "-", *cheap]
    piped = subprocess.run(
        command, input=video, capture_output=True, timeout=60, check=False, env=program_environment
    )
    assert piped.returncode == 0, piped.stderr
    source, output = tmp_path / "in.y4m", tmp_path / "out.y4m"
    source.write_bytes(video)
    assert hatvid("upscale", *cheap, source, "-o", output).code == 0
    # To the byte: nothing is printed between them.
    assert piped.stdout == output.read_bytes()
    assert len(frames(piped.stdout)) == 6
    assert b"not verified: a pipe cannot be read twice" in piped.stderr


@pytest.mark.parametrize("name", ["y4m", "nut", "mkv", "mp4"])
def test_a_pipe_holds_what_a_file_holds(
    through: Callable[..., Any], hatvid: Hatvid, cheap: list[str], tmp_path: Path, name: str
) -> None:
    source, output = tmp_path / "in.nut", tmp_path / f"out.{name}"
    pyav("-f", "lavfi", "-i", PICTURE, "-c:v", "ffv1", source)
    done, data = through(source.read_bytes(), "-o", "-", "--format", name)
    assert done.code == 0, done.err
    assert hatvid("upscale", *cheap, source, "-o", output).code == 0
    assert frames(data) == frames(output.read_bytes())
    assert len(frames(data)) == 6


def test_what_a_file_holds_already_stays(
    hatvid: Hatvid, cheap: list[str], clip: Path, tmp_path: Path
) -> None:
    # As `>> file`, and as `> file` after somebody else has written to it.
    for number, flags in enumerate((os.O_APPEND, 0)):
        place = tmp_path / f"{number}.mkv"
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | flags)
        os.write(descriptor, b"before")
        with standing_for(1, descriptor):
            done = hatvid("upscale", *cheap, clip, "-o", "-", "--format", "mkv")
        os.close(descriptor)
        assert done.code == 0, done.err
        data = place.read_bytes()
        assert data.startswith(b"before")
        assert len(frames(data.removeprefix(b"before"))) == 6


@pytest.mark.parametrize(
    ("pix_fmt", "names", "told"),
    [
        ("yuv420p", ("bt709", "bt709", "bt709", "limited", "left"), ("tv", "bt709", "bt709")),
        ("yuv422p", ("601", "smpte170m", "601", "full", "left"), ("pc", "smpte170m", "smpte170m")),
        (
            "yuv420p10le",
            ("2020", "bt2020", "pq", "limited", "topleft"),
            ("tv", "bt2020nc", "smpte2084"),
        ),
    ],
)
def test_colours_that_a_pipe_does_not_tell(
    through: Callable[..., Any],
    ffprobe: Probe,
    tmp_path: Path,
    pix_fmt: str,
    names: tuple[str, ...],
    told: tuple[str, str, str],
) -> None:
    options = ("matrix", "primaries", "transfer", "range", "chromaloc")
    given = [
        text for pair in zip(options, names, strict=True) for text in (f"--in-{pair[0]}", pair[1])
    ]
    done, data = through(y4m(pix_fmt), *given, "-o", "-", "--format", "mkv")
    assert done.code == 0, done.err
    (tmp_path / "out.mkv").write_bytes(data)
    stream = ffprobe("-show_streams", tmp_path / "out.mkv")["streams"][0]
    found = [stream[key] for key in ("color_range", "color_space", "color_transfer")]
    assert found == list(told)
    assert stream["color_primaries"] == names[1]
    assert stream["chroma_location"] == names[4]
    assert stream["pix_fmt"].replace("yuvj", "yuv") == pix_fmt


def test_raw_video_in_and_out(through: Callable[..., Any], ffprobe: Probe, tmp_path: Path) -> None:
    video = y4m("yuv422p10le")
    raw = pyav("-i", "-", "-f", "rawvideo", "-", given=video)
    shape = ["--in-format", "rawvideo", "--video-size", "32x24"]
    shape += ["--pixel-format", "yuv422p10le", "--framerate", "24000/1001"]
    done, from_raw = through(raw, *shape, "-o", "-")
    assert done.code == 0, done.err
    # Of the same frames in a format that tells their shape.
    done, from_y4m = through(video, "-o", "-")
    assert done.code == 0, done.err
    assert frames(from_raw) == frames(from_y4m)
    done, to_raw = through(video, "-o", "-", "--format", "rawvideo")
    assert done.code == 0, done.err
    assert to_raw == pyav("-i", "-", "-f", "rawvideo", "-", given=from_y4m)
    assert len(to_raw) == 6 * 64 * 48 * 2 * 2
    done, timed = through(raw, *shape, "-o", "-", "--format", "nut")
    (tmp_path / "timed.nut").write_bytes(timed)
    stream = ffprobe("-show_streams", tmp_path / "timed.nut")["streams"][0]
    assert Fraction(stream["avg_frame_rate"]) == Fraction(24000, 1001)


@pytest.mark.parametrize(("name", "kept"), [("mkv", 3), ("nut", 2)])
def test_other_streams_pass(
    through: Callable[..., Any], ffprobe: Probe, tmp_path: Path, name: str, kept: int
) -> None:
    source, output, text = tmp_path / "in.mkv", tmp_path / f"out.{name}", tmp_path / "text.srt"
    text.write_text("1\n00:00:00,050 --> 00:00:00,200\nTyger Tyger\n")
    pyav(
        # All 23 ms late: AAC would begin before zero, and NUT holds no such time.
        *("-itsoffset", "0.023", "-f", "lavfi", "-i", PICTURE),
        *("-itsoffset", "0.023", "-f", "lavfi", "-i", "sine=d=0.25"),
        *("-itsoffset", "0.023", "-f", "lavfi", "-i", "sine=d=0.25"),
        *("-itsoffset", "0.023", "-i", text),
        *("-map", "0", "-map", "1", "-map", "2", "-map", "3"),
        *("-enc_time_base", "1:1000", "-c:v", "ffv1", "-c:s", "ass"),
        *("-c:a:0", "flac", "-c:a:1", "aac", "-metadata:s:a:1", "language=deu", source),
    )
    done, data = through(source.read_bytes(), "-o", "-", "--format", name)
    assert done.code == 0, done.err
    output.write_bytes(data)

    def others(path: Path) -> list[list[Any]]:
        """Codec, language and packets of all streams but the first."""
        found = ffprobe("-show_packets", "-show_data_hash", "sha256", "-show_streams", path)
        streams: list[list[Any]] = [
            [stream["codec_name"], stream.get("tags", {}).get("language")]
            for stream in found["streams"]
        ]
        for packet in found["packets"]:
            # NUT counts in samples, and Matroska in milliseconds.
            at = round(float(packet["pts_time"]), 3)
            streams[packet["stream_index"]].append((at, packet["data_hash"]))
        return streams[1:]

    assert [stream[0] for stream in others(source)] == ["flac", "aac", "ass"]
    assert all(len(stream) > 2 for stream in others(source))
    assert others(output) == others(source)[:kept]
    # NUT has no words for how long a line of text stays.
    dropped = "stream 3 (subtitle ass) is dropped: nut cannot hold ass"
    assert (dropped in done.err) == (kept == 2)


@pytest.mark.parametrize("name", ["y4m", "mp4"])
def test_a_reader_that_leaves_early(
    cheap: list[str],
    program_environment: dict[str, str],
    clip: Path,
    name: str,
) -> None:
    command = [sys.executable, "-m", "hatvid", "upscale", str(clip), "-o", "-"]
    command += ["--format", name, "--progress", "none", *cheap]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=program_environment,
        pipesize=4096,  # the video must not fit into what the system holds for a reader
    ) as program:
        assert program.stdout is not None
        if name == "y4m":  # as head -c 20
            assert program.stdout.read(20).startswith(b"YUV4MPEG2 W64 H48")
        program.stdout.close()
        assert program.stderr is not None
        err = program.stderr.read().decode()
    *notes, last = err.splitlines()
    assert last == "hatvid: the reader of the output has gone (Broken pipe); look for why it ended"
    assert all(re.match("hatvid: .* (holds no|cannot say)", note) for note in notes), notes
    assert program.returncode == 1


def test_a_terminal_gets_no_video(hatvid: Hatvid, cheap: list[str], clip: Path) -> None:
    ours, theirs = os.openpty()
    with standing_for(1, theirs):
        done = hatvid("upscale", *cheap, clip, "-o", "-")
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)
    os.close(ours)
    os.close(theirs)
    assert done.code == 2
    assert done.err == (
        "hatvid: standard output is a terminal; send it to a file or a program, or name the "
        "output with -o\n"
    )


def test_a_terminal_is_not_waited_for(
    hatvid: Hatvid, cheap: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        done = hatvid("upscale", *cheap, "-", "-o", tmp_path / "out.mkv")
    os.close(ours)
    assert (done.code, done.err) == (
        1,
        "hatvid: standard input is a terminal; pipe a video into it\n",
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "nothing came through the pipe; did its writer fail?"),
        (b"\x00\x81garbage" * 5000, "cannot be read as a video"),
        (b"YUV4MPEG2 W32 H24 F24:1 C420\n", "cannot be read as a video|no frame"),
        (b"#EXTM3U\nother.ts\n", "an HLS playlist"),
    ],
)
@pytest.mark.parametrize("place", ["-", "out.mkv"])
def test_what_is_no_video(
    through: Callable[..., Any],
    refusal: Callable[..., None],
    tmp_path: Path,
    data: bytes,
    says: str,
    place: str,
) -> None:
    output = place if place == "-" else tmp_path / place
    done, out = through(data, "-o", output)
    refusal(done, code=1, says=says)
    assert out == b""
    assert not list(tmp_path.iterdir())


def test_an_mp4_whose_index_is_at_its_end(
    through: Callable[..., Any], refusal: Callable[..., None], make_clip: Make, tmp_path: Path
) -> None:
    # More than FFmpeg reads at once.
    source = make_clip(tmp_path / "long.mp4", frames=24, width=128, height=96)
    done, out = through(source.read_bytes(), "-o", "-")
    refusal(done, code=1, says="index")
    assert out == b""


def test_a_writer_that_fails(through: Callable[..., Any]) -> None:
    video = y4m()
    size = (len(video) - video.index(b"FRAME")) // 6
    done, data = through(video[: -2 * size - size // 2], "-o", "-")
    assert done.code == 0, done.err
    assert len(frames(data)) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "standard input has no name; name the output with -o"),
        (["-o", "-", "--format", "avi"], "avi"),
        (["-o", "-", "--in-format", "rawvideo"], "give --video-size WxH"),
        (["-o", "-", "--in-format", "concat"], "'concat' is not read by hatvid"),
    ],
)
def test_options_that_pipes_need(
    through: Callable[..., Any], refusal: Callable[..., None], options: list[str], says: str
) -> None:
    done, out = through(b"", *options)
    refusal(done, code=2, says=says)
    assert out == b""


def test_progress_is_told_beside_the_video(through: Callable[..., Any]) -> None:
    done, data = through(y4m(), "-o", "-", "--progress", "json")
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.err.splitlines()]
    assert events[-1]["event"] == "finished"
    assert events[-1]["frames"] == len(frames(data)) == 6
    assert events[-1]["output"] == "-"


def test_info_of_a_pipe(through: Callable[..., Any]) -> None:
    done, _ = through(
        y4m(), "--in-matrix", "bt709", "-o", "-", "--format", "mkv", "--json", command="info"
    )
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["refused"] is None
    assert told["input"]["size"] == "32x24"
    assert told["output"]["container"] == "matroska"
    assert told["output"]["size"] == "64x48"
    assert told["output"]["colours"].startswith("bt709 ")
