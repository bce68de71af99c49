"""Every frame of a file arrives once, in order, at its pts, and shows the right picture.

The references are the packets of the file, read by PyAV's demuxer alone, and Debian's
ffprobe, a build of FFmpeg of its own; and each frame of a clip shows its own number.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from hatvid.errors import DecodeError
from hatvid.selectors import TimePoint
from hatvid.video.pictures import FrameTime
from hatvid.video.source import FrameBatch, SourceInfo, VideoSource

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


@dataclass(frozen=True)
class Played:
    """All that a source gave."""

    info: SourceInfo
    numbers: list[int]
    times: list[FrameTime]
    copied: list[tuple[int, int | None]]
    ended_early: str | None

    @property
    def pts(self) -> list[int]:
        return [time.pts for time in self.times]

    @property
    def repeated(self) -> list[int]:
        return [time.pts for time in self.times if time.repeated]


@pytest.fixture
def play(numbers: Callable[[FrameBatch], list[int]]) -> Callable[..., Played]:
    def run(
        path: Path, *, batch: int = 4, copied: frozenset[int] = frozenset(), **cut: Any
    ) -> Played:
        shown, times, packets = [], [], []
        with VideoSource(path, **cut) as source:
            for item in source.items(batch, copied):
                if isinstance(item, FrameBatch):
                    assert 1 <= len(item.times) <= batch
                    shown += numbers(item)
                    times += item.times
                else:
                    packets.append((item.stream_index, item.pts))
            return Played(source.info, shown, times, packets, source.ended_early)

    return run


@dataclass(frozen=True)
class Packet:
    pts: int
    is_keyframe: bool
    data: bytes


def packets_of(path: Path) -> list[Packet]:
    with av.open(f"file:{path}") as container:
        found = []
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                assert packet.pts is not None
                found.append(Packet(packet.pts, packet.is_keyframe, bytes(packet)))
        return found


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
    name: str, clips: Callable[[str], Path], play: Callable[..., Played]
) -> None:
    path = clips(name)
    count = len(CLIPS[name][1].get("pts", range(24)))
    played = play(path)
    assert played.numbers == list(range(count))
    assert played.pts == sorted(packet.pts for packet in packets_of(path))
    assert played.info.start == played.pts[0]
    assert not any(t.repeated or t.damaged or t.moved for t in played.times)
    assert played.ended_early is None


# AVI holds no pts, and ffprobe works out none for B-frames.
@pytest.mark.parametrize("name", [name for name in CLIPS if "avi" not in name])
def test_times_are_those_of_ffprobe(
    name: str,
    clips: Callable[[str], Path],
    play: Callable[..., Played],
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
    make_clip: Callable[..., Path], play: Callable[..., Played], tmp_path: Path
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


# Cuts.


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        ("0.25", None, 6, 23),  # 24 frames a second: frame 6 is at 0.25 s exactly
        ("0.2501", None, 7, 23),
        (None, "0.25", 0, 5),  # the frame at the end is left out
        (None, "0.2501", 0, 6),
        ("00:00:00.125", "00:00.5", 3, 11),
        ("5f", "9f", 5, 8),
        ("5f", "0.5", 5, 11),
        ("23f", None, 23, 23),
        (None, "1f", 0, 0),
        ("0", "100", 0, 23),
    ],
)
@pytest.mark.parametrize("name", ["x264 B-frames mp4", "x264 B-frames ts"])
def test_cuts_take_exactly_the_frames_that_are_asked_for(
    clips: Callable[[str], Path],
    play: Callable[..., Played],
    name: str,
    start: str | None,
    end: str | None,
    first: int,
    last: int,
) -> None:
    cut = {
        "start": None if start is None else TimePoint.parse(start),
        "end": None if end is None else TimePoint.parse(end),
    }
    played = play(clips(name), **cut)
    assert played.numbers == list(range(first, last + 1))
    stamps = sorted(packet.pts for packet in packets_of(clips(name)))
    assert played.pts == stamps[first : last + 1]


def test_seconds_count_from_the_first_frame(
    clips: Callable[[str], Path], play: Callable[..., Played]
) -> None:
    """Not from zero: this clip begins at 1 s, and frame 6 of it is 90 ms later."""
    path = clips("uneven times and a late start mkv")
    assert play(path, start=TimePoint.parse("0.09")).numbers == list(range(6, 11))


def test_a_cut_selects_the_sound_that_is_heard_in_it(
    play: Callable[..., Played], tmp_path: Path
) -> None:
    path = _with_sound(tmp_path / "a.mkv")
    with av.open(str(path)) as container:
        audio = container.streams.audio[0]
        spans = [(p.pts, p.pts + p.duration) for p in container.demux(audio) if p.size]
        index = audio.index
    played = play(
        path,
        copied=frozenset({index}),
        start=TimePoint.parse("0.5"),
        end=TimePoint.parse("1"),
    )
    assert played.numbers == list(range(12, 24))
    heard = [begin for begin, finish in spans if finish > 500 and begin < 1000]
    assert 4 < len(heard) < len(spans)
    assert played.copied == [(index, begin) for begin in heard]


def test_packets_of_streams_that_are_not_copied_stay_away(
    play: Callable[..., Played], tmp_path: Path
) -> None:
    assert play(_with_sound(tmp_path / "a.mkv")).copied == []


def _with_sound(path: Path) -> Path:
    """36 frames of 24 fps and as much sound, times in ms."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("ffv1", rate=24)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = output.add_stream("flac", rate=48000, layout="mono")
        audio.codec_context.open(strict=False)
        size = audio.codec_context.frame_size
        for number in range(36):
            frame = _numbered_frame(number)
            frame.pts, frame.time_base = number, Fraction(1, 24)
            output.mux(video.encode(frame))
        for start in range(0, 72000, size):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, size), np.int16), "s16", "mono")
            sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
            output.mux(audio.encode(sound))
        output.mux(video.encode(None))
        output.mux(audio.encode(None))
    return path


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


