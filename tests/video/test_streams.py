"""Streams beside the video, judged by Debian's ffprobe and ffmpeg: what arrives, and what is said.

The video is copied here: what is tested is everything else.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from hatvid.errors import OptionError, OutputError
from hatvid.options import StreamOptions
from hatvid.selectors import StreamSpecifier
from hatvid.video.streams import (
    LEFT_OUT,
    StreamFate,
    StreamPlan,
    container_options,
    copy_metadata,
    described,
    open_streams,
    plan_streams,
    stream_tags,
)

Probe = Callable[..., dict[str, Any]]

ASS = r"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, \
Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, \
Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0
Style: Sign,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,1,0,0,100,100,0,0,1,1,0,2,10,10,10,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.10,0:00:00.50,Default,,0,0,0,,{\b1}Bold{\b0} one, two
Dialogue: 0,0:00:00.20,0:00:00.30,Sign,,0,0,0,,A sign
Dialogue: 0,0:00:00.60,0:00:00.90,Default,,0,0,0,,Two\Nlines
""".replace("\\\n", "")

SRT = """1
00:00:00,100 --> 00:00:00,350
Hello <i>there</i>

2
00:00:00,500 --> 00:00:00,750
Bye
"""

META = """;FFMETADATA1
title=A film
comment=Some words
weird_key=strange value
[CHAPTER]
TIMEBASE=1/1000
START=0
END=400
title=One
[CHAPTER]
TIMEBASE=1/1000
START=400
END=1000
title=Two
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pyav: Callable[..., bytes]) -> Path:
    """Files to begin with: film.mkv and film.mp4 have everything, two.ts two videos."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "a.ass").write_text(ASS)
    (folder / "a.srt").write_text(SRT)
    (folder / "meta.txt").write_text(META)
    (folder / "font.ttf").write_bytes(bytes(range(256)) * 8)
    video = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=24:d=1")
    sound = ("-f", "lavfi", "-i", "sine=d=1")
    pyav(*video, "-frames:v", "1", "-pix_fmt", "yuvj420p", folder / "cover.jpg")
    x264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
    pyav(
        *(*video, *sound, "-f", "lavfi", "-i", "sine=f=880:d=1"),
        *("-i", folder / "a.ass", "-i", folder / "a.srt", "-i", folder / "meta.txt"),
        *("-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map", "4"),
        *("-map_metadata", "5", "-map_chapters", "5", *x264, "-bf", "0"),
        *("-c:a:0", "aac", "-c:a:1", "ac3", "-c:s:0", "ass", "-c:s:1", "subrip"),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu"),
        *("-metadata:s:a:1", "title=Kommentar", "-metadata:s:a:1", "BPS-eng=96000"),
        *("-metadata:s:s:0", "language=fra", "-metadata:s:v:0", "BPS=1234"),
        *("-disposition:a:1", "comment", "-disposition:s:1", "forced+hearing_impaired"),
        *("-attach", folder / "font.ttf"),
        *("-metadata:s:t:0", "mimetype=application/x-truetype-font"),
        *("-attach", folder / "cover.jpg", "-metadata:s:t:1", "mimetype=image/jpeg"),
        folder / "film.mkv",
    )
    pyav(
        *("-i", folder / "film.mkv", "-i", folder / "cover.jpg"),
        *("-map", "0:v:0", "-map", "0:a:0", "-map", "0:s:1", "-map", "1"),
        *("-c", "copy", "-c:s", "mov_text", "-metadata:s:s:0", "language=spa"),
        *("-disposition:v:1", "attached_pic", "-metadata", "weird_key=", folder / "film.mp4"),
    )
    pyav(
        *(*video, "-f", "lavfi", "-i", "testsrc2=s=64x48:r=24:d=1", *sound),
        *("-map", "0", "-map", "1", "-map", "2", *x264, "-bf", "2", "-c:a", "aac"),
        folder / "two.ts",
    )
    pyav("-i", folder / "two.ts", "-map", "0", "-c", "copy", folder / "two.mp4")
    return folder


@dataclass
class Done:
    path: Path
    plan: StreamPlan
    notes: list[str]

    def fate(self, index: int) -> StreamFate:
        return self.plan.fates[index]


