"""Where segments begin and end: every frame is owned once, near one length."""

from __future__ import annotations

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from hatvid.jobs.segment import Segment, plan_segments, spans, start_key

STEPS = st.lists(st.integers(1, 40), min_size=1, max_size=300)


@st.composite
def videos(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """pts of frames, those of key frames, and a length."""
    pts = list(accumulate(draw(STEPS), initial=draw(st.integers(-500, 500))))
    keys = sorted(draw(st.sets(st.sampled_from(pts))))
    return pts, keys, draw(st.integers(1, 500))


@given(videos())
def test_every_frame_is_owned_once(video: tuple[list[int], list[int], int]) -> None:
    pts, keys, length = video
    segments = plan_segments(pts, keys, length)
    owners = [[s.number for s in segments if s.owns(at)] for at in pts]
    assert all(len(owner) == 1 for owner in owners)
    assert [owner[0] for owner in owners] == sorted(owner[0] for owner in owners)
    assert [segment.number for segment in segments] == list(range(len(segments)))
    assert [s.frames for s in segments] == [sum(map(s.owns, pts)) for s in segments]
    assert all(segment.frames for segment in segments)
    assert segments[0].first == pts[0]
    assert segments[-1].end is None


@given(videos())
def test_segments_are_near_the_length_and_begin_at_key_frames(
    video: tuple[list[int], list[int], int],
) -> None:
    pts, keys, length = video
    segments = plan_segments(pts, keys, length)
    longest = max((b - a for a, b in pairwise(pts)), default=0)
    for before, segment in pairwise(segments):
        wanted = before.first + length
        near = [key for key in keys if abs(key - wanted) <= length // 2]
        if near:
            assert segment.first in near
            assert abs(segment.first - wanted) == min(abs(key - wanted) for key in near)
        else:
            assert segment.first == min(at for at in pts if at >= wanted)
        assert segment.first - before.first < length + length // 2 + longest + 1
    if len(segments) > 1:
        assert pts[-1] - segments[-1].first >= length // 2


@given(videos(), st.data())
def test_decoding_begins_a_whole_gop_before(
    video: tuple[list[int], list[int], int], data: st.DataObject
) -> None:
    pts, keys, _ = video
    first = data.draw(st.sampled_from(pts))
    key = start_key(pts, keys, first)
    before = [k for k in keys if k <= first]
    enough = [k for k in before[:-1] if sum(k <= at < first for at in pts) >= 4]
    assert key == max(enough, default=None)


def test_a_film_in_ten_second_parts() -> None:
    pts, keys = range(0, 2500, 1), range(0, 2500, 48)
    segments = plan_segments(pts, keys, 250)
    assert [s.first for s in segments] == [0, 240, 480, 720, 960, 1200, 1440, 1680, 1920, 2160]
    assert segments[-1].frames == 340
    assert plan_segments(range(300), [0, 100], 250) == (
        Segment(number=0, first=0, end=None, frames=300),
    )


def test_the_last_may_end_before_the_video_does() -> None:
    assert plan_segments(range(10), [], 4, end=10)[-1].end == 10


@given(st.sets(st.integers(0, 30)))
def test_spans_are_read_in_one_go(numbers: set[int]) -> None:
    chosen = [Segment(number=n, first=n, end=n + 1, frames=1) for n in sorted(numbers)]
    found = spans(chosen)
    assert [segment for span in found for segment in span] == chosen
    assert all(b.number == a.number + 1 for span in found for a, b in pairwise(span))
    assert all(b[0].number > a[-1].number + 1 for a, b in pairwise(found))