# Damage.


def damaged(path: Path, target: Path, index: int, change: Callable[[bytes], bytes]) -> Packet:
    """A copy of a clip in which one packet (counted in order of decoding) is overwritten."""
    packet = packets_of(path)[index]
    data = path.read_bytes()
    assert data.count(packet.data) == 1
    broken = change(packet.data)
    assert len(broken) == len(packet.data)
    target.write_bytes(data.replace(packet.data, broken))
    return packet


def no_such_nal(data: bytes) -> bytes:
    """The length of the first NAL unit reaches far beyond the packet."""
    return b"\xff\xff\xff\xff" + data[4:]


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


INTRA = {"options": {"g": "1", "bf": "0"}}
SHORT_GOP = {"options": {"g": "6", "bf": "2", "preset": "medium", "x264-params": "scenecut=0"}}


@pytest.mark.parametrize("change", [no_such_nal, zeros])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_broken_packet_shows_the_frame_before_and_no_other_suffers(
    make_clip: Callable[..., Path],
    play: Callable[..., Played],
    tmp_path: Path,
    suffix: str,
    change: Callable[[bytes], bytes],
) -> None:
    whole = make_clip(tmp_path / f"a.{suffix}", **INTRA)
    broken = tmp_path / f"b.{suffix}"
    lost = damaged(whole, broken, 9, change)
    played = play(broken)
    assert played.numbers == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, *range(10, 24)]
    assert played.pts == [packet.pts for packet in packets_of(whole)]
    assert played.repeated == [lost.pts]


@pytest.mark.parametrize("batch", [1, 5, 32])
@pytest.mark.parametrize("index", [0, 1, 23], ids=["first", "second", "last"])
def test_a_broken_packet_at_either_end(
    make_clip: Callable[..., Path],
    play: Callable[..., Played],
    tmp_path: Path,
    index: int,
    batch: int,
) -> None:
    whole = make_clip(tmp_path / "a.mp4", **INTRA)
    lost = damaged(whole, tmp_path / "b.mp4", index, no_such_nal)
    played = play(tmp_path / "b.mp4", batch=batch)
    expected = list(range(24))
    expected[index] = index - 1 if index else 1  # there is nothing before the first
    assert played.numbers == expected
    assert played.pts == [packet.pts for packet in packets_of(whole)]
    assert played.repeated == [lost.pts]


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264", "mp4"),
        ("libx264", "mkv"),
        ("libx265", "mp4"),
        ("libx265", "mkv"),
        ("libvpx-vp9", "webm"),
        ("ffv1", "mkv"),
    ],
)
@pytest.mark.parametrize("index", range(0, 24, 5))
def test_the_count_holds_whichever_packet_is_broken(
    make_clip: Callable[..., Path],
    play: Callable[..., Played],
    tmp_path: Path,
    codec: str,
    suffix: str,
    index: int,
) -> None:
    """Key frames too, with B-frames waiting in the decoder."""
    options = {
        "libx264": SHORT_GOP["options"],
        "libx265": {"x265-params": "log-level=none:keyint=6:bframes=2:scenecut=0"},
        "libvpx-vp9": {"g": "6", "lag-in-frames": "0", "cpu-used": "8", "deadline": "realtime"},
        "ffv1": {"g": "6"},
    }[codec]
    whole = make_clip(tmp_path / f"a.{suffix}", codec=codec, options=options)
    broken = tmp_path / f"b.{suffix}"
    lost = damaged(whole, broken, index, no_such_nal)
    played = play(broken)
    assert played.pts == sorted(packet.pts for packet in packets_of(whole))
    assert lost.pts in played.repeated
    # All is well again from the second key frame after it on.
    stamps = sorted(packet.pts for packet in packets_of(whole))
    keys = sorted(p.pts for p in packets_of(whole) if p.is_keyframe and p.pts > lost.pts)
    healed = stamps.index(keys[0]) if keys else len(stamps)
    assert played.numbers[healed:] == list(range(healed, 24))
    early = stamps.index(
        max(p.pts for p in packets_of(whole) if p.is_keyframe and p.pts <= lost.pts)
    )
    assert played.numbers[: max(early - 2, 0)] == list(range(max(early - 2, 0)))


