"""Damaged files: the count of frames holds, and what happened is said.

Each frame of a clip shows its own number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest

from hatvid.errors import DecodeError


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
    play: Callable[..., Any],
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
    play: Callable[..., Any],
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
    play: Callable[..., Any],
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
    make_clip: Callable[..., Path], play: Callable[..., Any], tmp_path: Path
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
    play: Callable[..., Any],
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
    make_clip: Callable[..., Path], play: Callable[..., Any], tmp_path: Path, part: float
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
    make_clip: Callable[..., Path], play: Callable[..., Any], tmp_path: Path
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