def planned(path: Path, muxer: str, *maps: str, cut: bool = False, **options: Any) -> StreamPlan:
    chosen = StreamOptions(map=tuple(StreamSpecifier.parse(text) for text in maps), **options)
    with av.open(str(path)) as source:
        return plan_streams(source, source.streams.video[0], chosen, muxer, cut=cut)


def remuxed(path: Path, target: Path, muxer: str, *maps: str) -> Done:
    """What a job does, with the video's packets as they are."""
    chosen = StreamOptions(map=tuple(StreamSpecifier.parse(text) for text in maps))
    with av.open(str(path)) as source:
        video = source.streams.video[0]
        plan = plan_streams(source, video, chosen, muxer, cut=False)
        options = container_options(source, muxer, cover=bool(plan.pictures))
        with av.open(str(target), "w", format=muxer, container_options=options) as output:
            made: list[av.VideoStream] = []

            def add_video() -> None:
                stream = output.add_stream_from_template(video, opaque=True)
                stream.metadata.update(stream_tags(video, muxer, changed=True))
                stream.disposition = video.disposition
                made.append(stream)

            twins = open_streams(plan, source, output, add_video)
            notes = described(plan.fates) + copy_metadata(source, output, cut=False)
            for packet in source.demux():
                if not packet.size:
                    continue
                if packet.stream_index == video.index:
                    packet.stream = made[0]
                    output.mux(packet)
                elif packet.stream_index in twins:
                    output.mux(twins[packet.stream_index].packets(packet))
            for twin in twins.values():
                output.mux(twin.finish())
                assert twin.lost == 0
    return Done(target, plan, notes)


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[tuple[str, str], Done]:
    """film.mkv and film.mp4, each as mkv and as mp4."""
    done = {}
    for first in ("mkv", "mp4"):
        for second, muxer in (("mkv", "matroska"), ("mp4", "mp4")):
            target = folder / f"{first}-to-{second}.{second}"
            done[first, second] = remuxed(folder / f"film.{first}", target, muxer)
    return done


def packets(ffprobe: Probe, path: Path, stream: str) -> list[tuple[float, str]]:
    """(seconds, hash) of each packet, as Debian's ffprobe reads them."""
    found = ffprobe(
        *("-show_packets", "-show_data_hash", "sha256", "-select_streams", stream), path
    )["packets"]
    return [(float(p.get("pts_time", 0)), p["data_hash"]) for p in found if int(p["size"]) > 2]


def flags(stream: dict[str, Any]) -> set[str]:
    # Written by newer FFmpegs beside hearing_impaired.
    return {name for name, on in stream["disposition"].items() if on} - {"captions"}


def lines(ffmpeg: Callable[..., bytes], path: Path, stream: str) -> list[str]:
    text = ffmpeg("-copyts", "-i", path, "-map", f"0:{stream}", "-f", "srt", "-").decode()
    text = text.replace("\r\n", "\n")
    return [part.strip() for part in text.split("\n\n") if part.strip()]


COPIED = [
    # (from, to, stream there, stream here)
    *[("mkv", "mkv", s, s) for s in ("a:0", "a:1", "s:0", "s:1")],
    *[("mkv", "mp4", s, s) for s in ("a:0", "a:1")],
    *[("mp4", "mp4", s, s) for s in ("a:0", "s:0")],
    ("mp4", "mkv", "a:0", "a:0"),
]
"""Sound begins before zero in film.mkv, as encoders prime it: nothing may move for that."""


@pytest.mark.parametrize(("first", "second", "before", "after"), COPIED)
def test_copied_packets_and_their_times_are_equal(
    first: str, second: str, before: str, after: str, folder: Path, results: Any, ffprobe: Probe
) -> None:
    old = packets(ffprobe, folder / f"film.{first}", before)
    new = packets(ffprobe, results[first, second].path, after)
    assert len(old) >= 2
    assert [data for _, data in new] == [data for _, data in old]
    assert [at for at, _ in new] == pytest.approx([at for at, _ in old], abs=0.0011)


