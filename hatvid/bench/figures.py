"""What comes of the times that contestants took: medians, spread, ratios."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

__all__ = ["Spread", "orders", "ratio", "shares"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A measurement that was made several times."""

    least: float
    lower: float
    """A quarter are less."""
    median: float
    upper: float
    """A quarter are more."""
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        ordered = sorted(values)
        if len(ordered) == 1:
            ordered *= 2
        lower, median, upper = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(least=ordered[0], lower=lower, median=median, upper=upper, most=ordered[-1])


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as long they took: the median over rounds, each with its own.

    What slows down a whole round slows down both.

    Args:
        theirs: seconds by round.
        ours: seconds in the same rounds.
    """
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def shares(
    work: float, seconds: Sequence[float], ceiling_work: float, ceiling: Sequence[float]
) -> float:
    """What part of the ceiling's FLOP/s a contestant reaches: the median over rounds.

    Args:
        work: FLOPs of a frame.
        seconds: of a frame, by round.
        ceiling_work: FLOPs of a product.
        ceiling: seconds of a product, in the same rounds.
    """
    return work / ceiling_work * ratio(ceiling, seconds)


def orders(count: int, rounds: int, seed: int = 0) -> list[list[int]]:
    """In which order contestants take their turns: another in each round, the same each time.

    Heat and what the caches hold pass from one to the next, so that nobody should always
    follow the same.
    """
    source = random.Random(seed)
    return [source.sample(range(count), count) for _ in range(rounds)]
