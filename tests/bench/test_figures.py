"""Medians, spread, ratios by round, and the order of turns."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatvid.bench.figures import Spread, orders, ratio, shares

times = st.floats(1e-4, 1e3)
many = st.lists(times, min_size=1, max_size=15)


@given(many)
def test_spread_is_numpys(values: list[float]) -> None:
    spread = Spread.of(values)
    wanted = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    found = [spread.least, spread.lower, spread.median, spread.upper, spread.most]
    assert found == pytest.approx(list(wanted))


pairs = st.lists(st.tuples(times, times), min_size=1, max_size=15)


@given(pairs, st.floats(0.1, 10))
def test_a_slow_round_changes_no_ratio(rounds: list[tuple[float, float]], slow: float) -> None:
    theirs, ours = map(list, zip(*rounds, strict=True))
    before = ratio(theirs, ours)
    assert before == pytest.approx(float(np.median(np.divide(theirs, ours))))
    theirs[0] *= slow
    ours[0] *= slow
    assert ratio(theirs, ours) == pytest.approx(before)


@given(many, st.floats(1, 50))
def test_a_ratio_of_equals_is_their_factor(seconds: list[float], factor: float) -> None:
    assert ratio([value * factor for value in seconds], seconds) == pytest.approx(factor)


def test_ratios_are_of_the_same_rounds_not_of_medians() -> None:
    # Medians alone would say 2 / 2.
    assert ratio([1, 2, 9], [2, 3, 1]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="zip"):
        ratio([1, 2], [1])


def test_share_of_the_ceiling() -> None:
    # 4 FLOPs in 2 s against 10 in 1 s; then both in twice the time.
    assert shares(4, [2, 4], 10, [1, 2]) == pytest.approx(0.2)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 100))
def test_everybody_has_one_turn_in_each_round(count: int, rounds: int, seed: int) -> None:
    found = orders(count, rounds, seed)
    assert len(found) == rounds
    assert all(Counter(order) == Counter(range(count)) for order in found)
    assert found == orders(count, rounds, seed)


def test_nobody_always_follows_the_same() -> None:
    found = orders(8, 7)
    followed = {pair for order in found for pair in pairwise(order)}
    assert len({tuple(order) for order in found}) == 7
    # Of 49 pairs most are met once.
    assert len(followed) > 30
