"""A part of a file: frames exactly, packets that are heard with them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from hatvid.errors import InputError
from hatvid.selectors import TimePoint
from hatvid.video.source import FrameBatch, VideoSource

UNEVEN = [1000, 1001, 1005, 1006, 1020, 1021, 1090, 1100, 1101, 1200, 1201]


def packet_pts(path: Path) -> list[int]:
    with av.open(f"file:{path}") as container:
        return sorted(p.pts for p in container.demux(video=0) if p.size and p.pts is not None)


def audio_spans(path: Path) -> list[tuple[Fraction, Fraction]]:
    """When each packet begins and ends, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        tick = Fraction(stream.time_base.numerator, stream.time_base.denominator)
        return [
            (p.pts * tick, (p.pts + p.duration) * tick) for p in container.demux(stream) if p.size
        ]


def cut(start: str | None = None, end: str | None = None) -> dict[str, TimePoint | None]:
    return {
        "start": None if start is None else TimePoint.parse(start),
        "end": None if end is None else TimePoint.parse(end),
    }


@pytest.fixture(scope="module")
def clips(
    tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cuts")
    b_frames = {"options": {"preset": "medium", "bf": "3", "g": "12"}}
    uneven = {"pts": UNEVEN, "time_base": Fraction(1, 1000), "options": {"bf": "2"}}
    return {
        "mp4": make_clip(folder / "a.mp4", **b_frames),
        "ts": make_clip(folder / "a.ts", **b_frames),
        "uneven": make_clip(folder / "a.mkv", **uneven),
    }


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
        ("0f", "24f", 0, 23),
    ],
)
@pytest.mark.parametrize("name", ["mp4", "ts"])
def test_cuts_take_exactly_the_frames_that_are_asked_for(
    clips: dict[str, Path],
    play: Callable[..., Any],
    name: str,
    start: str | None,
    end: str | None,
    first: int,
    last: int,
) -> None:
    played = play(clips[name], **cut(start, end))
    assert played.numbers == list(range(first, last + 1))
    assert played.pts == packet_pts(clips[name])[first : last + 1]


def test_seconds_count_from_the_first_frame(
    clips: dict[str, Path], play: Callable[..., Any]
) -> None:
    """Not from zero: this clip begins at 1 s, and frame 6 of it is 90 ms later."""
    assert play(clips["uneven"], **cut("0.09")).numbers == list(range(6, 11))


def test_the_limits_of_frame_numbers_are_their_very_times(clips: dict[str, Path]) -> None:
    """Not what an average rate makes of them: frame 6 of 11 is at 90 of 202 ms."""
    with VideoSource(clips["uneven"], **cut("6f", "9f")) as source:
        assert source.limits() == (Fraction(90, 1000), Fraction(200, 1000))


def test_a_cut_selects_the_sound_that_is_heard_in_it(
    play: Callable[..., Any], with_sound: Callable[..., Path], tmp_path: Path
) -> None:
    path = with_sound(tmp_path / "a.mkv")
    spans = audio_spans(path)
    played = play(path, copied=frozenset({1}), **cut("0.5", "1"))
    assert played.numbers == list(range(12, 24))
    heard = [span for span in spans if span[1] > Fraction(1, 2) and span[0] < 1]
    assert 4 < len(heard) < len(spans)
    assert played.copied == [(1, begin * 1000) for begin, _ in heard]
    # What the first begins before the cut, and the last ends after it.
    assert played.residue == {1: (Fraction(1, 2) - heard[0][0], heard[-1][1] - 1)}
    assert all(part > 0 for part in played.residue[1])


UNSTEADY = [0, 1, 2, 3, 20, 21, 22, 40, 41, 42, 43, 60, 61]


def test_sound_is_cut_where_the_frames_are_on_uneven_times(
    play: Callable[..., Any], with_sound: Callable[..., Path], tmp_path: Path
) -> None:
    """By the average rate, frame 4 of these would be at 0.84 s and frame 7 at 1.48 s."""
    path = with_sound(tmp_path / "a.mkv", pts=UNSTEADY)
    played = play(path, copied=frozenset({1}), **cut("4f", "7f"))
    assert played.numbers == [4, 5, 6]
    begin, end = Fraction(833, 1000), Fraction(1667, 1000)  # 20/24 and 40/24 s in Matroska
    heard = [span for span in audio_spans(path) if span[1] > begin and span[0] < end]
    assert played.copied == [(1, first * 1000) for first, _ in heard]


def test_the_cut_lies_at_the_frame_and_not_at_the_time_that_was_asked_for(
    play: Callable[..., Any], with_sound: Callable[..., Path], tmp_path: Path
) -> None:
    """0.3 s falls in a gap of the pictures; the output begins with the frame at 0.833 s."""
    path = with_sound(tmp_path / "a.mkv", pts=UNSTEADY)
    played = play(path, copied=frozenset({1}), **cut("0.3", "1"))
    assert played.numbers == [4, 5, 6]
    begin, end = Fraction(833, 1000), Fraction(1667, 1000)
    heard = [span for span in audio_spans(path) if span[1] > begin and span[0] < end]
    assert played.copied == [(1, first * 1000) for first, _ in heard]


def test_packets_of_streams_that_are_not_copied_stay_away(
    play: Callable[..., Any], with_sound: Callable[..., Path], tmp_path: Path
) -> None:
    played = play(with_sound(tmp_path / "a.mkv"))
    assert played.copied == []
    assert played.residue == {}


@pytest.mark.parametrize("start", ["24f", "1", "30", "1000f"])
def test_a_start_behind_the_last_frame_is_refused_when_the_file_is_opened(
    clips: dict[str, Path], start: str
) -> None:
    with pytest.raises(InputError, match=r"no frame lies between .* the last at 0\.958"):
        VideoSource(clips["mp4"], **cut(start))


def test_a_cut_between_two_frames_is_refused_when_the_file_is_opened(
    clips: dict[str, Path],
) -> None:
    with pytest.raises(InputError, match="no frame lies between"):
        VideoSource(clips["mp4"], **cut("0.26", "0.28"))


def test_behind_the_end_no_more_is_read_than_packets_may_be_late(
    tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    """Subtitles come rarely; waiting for one that lies behind the end would read on and on."""
    late = [24 * second for second in range(60, 70)]
    clip = make_clip(tmp_path / "a.mkv", codec="mpeg4", pts=[*range(40), *late])
    rare = frozenset({1})  # a stream without any packet
    with VideoSource(clip, **cut(end="1")) as source:
        items = [item for item in source.items(4, rare) if isinstance(item, FrameBatch)]
        assert sum(len(item.times) for item in items) == 24
        rest = [packet.pts for packet in source.container.demux() if packet.size]
    assert 65000 in rest, "the file was read to its end"


def test_the_part_behind_a_change_of_size_can_be_read_by_itself(
    tmp_path: Path, play: Callable[..., Any], make_clip: Callable[..., Path]
) -> None:
    """As the message about the change says."""
    small = make_clip(tmp_path / "a.ts", options={"bf": "0"})
    large = tmp_path / "b.ts"
    with av.open(str(large), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame(96, 64, "yuv420p")
            frame.pts, frame.time_base = 24 + number, Fraction(1, 24)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    played = play(both, **cut("1"))
    assert (played.info.width, played.info.height) == (96, 64)
    assert len(played.times) == 12
