"""Learning rates as functions of the iteration alone, so that a resumed run needs no more."""

from __future__ import annotations

import math

from hatvid.research.recipe import Cosine, Stage

__all__ = ["learning_rate"]


def learning_rate(stage: Stage, iteration: int) -> float:
    """The rate of one step.

    While warming up it rises in equal steps to the stage's rate. A step schedule then
    multiplies it from the given iterations on; a cosine takes it to ``last`` in the last
    iteration (Loshchilov & Hutter 2017, without restarts).

    Args:
        stage: of the recipe.
        iteration: of the stage, from 0.
    """
    schedule, peak = stage.schedule, stage.learning_rate
    if iteration < schedule.warm_up:
        return peak * (iteration + 1) / schedule.warm_up
    if isinstance(schedule, Cosine):
        steps = max(stage.iterations - 1 - schedule.warm_up, 1)
        turn = math.cos(math.pi * (iteration - schedule.warm_up) / steps)
        return schedule.last + (peak - schedule.last) * (1 + turn) / 2
    return peak * schedule.factor ** sum(at <= iteration for at in schedule.at)
