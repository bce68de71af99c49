"""Frames in line: those that are held wait for the one that they repeat, and for nobody else."""

from __future__ import annotations

import itertools

import av
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatvid.description import MendedTile
from hatvid.jobs.held import HeldFrames, Holding
from hatvid.jobs.way import Finished, Larger
from hatvid.reuse import Reused
from hatvid.video.batch import FrameBatch
from hatvid.video.pictures import FrameTime


class Straight:
    """Adds a hundred to each sample; of 7 something is mended."""

    tiles = 2

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.reused = Reused()
        self.mended: list[int] = []

    def computed(self, batch: FrameBatch) -> Larger:
        self.batches.append(len(batch.times))
        assert len(batch.times) == len(batch.planes[0])
        mended = [
            MendedTile(number, 0, 0, 2, 2)
            for number, plane in enumerate(batch.planes[0])
            if plane[0, 0] == 7
        ]
        counted = Reused(tiles=2 * len(batch.times), hits=1)
        return Larger(tuple(plane + 100 for plane in batch.planes), mended, counted)

    def told(self, batch: FrameBatch, larger: Larger) -> FrameBatch:
        self.reused += larger.reused
        self.mended += [batch.times[tile.frame].pts for tile in larger.mended]
        return FrameBatch(planes=larger.planes, times=batch.times, carriers=batch.carriers)


def batch_of(codes: list[int], first: int) -> FrameBatch:
    planes = torch.tensor(codes, dtype=torch.uint8)[:, None, None]
    return FrameBatch(
        planes=(planes.expand(-1, 4, 4).contiguous(), planes.expand(-1, 2, 2).contiguous()),
        times=tuple(FrameTime(pts=first + n, duration=1) for n in range(len(codes))),
        carriers=tuple(av.VideoFrame(16, 16) if code % 2 else None for code in codes),
    )


def packet(pts: int) -> av.Packet:
    made = av.Packet(1)
    made.pts = pts
    return made


items = st.lists(
    st.one_of(st.none(), st.lists(st.sampled_from([3, 3, 3, 5, 7]), min_size=1, max_size=3)),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(items=items, frames=st.integers(1, 4), allowed=st.booleans())
def test_everything_comes_out_in_order_and_as_it_would_alone(
    items: list[list[int] | None], frames: int, allowed: bool
) -> None:
    straight = Straight()
    way = Holding(straight, frames=frames, allowed=lambda: allowed)
    given, finished, pts, most = [], [], 0, 0
    for codes in items:
        item = packet(pts) if codes is None else batch_of(codes, pts)
        given += [(pts + n, code) for n, code in enumerate([None] if codes is None else codes)]
        pts += 1 if codes is None else len(codes)
        finished += list(way.put(item))
        most = max(most, len(given) - len(finished))
    finished += list(way.flush())

    found = []
    for entry in finished:
        assert isinstance(entry, Finished)
        if isinstance(entry.item, av.Packet):
            found.append((entry.item.pts, None))
            continue
        ((time,), (carrier,)) = entry.item.times, entry.item.carriers
        codes = {int(code) for plane in entry.item.planes for code in plane.unique()}
        assert [tuple(plane.shape) for plane in entry.item.planes] == [(1, 4, 4), (1, 2, 2)]
        (code,) = codes
        assert (carrier is not None) == bool((code - 100) % 2)
        found.append((time.pts, code - 100))
    assert found == given

    shown = [code for _, code in given if code is not None]
    again = sum(a == b for a, b in itertools.pairwise(shown))
    held = again if allowed else 0
    assert sum(straight.batches) == len(shown) - held
    assert straight.reused.tiles == 2 * len(shown)
    assert straight.reused.hits == 2 * held + len(straight.batches)
    assert straight.mended == [pts for pts, code in given if code == 7]
    assert most <= 40
    if len(given) < 30:
        assert all(count == frames for count in straight.batches[:-1])


def test_nobody_waits_for_ever() -> None:
    straight = Straight()
    way = Holding(straight, frames=2, allowed=lambda: True)
    finished = [len(list(way.put(batch_of([3], number)))) for number in range(200)]
    assert straight.batches == [1]
    assert finished[:10] == [0] * 10
    assert finished[40:] == [1] * 160, "what is held comes out at once"


def test_it_is_asked_once_and_not_before_something_is_held() -> None:
    asked: list[bool] = []

    def allowed() -> bool:
        asked.append(True)
        return False

    held = HeldFrames(allowed)
    assert held.among(batch_of([1, 2, 3], 0).planes) == [False] * 3
    assert asked == []
    assert held.among(batch_of([3, 3, 4], 0).planes) == [False] * 3
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([[1, 2], [2, 2]], [False, False]), ([[1, 2], [1, 2], [1, 2]], [False, True, True])],
)
def test_whole_batches_are_compared_place_by_place(
    codes: list[list[int]], expected: list[bool]
) -> None:
    held = HeldFrames(lambda: True)
    assert [held.repeats(batch_of(part, 0).planes) for part in codes] == expected


def test_one_plane_that_differs_is_enough() -> None:
    held = HeldFrames(lambda: True)
    batch = batch_of([1], 0)
    assert not held.repeats(batch.planes)
    chroma = batch.planes[1].clone()
    chroma[0, 1, 1] += 1
    assert not held.repeats((batch.planes[0], chroma))
    assert not held.repeats((batch.planes[0], chroma[:, :1]))


def test_sixteen_bits_are_compared() -> None:
    held = HeldFrames(lambda: True)
    plane = torch.full((1, 4, 4), 40000, dtype=torch.uint16)
    assert [held.repeats((plane.clone(),)) for _ in range(2)] == [False, True]
