"""pts and durations through whole jobs, as Debian's ffprobe reads them on both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import hatvid

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p")
NOISE = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=30:d=1")

# ffmpeg's arguments that make a clip, and the container of the output.
CLIPS: dict[str, tuple[tuple[str, ...], str, str]] = {
    # Frames left out at random places, the first shown at 1.5 s.
    "VFR with a late start": (
        (
            *("-vf", "select='not(eq(mod(n,7),2)+eq(mod(n,5),4))',settb=1/90000,setpts=PTS+1.5/TB"),
            *("-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-video_track_timescale"),
            *("90000", "-copyts", *X264),
        ),
        ".mp4",
        ".mp4",
    ),
    "VFR in mkv": (
        (
            *("-vf", "select='not(eq(mod(n,7),2))',settb=1/1000", "-fps_mode", "passthrough"),
            *("-enc_time_base", "1:1000", *X264),
        ),
        ".mkv",
        ".mkv",
    ),
    "VFR with an open GOP in x265": (
        (
            *("-vf", "select='not(eq(mod(n,6),1))'", "-fps_mode", "passthrough", "-c:v", "libx265"),
            *("-preset", "ultrafast", "-x265-params", "open-gop=1:bframes=4:keyint=8:log-level=0"),
            *("-pix_fmt", "yuv420p"),
        ),
        ".mp4",
        ".mp4",
    ),
    "a last frame of two seconds": (
        (
            *X264[:-4],
            "-bf",
            "0",
            *X264[-2:],
            "-bsf:v",
            "setts=duration=if(eq(N\\,29)\\,30720\\,512)",
        ),
        ".mp4",
        ".mp4",
    ),
}


# In MP4 a packet lasts until the next one's decoding time, which says nothing of how long a
# picture is shown where B-frames stand between.
PLAIN = {"VFR in mkv", "a last frame of two seconds"}


@pytest.fixture
def lasting(ffprobe: Callable[..., dict[str, Any]]) -> Callable[[Path], float]:
    """How many seconds the video lasts by the container, in its first stream."""

    def read(path: Path) -> float:
        found = ffprobe("-select_streams", "v:0", "-show_streams", "-show_format", path)
        stream = found["streams"][0]
        return float(stream.get("duration", found["format"]["duration"]))

    return read


@pytest.mark.parametrize("name", CLIPS)
def test_every_pts_and_duration(
    name: str,
    repeat: hatvid.Upscaler,
    ffmpeg: Callable[..., None],
    times: Callable[[Path], list[tuple[Fraction, Fraction]]],
    lasting: Callable[[Path], float],
    tmp_path: Path,
) -> None:
    arguments, suffix, into = CLIPS[name]
    source, output = tmp_path / f"in{suffix}", tmp_path / f"out{into}"
    ffmpeg(*NOISE, *arguments, source)
    hatvid.upscale(source, output, upscaler=repeat, preset="ultrafast")
    before, after = times(source), times(output)
    assert len(before) > 15
    assert [pts for pts, _ in after] == [pts for pts, _ in before]
    assert lasting(output) == lasting(source)
    if name in PLAIN:
        assert after == before


def test_an_edit_list_with_b_frames(
    repeat: hatvid.Upscaler,
    ffmpeg: Callable[..., None],
    times: Callable[[Path], list[tuple[Fraction, Fraction]]],
    packets: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    whole, source, output = (tmp_path / f"{name}.mp4" for name in ("whole", "cut", "out"))
    ffmpeg(*NOISE, *X264, "-g", "12", whole)
    # Copied from between two key frames: the edit list leaves out the pictures before.
    ffmpeg("-ss", "0.6", "-i", whole, "-c", "copy", source)
    assert any("D" in packet["flags"] for packet in packets(source, "v:0"))
    hatvid.upscale(source, output, upscaler=repeat, preset="ultrafast")
    assert times(output) == times(source)


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_coarser_clock_rounds_once(
    suffix: str,
    repeat: hatvid.Upscaler,
    ffmpeg: Callable[..., None],
    times: Callable[[Path], list[tuple[Fraction, Fraction]]],
    tmp_path: Path,
) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / f"out{suffix}"
    ffmpeg(*NOISE, "-vf", "settb=1001/30000", "-r", "30000/1001", *X264, source)
    receipt = hatvid.upscale(source, output, upscaler=repeat)
    expected = [Fraction(math.floor(pts * 1000 + Fraction(1, 2)), 1000) for pts, _ in times(source)]
    assert [pts for pts, _ in times(output)] == expected
    assert any("rounded once" in note for note in receipt.notes)


def test_a_cut_begins_and_ends_at_frames_of_a_variable_rate(
    repeat: hatvid.Upscaler,
    ffmpeg: Callable[..., None],
    times: Callable[[Path], list[tuple[Fraction, Fraction]]],
    packets: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    ffmpeg(
        *NOISE,
        *("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac"),
        # Three quick frames of four in the first half, one of four in the second.
        *("-vf", "select='if(lt(t,0.5),mod(n,4),not(mod(n,4)))'", "-fps_mode", "passthrough"),
        *X264,
        source,
    )
    hatvid.upscale(source, output, upscaler=repeat, start="9f", end="13f", preset="ultrafast")
    before = times(source)
    first = before[9][0]
    assert [pts for pts, _ in times(output)] == [pts - first for pts, _ in before[9:13]]
    # Sound that is heard between the first frame's start and the last one's end, and no more.
    sound = packets(output, "a:0")
    length = before[13][0] - first
    tick = Fraction(1024, 44100)
    starts = [Fraction(packet["pts_time"]) for packet in sound]
    assert -tick < starts[0] <= 0
    assert length - tick <= starts[-1] < length