def test_strict_stops_and_names_the_time(
    make_clip: Callable[..., Path], play: Callable[..., Played], tmp_path: Path
) -> None:
    whole = make_clip(tmp_path / "a.mp4", **INTRA)
    damaged(whole, tmp_path / "b.mp4", 12, no_such_nal)
    with pytest.raises(DecodeError) as caught:
        play(tmp_path / "b.mp4", strict=True)
    assert "at 0.500 s" in str(caught.value)
    assert "--strict" in str(caught.value)
    assert play(whole, strict=True).numbers == list(range(24))


@pytest.mark.parametrize("part", [0.6, 0.7, 0.8, 0.97])
@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
def test_of_a_file_cut_short_all_that_can_be_decoded_comes(
    make_clip: Callable[..., Path],
    play: Callable[..., Played],
    tmp_path: Path,
    name: str,
    part: float,
) -> None:
    whole = make_clip(tmp_path / name, **SHORT_GOP).read_bytes()
    short = tmp_path / f"short{name}"
    short.write_bytes(whole[: int(len(whole) * part)])
    with av.open(str(short)) as container:
        expected = [frame.pts for frame in container.decode(video=0)]
    assert 0 < len(expected) < 24 or part > 0.9
    played = play(short)
    assert [t.pts for t in played.times if not t.repeated] == expected


@pytest.mark.parametrize("part", [0.5, 0.7, 0.9])
def test_a_file_cut_short_that_knows_its_length_says_so(
    make_clip: Callable[..., Path], play: Callable[..., Played], tmp_path: Path, part: float
) -> None:
    clip = make_clip(tmp_path / "a.mp4", container={"movflags": "faststart"}, **INTRA)
    whole = clip.read_bytes()
    kept = int(len(whole) * part)
    clip_packets = packets_of(clip)
    there = sum(whole.index(p.data) + len(p.data) <= kept for p in clip_packets)
    assert 0 < there < 24
    clip.write_bytes(whole[:kept])
    played = play(clip)
    assert played.numbers[:there] == list(range(there))
    assert played.ended_early is not None
    with pytest.raises(DecodeError):
        play(clip, strict=True)


def test_a_broadcast_that_begins_between_key_frames_begins_with_the_first_that_can_be_seen(
    make_clip: Callable[..., Path], play: Callable[..., Played], tmp_path: Path
) -> None:
    whole = make_clip(
        tmp_path / "a.ts",
        codec="mpeg2video",
        options={"g": "6", "bf": "0", "sc_threshold": "1000000000"},
    )
    data = whole.read_bytes()
    with av.open(str(whole)) as container:
        places = [p.pos for p in container.demux(video=0) if p.size]
    assert places[2] is not None
    # Without the first two frames; the tables at the beginning stay.
    (tmp_path / "b.ts").write_bytes(data[: 3 * 188] + data[places[2] :])
    played = play(tmp_path / "b.ts")
    assert played.numbers[-18:] == list(range(6, 24))
    assert played.repeated == []


def test_a_changing_picture_size_is_refused_with_its_time(
    play: Callable[..., Played], tmp_path: Path
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