@pytest.mark.parametrize("first", ["mkv", "mp4"])
@pytest.mark.parametrize("second", ["mkv", "mp4"])
def test_the_cover_stays_the_same_picture(
    first: str, second: str, folder: Path, results: Any, ffprobe: Probe
) -> None:
    streams = ffprobe("-show_streams", results[first, second].path)["streams"]
    covers = [s for s in streams if s["disposition"]["attached_pic"]]
    assert [s["codec_name"] for s in covers] == ["mjpeg"]
    picture = (folder / "cover.jpg").read_bytes()
    found = packets(ffprobe, results[first, second].path, str(covers[0]["index"]))
    assert [data for _, data in found] == ["SHA256:" + hashlib.sha256(picture).hexdigest()]


@pytest.mark.parametrize("first", ["mkv", "mp4"])
@pytest.mark.parametrize("second", ["mkv", "mp4"])
def test_chapters_keep_times_and_titles(
    first: str, second: str, folder: Path, results: Any, ffprobe: Probe
) -> None:
    def shown(path: Path) -> list[Any]:
        found = ffprobe("-show_chapters", path)["chapters"]
        return [(float(c["start_time"]), float(c["end_time"]), c["tags"]["title"]) for c in found]

    assert [title for _, _, title in shown(folder / f"film.{first}")] == ["One", "Two"]
    assert shown(results[first, second].path) == shown(folder / f"film.{first}")


def test_streams_languages_titles_and_dispositions_mkv_to_mkv(
    folder: Path, results: Any, ffprobe: Probe
) -> None:
    def shown(path: Path) -> list[Any]:
        streams = ffprobe("-show_streams", path)["streams"]
        keys = ("language", "title", "filename", "mimetype")
        return [
            (s["codec_type"], s.get("codec_name"), flags(s), [s["tags"].get(k) for k in keys])
            for s in streams
        ]

    assert len(shown(folder / "film.mkv")) == 7
    assert shown(results["mkv", "mkv"].path) == shown(folder / "film.mkv")
    assert results["mkv", "mkv"].notes == []


def test_the_font_is_the_same_to_the_byte(folder: Path, results: Any, ffmpeg: Any) -> None:
    dumped = folder / "dumped.ttf"
    done = results["mkv", "mkv"].path
    ffmpeg("-dump_attachment:t:0", dumped, "-i", done, "-map", "0:a:0", "-f", "null", "-")
    assert dumped.read_bytes() == (folder / "font.ttf").read_bytes()


@pytest.mark.parametrize(("first", "second"), [("mkv", "mp4"), ("mp4", "mp4"), ("mp4", "mkv")])
def test_languages_and_dispositions_across_containers(
    first: str, second: str, folder: Path, results: Any, ffprobe: Probe
) -> None:
    def shown(path: Path) -> list[Any]:
        streams = ffprobe("-show_streams", path)["streams"]
        return [
            (s["codec_type"], s["tags"].get("language", "und"), flags(s) - {"default"})
            for s in streams
            if s["codec_type"] in ("audio", "subtitle")
        ]

    assert shown(results[first, second].path) == shown(folder / f"film.{first}")


def test_text_becomes_mov_text_with_the_same_times(
    folder: Path, results: Any, ffprobe: Probe, ffmpeg: Any
) -> None:
    done = results["mkv", "mp4"]
    streams = ffprobe("-show_streams", "-select_streams", "s", done.path)["streams"]
    assert [s["codec_name"] for s in streams] == ["mov_text", "mov_text"]
    assert lines(ffmpeg, done.path, "s:1") == lines(ffmpeg, folder / "film.mkv", "s:1")
    # Overlapping lines are shown together; MP4 would end the first where the second begins.
    assert lines(ffmpeg, done.path, "s:0") == [
        "1\n00:00:00,100 --> 00:00:00,200\n<b>Bold</b> one, two",
        "2\n00:00:00,200 --> 00:00:00,300\n<b>Bold</b> one, two\n<i>A sign</i>",
        "3\n00:00:00,300 --> 00:00:00,500\n<b>Bold</b> one, two",
        "4\n00:00:00,600 --> 00:00:00,900\nTwo\nlines",
    ]


def test_mov_text_becomes_subrip_with_the_same_times(
    folder: Path, results: Any, ffprobe: Probe, ffmpeg: Any
) -> None:
    done = results["mp4", "mkv"]
    (stream,) = ffprobe("-show_streams", "-select_streams", "s", done.path)["streams"]
    assert stream["codec_name"] == "subrip"
    assert lines(ffmpeg, done.path, "s:0") == lines(ffmpeg, folder / "film.mp4", "s:0")


