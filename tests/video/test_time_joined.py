"""Recordings whose clock jumps: one offset for all streams, so that time goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from pyav_cli import pyav

from hatvid.video.scan import scan
from hatvid.video.source import FrameBatch, VideoSource
from hatvid.video.timeline import Timeline

FRAME = 3750  # 1/24 s in MPEG-TS
SOUND = frozenset({1})


@pytest.fixture(scope="module")
def captures(
    tmp_path_factory: pytest.TempPathFactory, with_sound: Callable[..., Path]
) -> Callable[[float], bytes]:
    """A transport stream of 36 frames and sound that begins at a time in seconds."""
    folder = tmp_path_factory.mktemp("captures")
    source = with_sound(folder / "a.nut", codec="libx264", audio="mp2")

    def make(start: float) -> bytes:
        path = folder / f"{start}.ts"
        options = ("-c", "copy", "-output_ts_offset", str(start), "-muxdelay", "0")
        pyav("-i", source, "-map", "0", *options, path)
        return path.read_bytes()

    return make


@dataclass
class Given:
    pts: list[int]
    moved: int
    sound: list[tuple[int, int]]
    notes: list[str]


def give(path: Path) -> Given:
    given = Given([], 0, [], [])
    with VideoSource(path) as source:
        for item in source.items(4, SOUND):
            if isinstance(item, FrameBatch):
                given.pts += [time.pts for time in item.times]
                given.moved += sum(time.moved for time in item.times)
            else:
                assert item.pts is not None
                given.sound.append((item.pts, item.duration or 0))
        given.notes = source.notes
    return given


def steps(pts: Iterable[int]) -> set[int]:
    return {after - before for before, after in pairwise(pts)}


@pytest.mark.parametrize(
    ("starts", "jumps"),
    [((0, 0), 1), ((0, 0, 0), 2), ((200, 0), 1), ((200, 10, 0), 2), ((5, 4), 1)],
    ids=["again", "twice again", "over a minute back", "two jumps", "by less than its length"],
)
def test_joined_captures_go_on_by_one_frame(
    captures: Callable[[float], bytes],
    tmp_path: Path,
    play: Callable[..., Any],
    starts: tuple[float, ...],
    jumps: int,
) -> None:
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(captures(start) for start in starts))
    given = give(path)
    assert len(given.pts) == 36 * len(starts)
    assert steps(given.pts) == {FRAME}
    assert given.moved == 0
    assert len(given.notes) == jumps
    assert all("jumps back" in note for note in given.notes)
    assert list(scan(path).pts) == given.pts
    # Each capture's sound keeps its place beside the pictures.
    alone = give(_file(tmp_path, captures(starts[0])))
    lead = {at - alone.pts[0] for at, _ in alone.sound}
    for number in range(len(starts)):
        first = given.pts[36 * number]
        part = given.sound[len(alone.sound) * number : len(alone.sound) * (number + 1)]
        assert len(part) == len(alone.sound)
        assert max(abs(a - first - b) for (a, _), b in zip(part, sorted(lead), strict=True)) <= 1


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "alone.ts"
    path.write_bytes(data)
    return path


def test_a_jump_forward_is_a_gap_and_stays(
    captures: Callable[[float], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.ts"
    path.write_bytes(captures(0) + captures(100))
    given = give(path)
    alone = [give(_file(tmp_path, captures(start))).pts for start in (0, 100)]
    assert given.pts == alone[0] + alone[1]
    assert max(steps(given.pts)) > 98 * 90000
    assert given.notes == []
    assert given.moved == 0


def test_a_counter_that_overflows_goes_on(
    captures: Callable[[float], bytes], tmp_path: Path, ffprobe: Callable[..., dict[str, Any]]
) -> None:
    """33 bits at 90 kHz: after 95443.7 s the time is 0 again."""
    path = tmp_path / "a.ts"
    path.write_bytes(captures((1 << 33) / 90000 - 0.7))
    with av.open(str(path), container_options={"correct_ts_overflow": "0"}) as container:
        raw = [p.pts for p in container.demux(video=0) if p.pts is not None]
    assert max(raw) - min(raw) > 1 << 32, "there is no overflow in the file"
    given = give(path)
    assert steps(given.pts) == {FRAME}
    said = ffprobe("-show_frames", "-select_streams", "v:0", path)
    assert given.pts == [frame["pts"] for frame in said["frames"]]
    assert given.moved == 0
    assert given.notes == []


# By packets alone.


@dataclass
class Packet:
    dts: int | None
    stream_index: int = 0
    pts: int | None = None
    duration: int = FRAME
    time_base: Fraction = Fraction(1, 90000)
    was: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.pts = self.dts if self.pts is None else self.pts
        self.was = self.dts


@dataclass
class Format:
    name: str = "mpegts"


@dataclass
class Container:
    format: Format = field(default_factory=Format)


@dataclass
class Video:
    index: int = 0
    average_rate: Fraction = Fraction(24)
    guessed_rate: Fraction = Fraction(24)


def through(packets: list[Packet]) -> tuple[list[Packet], list[str]]:
    notes: list[str] = []
    container: Any = Container()
    video: Any = Video()
    line = Timeline(container, video, notes)
    given: list[Any] = []
    for packet in packets:
        fed: Any = packet
        given += line.feed(fed)
    given += line.finish()
    return given, notes


def video(*dts: int) -> list[Packet]:
    return [Packet(at) for at in dts]


def frames(first: int, count: int) -> list[int]:
    return [first + FRAME * n for n in range(count)]


def test_steady_packets_pass_at_once_and_as_they_are() -> None:
    container: Any = Container()
    stream: Any = Video()
    line = Timeline(container, stream, [])
    for packet in video(*frames(9000, 20)):
        fed: Any = packet
        assert list(line.feed(fed)) == [packet]
        assert packet.dts == packet.was


@pytest.mark.parametrize("wrong", [0, 900_000_000])
def test_one_wrong_time_is_no_jump(wrong: int) -> None:
    """It loses its time; all others keep theirs."""
    stamps = frames(4_500_000, 20)
    packets = video(*stamps[:8], wrong, *stamps[9:])
    given, notes = through(packets)
    assert [packet.dts for packet in given] == [*stamps[:8], None, *stamps[9:]]
    assert given[8].pts is None
    assert notes == []


def test_a_second_overflow_is_no_join() -> None:
    """FFmpeg corrects the first alone. The gap of five frames around it stays."""
    wrap = 1 << 33
    before = frames(2 * wrap - 10 * FRAME, 8)
    after = frames(3 * FRAME + wrap, 10)
    given, notes = through(video(*before, *after))
    expected = [*before, *(at + wrap for at in after)]
    assert [packet.dts for packet in given] == expected
    assert len(notes) == 1
    assert "counter is full" in notes[0]


def test_sound_that_jumps_before_the_pictures_do_waits_for_them() -> None:
    """Both streams then move by the same offset."""
    old, new = frames(900_000, 10), frames(90_000, 10)
    packets = [
        *video(*old[:8]),
        Packet(old[8], 1),
        Packet(new[0], 1),  # the sound of the second capture, before its pictures
        Packet(new[1], 1),
        *video(*old[8:]),
        *video(*new),
        Packet(new[2], 1),
    ]
    given, notes = through(packets)
    offset = old[-1] + FRAME - new[0]
    moved = {(p.stream_index, p.was): p.dts for p in given}
    assert [moved[0, at] for at in old] == old
    assert [moved[0, at] for at in new] == [at + offset for at in new]
    assert moved[1, old[8]] == old[8]
    assert [moved[1, at] for at in new[:3]] == [at + offset for at in new[:3]]
    assert len(notes) == 1


def test_sound_that_lags_behind_the_jump_keeps_its_own_time() -> None:
    old, new = frames(900_000, 10), frames(90_000, 10)
    packets = [
        *video(*old),
        Packet(old[7], 1),
        *video(*new[:4]),
        Packet(old[8], 1),  # still of the first capture
        Packet(new[0], 1),
        *video(*new[4:]),
    ]
    given, _ = through(packets)
    offset = old[-1] + FRAME - new[0]
    sound = [p.dts for p in given if p.stream_index == 1]
    assert sound == [old[7], old[8], new[0] + offset]


def test_rare_packets_follow_the_pictures_over_a_jump() -> None:
    """A subtitle of the second capture that lies later than the last one of the first."""
    old, new = frames(9_000_000, 10), frames(90_000, 200)
    packets = [Packet(8_900_000, 2), *video(*old), *video(*new[:150])]
    packets += [Packet(new[149], 2), *video(*new[150:])]
    given, _ = through(packets)
    offset = old[-1] + FRAME - new[0]
    assert [p.dts for p in given if p.stream_index == 2] == [8_900_000, new[149] + offset]
