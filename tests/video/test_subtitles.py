"""Lines of text in turn, and converted packets."""

from __future__ import annotations

import io
import itertools
import math
from fractions import Fraction
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatvid.video.subtitles import ConvertedSubtitles, OneAtATime

TIME = st.integers(0, 30)


def spans_of(lines: list[tuple[int, float, bytes]]) -> list[tuple[int, int, bytes]]:
    one = OneAtATime()
    return [span for line in lines for span in one.add(*line)] + one.finish()


@given(st.lists(st.tuples(TIME, st.integers(1, 12)), max_size=12))
def test_each_moment_shows_exactly_the_lines_of_that_moment(shape: list[tuple[int, int]]) -> None:
    lines = [
        (start, start + length, b"%d" % number)
        for number, (start, length) in enumerate(sorted(shape))
    ]
    spans = spans_of(lines)
    for moment in range(45):
        expected = [text for start, end, text in lines if start <= moment < end]
        shown = [text for start, end, text in spans if start <= moment < end]
        assert shown == ([rb"\N".join(expected)] if expected else [])
    # One after another, as the samples of a track.
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert all(start < end for start, end, _ in spans)


def test_a_line_of_unknown_end_lasts_until_the_next() -> None:
    assert spans_of([(0, math.inf, b"a"), (5, 7, b"b")]) == [(0, 5, b"a"), (5, 7, b"b")]


def test_a_last_line_of_unknown_end_is_kept_with_its_start() -> None:
    assert spans_of([(0, 2, b"a"), (5, math.inf, b"b")]) == [(0, 2, b"a"), (5, 5, b"b")]


@given(st.lists(st.tuples(TIME, st.integers(1, 12) | st.just(math.inf)), max_size=12))
def test_lines_out_of_order_never_go_back(shape: list[tuple[int, float]]) -> None:
    spans = spans_of([(start, start + length, b"x") for start, length in shape])
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def _source(lines: list[bytes], codec: str = "ass") -> tuple[Any, list[Any]]:
    """An open file of subtitles, one packet a line, a second each."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream: Any = output.add_mux_stream(codec)
        stream.time_base = Fraction(1, 1000)
        for number, line in enumerate(lines):
            packet: Any = av.Packet(line)
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = number * 1000
            packet.duration = 1000
            output.mux(packet)
    file.seek(0)
    source = av.open(file)
    return source, [packet for packet in source.demux() if packet.size]


def _converted(lines: list[bytes], target: str, codec: str = "ass") -> Any:
    source, packets = _source(lines, codec)
    with av.open(io.BytesIO(), "w", format="mp4" if target == "mov_text" else "matroska") as output:
        twin = ConvertedSubtitles(source.streams[0], output, target)
        made = [new for packet in packets for new in twin.packets(packet)] + twin.finish()
        return [(p.pts, p.duration, bytes(p)) for p in made], twin.lost


def test_a_style_of_its_name_goes_with_its_line() -> None:
    made, lost = _converted([rb"0,0,Default,,0,0,0,,{\i1}a, b{\i0} c"], "subrip")
    assert (made, lost) == ([(0, 1000, b"<i>a, b</i> c")], 0)


def test_a_line_without_text_is_none() -> None:
    made, lost = _converted([b"0,0,Default,,0,0,0,,", b"1,0,Default,,0,0,0,,x"], "subrip")
    assert (made, lost) == ([(1000, 1000, b"x")], 0)


def test_text_of_megabytes_is_counted_as_lost_and_the_rest_goes_on() -> None:
    long = b"0,0,Default,,0,0,0,," + b"x" * 2_000_000
    made, lost = _converted([long, b"1,0,Default,,0,0,0,,y"], "subrip")
    assert (made, lost) == ([(1000, 1000, b"y")], 1)


@pytest.mark.parametrize("line", [b"\xff\xfe\x00", b"{\\", b"0,0", b"," * 9 + b"{\\r{\\r}"])
def test_broken_lines_raise_nothing(line: bytes) -> None:
    for target in ("subrip", "mov_text", "webvtt"):
        made, lost = _converted([line, b"1,0,Default,,0,0,0,,y"], target)
        assert made[-1][0] == 1000
        assert lost + len(made) in (1, 2)


def test_long_lines_at_once_are_lost_only_where_they_do_not_fit_together() -> None:
    """Two lines of 40 kB each: one at a time, together, one at a time."""
    spans = [(0, 900, b"a" * 40_000), (500, 600, b"b" * 40_000)]
    with av.open(io.BytesIO(), "w", format="mp4") as output:
        source, _ = _source([b""])
        twin = ConvertedSubtitles(source.streams[0], output, "mov_text")
        made = []
        for start, end, text in spans:
            packet: Any = av.Packet(b"0,0,Default,,0,0,0,," + text)
            packet.pts, packet.duration, packet.time_base = start, end - start, Fraction(1, 1000)
            made += twin.packets(packet)
        made += twin.finish()
    assert [(p.pts, p.duration) for p in made] == [(0, 500), (600, 300)]
    assert twin.lost == 1