def test_what_is_converted_or_lost_is_named_with_the_container_that_holds_it(results: Any) -> None:
    assert results["mkv", "mp4"].notes == [
        "stream 3 (subtitle ass) is converted to mov_text: mp4 cannot hold ass; positions, "
        "effects and fonts, of which mov_text knows none, are lost",
        "stream 4 (subtitle subrip) is converted to mov_text: mp4 cannot hold subrip",
        "stream 5 (attachment) is dropped: mp4 cannot hold attachments; .mkv can",
        "mp4 holds no tag WEIRD_KEY: dropped; .mkv holds any",
    ]
    assert results["mp4", "mp4"].notes == []
    assert results["mp4", "mkv"].notes == [
        "stream 2 (subtitle mov_text) is converted to subrip: matroska cannot hold mov_text"
    ]


def test_the_track_of_chapter_titles_is_no_stream_that_is_lost(results: Any) -> None:
    for second in ("mkv", "mp4"):
        fates = [f for f in results["mp4", second].plan.fates if f.kind == "data"]
        assert [(f.codec, f.fate, f.target_codec) for f in fates] == [
            ("bin_data", "converted", "chapters")
        ]


@pytest.mark.parametrize("second", ["mkv", "mp4"])
def test_tags_of_the_file(second: str, results: Any, ffprobe: Probe) -> None:
    tags = ffprobe("-show_format", results["mkv", second].path)["format"]["tags"]
    tags = {key.lower(): value for key, value in tags.items()}
    assert (tags["title"], tags["comment"]) == ("A film", "Some words")
    assert (tags.get("weird_key") == "strange value") == (second == "mkv")


def test_mp4_without_a_cover_keeps_any_tag(folder: Path, ffprobe: Probe) -> None:
    done = remuxed(folder / "film.mkv", folder / "tags.mp4", "mp4", "0", "a")
    tags = ffprobe("-show_format", done.path)["format"]["tags"]
    assert tags["WEIRD_KEY"] == "strange value"
    assert done.notes == []


def test_statistics_go_with_the_packets_they_count(results: Any, ffprobe: Probe) -> None:
    streams = ffprobe("-show_streams", results["mkv", "mkv"].path)["streams"]
    assert "BPS" not in streams[0]["tags"]  # the video has other packets
    assert streams[2]["tags"]["BPS-eng"] == "96000"


def test_a_title_that_went_through_mp4_is_a_title_again(folder: Path, ffprobe: Probe) -> None:
    between = remuxed(folder / "film.mkv", folder / "title.mp4", "mp4", "0", "a:1").path
    done = remuxed(between, folder / "title.mkv", "matroska").path
    (stream,) = ffprobe("-show_streams", "-select_streams", "a", done)["streams"]
    assert stream["tags"]["title"] == "Kommentar"


# Which streams


@pytest.mark.parametrize(
    ("maps", "order"),
    [
        ((), (0, 1, 2, 3, 4, 5, 6)),
        (("a:1", "v:0"), (2, 0)),
        (("0", "s", "-s:0"), (0, 4)),
        (("v:0", "a:m:language:deu"), (0, 2)),
        (("-a:1",), (0, 1, 3, 4, 5, 6)),
    ],
)
def test_map_takes_these_in_this_order(
    maps: Sequence[str], order: tuple[int, ...], folder: Path
) -> None:
    plan = planned(folder / "film.mkv", "matroska", *maps)
    assert plan.order == order
    assert {f.index for f in plan.fates if f.reason == LEFT_OUT} == set(range(7)) - set(order)
    assert described(plan.fates) == []


def test_the_output_has_the_order_of_map(folder: Path, ffprobe: Probe) -> None:
    done = remuxed(folder / "film.mkv", folder / "order.mkv", "matroska", "a:1", "v:0", "a:0")
    streams = ffprobe("-show_streams", done.path)["streams"]
    assert [s["codec_name"] for s in streams] == ["ac3", "h264", "aac"]


def test_without_audio_or_subtitles(folder: Path) -> None:
    assert planned(folder / "film.mkv", "webm", audio=False).order == (0, 3, 4)
    assert planned(folder / "film.mkv", "matroska", subtitles=False).order == (0, 1, 2, 5, 6)


