"""Sound, subtitles, fonts, covers, chapters and tags through whole jobs, by Debian's ffprobe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hatvid

VIDEO = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=24:d=2")
TONES = ("-f", "lavfi", "-i", "sine=440:d=2", "-f", "lavfi", "-i", "sine=660:d=2")
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")

ASS = """[Script Info]
ScriptType: v4.00+
PlayResX: 64
PlayResY: 48

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment
Style: Default,Pixel,12,&H00FFFFFF,2

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.25,0:00:00.75,Default,,0,0,0,,first line
Dialogue: 0,0:00:01.00,0:00:01.50,Default,,0,0,0,,{\\i1}second{\\i0} line
"""
SRT = """1
00:00:00,250 --> 00:00:00,750
first line

2
00:00:01,000 --> 00:00:01,500
<i>second</i> line
"""
CHAPTERS = """;FFMETADATA1
title=A film
comment=with a comment
studio_note=a key of our own
[CHAPTER]
TIMEBASE=1/1000
START=0
END=1000
title=One
[CHAPTER]
TIMEBASE=1/1000
START=1000
END=2000
title=Two
"""

Probe = Callable[..., dict[str, Any]]
Packets = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, pyav: Callable[..., bytes]) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "text.ass").write_text(ASS)
    (folder / "text.srt").write_text(SRT)
    (folder / "chapters.txt").write_text(CHAPTERS)
    (folder / "pixel.ttf").write_bytes(bytes(range(256)) * 5)
    pyav("-f", "lavfi", "-i", "testsrc2=s=32x32", "-frames:v", "1", folder / "cover.png")
    return folder


@pytest.fixture(scope="module")
def film_mkv(parts: Path, pyav: Callable[..., bytes]) -> Path:
    film = parts / "film.mkv"
    pyav(
        *VIDEO,
        *TONES,
        *("-i", parts / "text.ass", "-i", parts / "chapters.txt", "-map_metadata", "4"),
        *("-map", "0", "-map", "1", "-map", "2", "-map", "3", *X264),
        *("-c:a:0", "aac", "-c:a:1", "ac3", "-c:s", "copy"),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu"),
        *("-metadata:s:a:1", "title=Kommentar", "-metadata:s:s:0", "language=fra"),
        *("-disposition:a:0", "0", "-disposition:a:1", "default", "-disposition:s:0", "forced"),
        *("-attach", parts / "pixel.ttf", "-metadata:s:t:0", "mimetype=font/ttf"),
        film,
    )
    return film


@pytest.fixture(scope="module")
def film_mp4(parts: Path, ffmpeg: Callable[..., bytes]) -> Path:
    film = parts / "film.mp4"
    ffmpeg(
        *VIDEO,
        *TONES[:4],
        *("-i", parts / "text.srt", "-i", parts / "cover.png", "-i", parts / "chapters.txt"),
        *("-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map_metadata", "4"),
        *("-c:v:0", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:v:1", "copy"),
        *("-c:a", "aac", "-c:s", "mov_text", "-disposition:v:1", "attached_pic"),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:s:0", "language=fra"),
        film,
    )
    return film


def of_kind(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [stream for stream in found["streams"] if stream["codec_type"] == kind]


def same_packets(packets: Packets, before: Path, after: Path, streams: str) -> None:
    """The same bytes at the same milliseconds."""
    kept = [
        [(round(float(packet["pts_time"]), 3), packet["data_hash"]) for packet in found]
        for found in (packets(before, streams), packets(after, streams))
    ]
    assert kept[0]
    assert kept[1] == kept[0]


def same_chapters(ffprobe: Probe, before: Path, after: Path) -> None:
    found = [
        [
            (float(mark["start_time"]), float(mark["end_time"]), mark["tags"]["title"])
            for mark in ffprobe("-show_chapters", path)["chapters"]
        ]
        for path in (before, after)
    ]
    assert len(found[0]) == 2
    assert found[1] == found[0]


def tags(found: dict[str, Any]) -> dict[str, str]:
    return {
        key.lower(): value
        for key, value in found["format"].get("tags", {}).items()
        if key.lower() in ("title", "comment", "studio_note")
    }


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_film_in_mkv(
    suffix: str,
    film_mkv: Path,
    repeat: hatvid.Upscaler,
    ffprobe: Probe,
    packets: Packets,
    tmp_path: Path,
) -> None:
    """Users of video2x miss their fonts, chapters and subtitles."""
    output = tmp_path / f"out{suffix}"
    receipt = hatvid.upscale(film_mkv, output, upscaler=repeat, preset="ultrafast")
    before, after = (ffprobe("-show_streams", "-show_format", path) for path in (film_mkv, output))
    assert len(of_kind(after, "video")) == 1
    for number in (0, 1):
        same_packets(packets, film_mkv, output, f"a:{number}")
        one, other = of_kind(before, "audio")[number], of_kind(after, "audio")[number]
        assert other["codec_name"] == one["codec_name"]
        assert other["tags"]["language"] == one["tags"]["language"]
        assert other["disposition"]["default"] == one["disposition"]["default"]
    same_chapters(ffprobe, film_mkv, output)
    assert tags(after) == tags(before)
    assert len(tags(before)) == 3
    (text,) = of_kind(after, "subtitle")
    assert text["tags"]["language"] == "fra"
    if suffix == ".mkv":
        same_packets(packets, film_mkv, output, "s:0")
        assert text["codec_name"] == "ass"
        assert text["disposition"]["forced"] == 1
        assert of_kind(after, "audio")[1]["tags"]["title"] == "Kommentar"
        (font,) = of_kind(after, "attachment")
        assert font["tags"]["filename"] == "pixel.ttf"
        assert font["tags"]["mimetype"] == "font/ttf"
        assert font["extradata_size"] == of_kind(before, "attachment")[0]["extradata_size"]
    else:
        assert text["codec_name"] == "mov_text"
        shown = [p for p in packets(output, "s:0") if int(p["size"]) > 2]  # not the pauses
        lines = packets(film_mkv, "s:0")
        assert [float(p["pts_time"]) for p in shown] == [float(p["pts_time"]) for p in lines]
        assert [float(p["duration_time"]) for p in shown] == [0.5, 0.5]
        fates = {fate.kind: fate for fate in receipt.streams if fate.fate != "copied"}
        assert fates["subtitle"].fate == "converted"
        assert fates["attachment"].fate == "dropped"
        assert any("attachment" in note and "mkv" in note for note in receipt.notes)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_film_in_mp4(
    suffix: str,
    film_mp4: Path,
    repeat: hatvid.Upscaler,
    ffprobe: Probe,
    packets: Packets,
    tmp_path: Path,
) -> None:
    output = tmp_path / f"out{suffix}"
    hatvid.upscale(film_mp4, output, upscaler=repeat, preset="ultrafast")
    before, after = (ffprobe("-show_streams", "-show_format", path) for path in (film_mp4, output))
    same_packets(packets, film_mp4, output, "a:0")
    same_chapters(ffprobe, film_mp4, output)
    assert tags(after) == tags(before)
    assert len(tags(before)) == 2  # MP4 has no room for keys of our own beside a cover
    (text,) = of_kind(after, "subtitle")
    assert text["tags"]["language"] == "fra"
    if suffix == ".mp4":
        same_packets(packets, film_mp4, output, "s:0")
    else:
        assert text["codec_name"] == "subrip"
        shown = packets(output, "s:0")
        assert [float(p["pts_time"]) for p in shown] == [0.25, 1.0]
        assert [float(p["duration_time"]) for p in shown] == [0.5, 0.5]
    picture, cover = of_kind(after, "video")
    assert (picture["width"], picture["height"]) == (128, 96)
    assert cover["disposition"]["attached_pic"] == 1
    assert packets(output, "v:1")[0]["data_hash"] == packets(film_mp4, "v:1")[0]["data_hash"]


def test_a_choice_of_streams(
    film_mkv: Path, repeat: hatvid.Upscaler, ffprobe: Probe, tmp_path: Path
) -> None:
    output = tmp_path / "out.mkv"
    hatvid.upscale(
        film_mkv, output, upscaler=repeat, preset="ultrafast", map=["v", "a:m:language:deu"]
    )
    streams = ffprobe("-show_streams", output)["streams"]
    assert [stream["codec_name"] for stream in streams] == ["h264", "ac3"]
    hatvid.upscale(
        film_mkv, output, upscaler=repeat, preset="ultrafast", audio=False, overwrite=True
    )
    streams = ffprobe("-show_streams", output)["streams"]
    assert [stream["codec_type"] for stream in streams] == ["video", "subtitle", "attachment"]


def test_two_videos_need_a_choice(
    pyav: Callable[..., bytes], repeat: hatvid.Upscaler, ffprobe: Probe, tmp_path: Path
) -> None:
    source, output = tmp_path / "two.mkv", tmp_path / "out.mkv"
    pyav(
        *VIDEO, *("-f", "lavfi", "-i", "testsrc2=s=32x32:r=24:d=1"), "-map", "0", "-map", "1",
        *X264, source,
    )  # fmt: skip
    with pytest.raises(hatvid.HatvidError, match=r"--map v:0"):
        hatvid.upscale(source, output, upscaler=repeat)
    assert not output.exists()
    hatvid.upscale(source, output, upscaler=repeat, map=["v:1", "v:0"], preset="ultrafast")
    first, second = ffprobe("-show_streams", output)["streams"]
    assert (first["width"], second["width"]) == (64, 64)
    assert second["height"] == 48
