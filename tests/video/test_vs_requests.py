"""Frames of a clip in order, with some on their way."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Self

import pytest

from hatvid.video.vs_requests import rendered


class Frame:
    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.closed = True


class Clip:
    """Its frames are there when they are waited for, the later ones first."""

    def __init__(self, length: int, *, broken: int | None = None) -> None:
        self.length, self.broken = length, broken
        self.asked: list[Future[Frame]] = []

    def __len__(self) -> int:
        return self.length

    def get_frame_async(self, number: int) -> Future[Frame]:
        assert number == len(self.asked)
        future: Future[Frame] = Future()
        self.asked.append(future)
        wait = future.result

        def result(timeout: float | None = None) -> Frame:
            for later in range(len(self.asked) - 1, -1, -1):
                if self.asked[later].done():
                    continue
                if later == self.broken:
                    self.asked[later].set_exception(ValueError(f"frame {later}"))
                else:
                    self.asked[later].set_result(Frame(later))
            return wait(timeout)

        future.result = result  # type: ignore[method-assign]
        return future


@pytest.mark.parametrize("ahead", [1, 3, 99])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_all_in_order_and_so_many_ahead(length: int, ahead: int) -> None:
    clip = Clip(length)
    before: Frame | None = None
    for number, frame in enumerate(rendered(clip, ahead=ahead)):
        assert frame.number == number
        assert not frame.closed
        assert before is None or before.closed
        assert len(clip.asked) == min(length, number + 1 + ahead)
        before = frame
    assert len(clip.asked) == length
    assert before is None or before.closed


def test_a_frame_that_cannot_be_rendered_is_told_in_its_turn() -> None:
    seen = []
    with pytest.raises(ValueError, match="frame 3"):
        seen.extend(frame.number for frame in rendered(Clip(9, broken=3), ahead=4))
    assert seen == [0, 1, 2]


def test_the_frame_in_hand_is_closed_with_the_generator() -> None:
    frames = rendered(Clip(3), ahead=2)
    first = next(frames)
    frames.close()
    assert first.closed