def test_map_that_matches_nothing_lists_what_there_is(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"a:7 matches no stream.*1 audio, 2 audio, 3 subtitle"):
        planned(folder / "film.mkv", "matroska", "v:0", "a:7")


def test_map_without_the_video_is_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"leaves out the video \(stream 0\); add --map 0"):
        planned(folder / "film.mkv", "matroska", "a")


def test_planning_takes_no_packet_from_the_input(folder: Path) -> None:
    with av.open(str(folder / "film.mkv")) as untouched:
        expected = [bytes(packet) for packet in untouched.demux()]
    with av.open(str(folder / "film.mkv")) as source:
        plan_streams(source, source.streams.video[0], StreamOptions(), "mp4", cut=False)
        assert [bytes(packet) for packet in source.demux()] == expected


# What containers cannot hold


@pytest.mark.parametrize(
    ("codec", "muxer", "there"),
    [
        ("tta", "mp4", ".mkv"),
        ("libopus", "mov", ".mkv"),
        ("flac", "mov", ".mkv"),
        ("aac", "webm", ".mkv"),
        ("ac3", "flv", ".mkv"),
        ("flac", "mpegts", ".mkv"),
    ],
)
def test_audio_that_does_not_fit_names_the_container_that_fits(
    codec: str, muxer: str, there: str, tmp_path: Path, pyav: Any
) -> None:
    path = tmp_path / "a.mkv"
    inputs = ("-f", "lavfi", "-i", "testsrc=s=64x48:d=0.1", "-f", "lavfi", "-i", "sine=d=0.1")
    pyav(*inputs, "-c:v", "mpeg4", "-c:a", codec, "-strict", "-2", path)
    name = codec.removeprefix("lib")
    with pytest.raises(OutputError, match=rf"{muxer} cannot hold {name} audio \(stream 1\)") as got:
        planned(path, muxer)
    assert f"write to a {there} file instead" in str(got.value)


def test_pipes_hold_nothing_but_the_picture_said_once(folder: Path) -> None:
    plan = planned(folder / "film.mkv", "yuv4mpegpipe")
    assert plan.order == (0,)
    (line,) = described(plan.fates)
    assert line.startswith("streams 1 (audio aac), 2 (audio ac3), 3 (subtitle ass)")
    assert line.endswith("yuv4mpegpipe holds nothing but the picture; nut and matroska hold more")


def _with_stream(path: Path, muxer: str, codec: str, data: bytes, film: Path) -> Path:
    """The video of ``film`` beside a stream of three packets of ``data``."""
    with av.open(str(film)) as source, av.open(str(path), "w", format=muxer) as output:
        video = output.add_stream_from_template(source.streams.video[0], opaque=True)
        is_data = codec in ("bin_data", "klv", "timed_id3")
        other = output.add_data_stream(codec) if is_data else output.add_mux_stream(codec)
        other.time_base = Fraction(1, 90000)
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                packet.stream = video
                output.mux(packet)
            if number < 3:
                extra: Any = av.Packet(data)
                extra.stream, extra.time_base = other, Fraction(1, 90000)
                extra.pts = extra.dts = 9000 * number
                extra.duration, extra.is_keyframe = 9000, True
                output.mux(extra)
    return path


@pytest.mark.parametrize(
    ("muxer", "codec", "data"),
    [
        ("mpegts", "klv", b"\x06\x0e\x2b\x34" + bytes(20)),
        ("mpegts", "timed_id3", b"ID3" + bytes(20)),
        ("mov", "eia_608", b"\0\0\0\x0acdat\x94\x20"),
        ("mp4", "bin_data", b"DEVC" + bytes(20)),
    ],
)
def test_data_and_caption_streams_are_copied_or_named(
    muxer: str, codec: str, data: bytes, folder: Path, ffprobe: Probe
) -> None:
    made = _with_stream(folder / f"{codec}.bin", muxer, codec, data, folder / "film.mkv")
    done = remuxed(made, folder / f"{codec}-copy.bin", muxer)
    assert done.fate(1) == StreamFate(
        index=1, kind=done.fate(1).kind, codec=codec, fate="copied", reason=""
    )
    old, new = packets(ffprobe, made, "1"), packets(ffprobe, done.path, "1")
    assert len(new) == 3
    assert [data for _, data in new] == [data for _, data in old]
    there = {"mpegts": ".ts", "mov": ".mov", "mp4": ".mp4"}[muxer]
    (line,) = described(planned(made, "matroska").fates)
    assert line.endswith(f"is dropped: matroska cannot hold {codec}; {there} can")


