"""Learning rates against PyTorch's own schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from hatvid.research.recipe import Data, Pictures, Stage
from hatvid.research.schedule import learning_rate

PEAK, STEPS = 2e-4, 60


def stage(**schedule: Any) -> Stage:
    return Stage.model_validate(
        {
            "iterations": STEPS,
            "batch": 1,
            "patch": 16,
            "learning_rate": PEAK,
            "schedule": schedule,
            "data": Data(sources=(Pictures(pictures="x"),)),
        }
    )


def theirs(make: Any, warm_up: int) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    parts: list[LRScheduler] = [make(optimiser)]
    if warm_up:
        parts.insert(0, LinearLR(optimiser, start_factor=1 / warm_up, total_iters=warm_up - 1 or 1))
    scheduler = SequentialLR(optimiser, parts, [warm_up]) if warm_up else parts[0]
    rates = []
    for _ in range(STEPS):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("warm_up", [0, 7])
def test_steps_are_those_of_pytorch(warm_up: int) -> None:
    found = stage(kind="step", at=[20, 30, 45], factor=0.5, warm_up=warm_up)
    own = [learning_rate(found, k) for k in range(STEPS)]
    # PyTorch counts from where the warming up ends.
    milestones = [at - warm_up for at in (20, 30, 45)]
    wanted = theirs(lambda o: MultiStepLR(o, milestones, gamma=0.5), warm_up)
    assert own == pytest.approx(wanted, rel=1e-12)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("warm_up", [0, 7])
def test_a_cosine_is_that_of_pytorch(warm_up: int) -> None:
    found = stage(kind="cosine", last=1e-6, warm_up=warm_up)
    own = [learning_rate(found, k) for k in range(STEPS)]
    length = STEPS - warm_up - 1
    wanted = theirs(lambda o: CosineAnnealingLR(o, length, eta_min=1e-6), warm_up)
    assert own == pytest.approx(wanted, rel=1e-9)
    assert (max(own), own[-1]) == (PEAK, pytest.approx(1e-6))
