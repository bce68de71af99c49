"""Where measures end and a wrong picture begins."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from hatvid.jobs.checks import Check
from hatvid.jobs.verify_pictures import check_pictures
from hatvid.video.compare import Likeness

TICK = Fraction(1, 25)


def like(number: int, error: float, *, busy: float = 4.0, **more: float) -> Likeness:
    psnr = 10 * math.log10(255**2 / error) if error else math.inf
    return Likeness(pts=number, number=number, psnr=psnr, error=error, busy=busy, **more)


def judged(odd: Likeness, usual: float = 2.0) -> Check:
    """One frame among twenty that are right."""
    frames = [like(number, usual) for number in range(20)]
    frames[odd.pts] = odd
    return check_pictures(frames, TICK)


@pytest.mark.parametrize("usual", [0.0, 0.5, 2.0])
def test_a_frame_far_below_its_neighbours_is_wrong(usual: float) -> None:
    found = judged(like(7, 60.0), usual)
    assert not found.ok
    assert "1 of 20 frames are wrong: 0.280 s is 30.3 dB, its neighbours" in found.text


def test_a_busy_frame_may_lose_its_detail() -> None:
    """Snow, a flash, confetti: what is lost is less than there was."""
    assert judged(like(7, 60.0, busy=50.0)).ok
    assert not judged(like(7, 60.0, busy=30.0)).ok


def test_every_frame_below_the_floor_is_wrong() -> None:
    found = check_pictures([like(number, 300.0) for number in range(5)], TICK)
    assert "5 of 5 frames are wrong" in found.text


def test_a_neighbour_must_be_clearly_nearer() -> None:
    assert judged(like(7, 3.0, nearest=1, nearest_error=2.0)).ok  # not by half
    assert judged(like(7, 0.06, nearest=1, nearest_error=0.0)).ok  # nobody can see that
    found = judged(like(7, 4.5, nearest=-2, nearest_error=1.0))
    assert "0.280 s shows the frame 2 before" in found.text


def test_an_encoder_may_leave_out_what_hardly_moves_but_not_as_a_rule() -> None:
    near = [like(number, 1.0, nearest=-1, nearest_error=0.3) for number in range(5)]
    still = [like(number, 1.0) for number in range(5, 20)]
    assert check_pictures([*near, *still], TICK).ok
    assert not check_pictures([*near, *still[:-1]], TICK).ok


def test_the_worst_frames_are_listed() -> None:
    found = judged(like(3, 4.5))
    assert found.ok
    assert found.text.startswith("20 frames, median 45.1 dB, worst 0.120 s 41.6 dB, ")
    assert found.details["worst"][0] == {"pts": 3, "seconds": 0.12, "psnr": 41.6}
    equal = check_pictures([like(number, 0.0) for number in range(3)], TICK)
    assert equal.details["median_psnr"] is None
    assert not check_pictures([], TICK).ok