def test_pictures_of_text_are_named_where_they_do_not_fit(folder: Path) -> None:
    path = folder / "pgs.mkv"
    _with_stream(path, "matroska", "hdmv_pgs_subtitle", bytes(20), folder / "film.mkv")
    assert planned(path, "matroska").fates[1].fate == "copied"
    (line,) = described(planned(path, "mp4").fates)
    assert line == (
        "stream 1 (subtitle hdmv_pgs_subtitle) is dropped: mp4 cannot hold hdmv_pgs_subtitle; "
        ".mkv can"
    )


def test_text_to_webm_is_webvtt(folder: Path, pyav: Any, ffmpeg: Any, ffprobe: Probe) -> None:
    vp8 = folder / "vp8.mkv"
    pyav(
        *("-f", "lavfi", "-i", "testsrc=s=64x48:d=1", "-i", folder / "a.srt"),
        *("-c:v", "libvpx", "-c:s", "subrip", vp8),
    )
    done = remuxed(vp8, folder / "vp8.webm", "webm").path
    (stream,) = ffprobe("-show_streams", "-select_streams", "s", done)["streams"]
    assert stream["codec_name"] == "webvtt"
    assert lines(ffmpeg, done, "s:0") == lines(ffmpeg, vp8, "s:0")


def test_nut_which_keeps_no_end_of_a_line_gets_no_text(folder: Path) -> None:
    plan = planned(folder / "film.mkv", "nut", "0", "s")
    assert plan.order == (0,)
    assert described(plan.fates) == [
        "stream 3 (subtitle ass) is dropped: nut cannot hold ass; .mkv can",
        "stream 4 (subtitle subrip) is dropped: nut cannot hold subrip; .mkv can",
    ]


def test_a_cover_is_given_once_with_or_without_its_packet(folder: Path) -> None:
    picture = (folder / "cover.jpg").read_bytes()
    for passing in (True, False):
        with av.open(str(folder / "film.mkv")) as source, av.open(io.BytesIO(), "w", "mp4") as out:
            plan = plan_streams(source, source.streams.video[0], StreamOptions(), "mp4", cut=False)
            cover = open_streams(plan, source, out, lambda: None)[6]
            given = cover.packets(next(source.demux(source.streams[6]))) if passing else []
            assert [bytes(packet) for packet in given + cover.finish()] == [picture]


# Packets that muxers repack


def _hashes(path: Path, index: int, wanted: str) -> list[bytes]:
    """Of each packet after the filter named."""
    with av.open(str(path)) as source:
        stream = source.streams[index]
        bsf = av.bitstream.BitStreamFilterContext(wanted, stream)
        found = [bytes(p) for packet in source.demux(stream) for p in bsf.filter(packet)]
    return [hashlib.sha256(data).digest() for data in found if data]


@pytest.mark.parametrize(
    ("first", "second", "muxer"),
    [("two.ts", "mp4", "mp4"), ("two.ts", "mkv", "matroska"), ("two.mp4", "ts", "mpegts")],
)
def test_repacked_streams_are_equal_after_the_named_filter_and_decode_alike(
    first: str, second: str, muxer: str, folder: Path, ffmpeg: Any
) -> None:
    done = remuxed(folder / first, folder / f"repacked-{first}.{second}", muxer)
    assert [f.fate for f in done.plan.fates] == ["upscaled", "copied", "copied"]
    assert [f.filter for f in done.plan.fates] == ["", "h264_mp4toannexb", "aac_adtstoasc"]
    old = _hashes(folder / first, 2, "aac_adtstoasc")
    assert len(old) > 20
    assert _hashes(done.path, 2, "aac_adtstoasc") == old

    def pictures(path: Path) -> list[bytes]:
        rows = ffmpeg("-i", path, "-map", "0:1", "-f", "framemd5", "-").splitlines()
        return [row.split(b",")[-1] for row in rows if not row.startswith(b"#")]

    assert len(pictures(folder / first)) == 24
    assert pictures(done.path) == pictures(folder / first)


@pytest.mark.parametrize(("name", "muxer"), [("two.mp4", "matroska"), ("two.ts", "mpegts")])
def test_what_is_packed_alike_needs_no_filter(name: str, muxer: str, folder: Path) -> None:
    assert [f.filter for f in planned(folder / name, muxer).fates] == ["", "", ""]


# Timecode and parts


def test_a_timecode_is_written_anew(folder: Path, pyav: Any, ffprobe: Probe) -> None:
    path = folder / "timecode.mov"
    pyav(
        *("-f", "lavfi", "-i", "testsrc=s=64x48:r=24:d=0.5", "-c:v", "libx264"),
        *("-metadata", "timecode=01:02:03:04", path),
    )
    done = remuxed(path, folder / "timecode-2.mov", "mov")
    assert done.fate(1).target_codec == "timecode"
    assert done.notes == []
    found = ffprobe("-show_streams", done.path)["streams"]
    assert [s.get("codec_tag_string") for s in found] == ["avc1", "tmcd"]
    assert found[1]["tags"]["timecode"] == "01:02:03:04"
    tags = ffprobe("-show_streams", remuxed(path, folder / "t.mkv", "matroska").path)
    assert tags["streams"][0]["tags"]["TIMECODE"] == "01:02:03:04"


def test_a_part_drops_the_timecode_and_says_so(folder: Path, pyav: Any) -> None:
    path = folder / "part.mov"
    pyav(
        *("-f", "lavfi", "-i", "testsrc=s=64x48:r=24:d=0.1", "-c:v", "libx264"),
        *("-metadata", "timecode=01:02:03:04", path),
    )
    (line,) = described(planned(path, "mov", cut=True).fates)
    assert line.startswith("stream 1 (data) is dropped: the output is a part")
    with av.open(str(path)) as source:
        video = source.streams.video[0]
        assert "timecode" in stream_tags(video, "mov", changed=True)
        assert "timecode" not in stream_tags(video, "mov", changed=True, cut=True)


@pytest.mark.parametrize(
    ("start", "end", "chapters"),
    [
        ("0.3", "0.5", [(0.0, 0.1, "One"), (0.1, 0.2, "Two")]),
        ("0.45", None, [(0.0, 0.55, "Two")]),
        (None, "0.4", [(0.0, 0.4, "One")]),
    ],
)
def test_chapters_of_a_part_are_moved_and_clipped(
    start: str | None, end: str | None, chapters: Any, folder: Path, ffprobe: Probe
) -> None:
    target = folder / "part.mkv"
    with av.open(str(folder / "film.mkv")) as source, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
        first, last = (None if t is None else Fraction(t) for t in (start, end))
        assert copy_metadata(source, output, cut=True, start=first, end=last) == []
        packet = next(source.demux(source.streams.video[0]))
        packet.stream = stream
        output.mux(packet)
    found = ffprobe("-show_chapters", target)["chapters"]
    assert [
        (float(c["start_time"]), float(c["end_time"]), c["tags"]["title"]) for c in found
    ] == chapters


def test_a_line_that_a_cut_goes_through_is_shown_from_the_start(folder: Path) -> None:
    target = folder / "clip.mkv"
    with av.open(str(folder / "film.mkv")) as source, av.open(str(target), "w") as output:
        chosen = StreamOptions(map=(StreamSpecifier.parse("0"), StreamSpecifier.parse("s:1")))
        plan = plan_streams(source, source.streams.video[0], chosen, "matroska", cut=True)

        def add_video() -> None:
            output.add_stream_from_template(source.streams.video[0], opaque=True)

        twin = open_streams(plan, source, output, add_video)[4]
        for packet in source.demux(source.streams[4]):
            if packet.size:
                packet.pts = packet.dts = packet.pts - 200  # as a cut at 0.2 s does
                output.mux(twin.packets(packet))
    with av.open(str(target)) as made:
        found = [(p.pts, p.duration) for p in made.demux(made.streams[1]) if p.size]
    assert found == [(0, 150), (300, 250)]
