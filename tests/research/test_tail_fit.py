"""A new tail in closed form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from smallest import smallest
from torch import Tensor

from hatvid.model.hat import HAT
from hatvid.research.recipe import Recipe
from hatvid.research.tail_fit import fit_tail


def net(scale: int, seed: int, num_feat: int = 27) -> HAT:
    torch.manual_seed(seed)
    return HAT(replace(smallest(scale), num_feat=num_feat)).eval()


def with_body_of(known: HAT, seed: int) -> HAT:
    found = net(known.scale, seed, known.config.num_feat)
    for name, part in found.named_children():
        if name not in ("upsample", "conv_last"):
            part.load_state_dict(getattr(known, name).state_dict())
    return found


@pytest.mark.parametrize(("scale", "num_feat"), [(2, 27), (3, 27), (3, 4)])
def test_a_tail_is_found_again(scale: int, num_feat: int) -> None:
    known = net(scale, 0, num_feat)
    with torch.no_grad():
        if num_feat < 27:  # only the middle tap can be had
            known.conv_last.weight[:, :, [0, 2]] = 0  # type: ignore[index]
            known.conv_last.weight[:, :, :, [0, 2]] = 0  # type: ignore[index]
        known.conv_last.weight *= 20  # type: ignore[operator]
    pictures = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        large = known(pictures / 255)
    found = with_body_of(known, 1)
    # In files large pictures are whole numbers; here they need not be.
    fit_tail(found, zip(pictures.split(8), (255 * large).split(8), strict=True), ridge=1e-6, edge=0)
    with torch.no_grad():
        again = found(pictures / 255)
    # At the very edge conv_last meets zeros, where a window of features goes on.
    inner = (..., slice(scale, -scale), slice(scale, -scale))
    assert large.std() > 0.05
    assert (again[inner] - large[inner]).abs().max() < 1e-3 * large.std()


def test_pictures_end_as_well_as_they_can() -> None:
    """At their outermost pixels, where taps are missing, the others alone are the best there is."""
    torch.manual_seed(0)
    known = net(3, 0)
    with torch.no_grad():
        known.conv_before_upsample[0].bias += 1  # type: ignore[index]
    small = torch.randint(100, 156, (24, 3, 32, 32), dtype=torch.uint8)
    large = small.repeat_interleave(3, 2).repeat_interleave(3, 3)
    found = with_body_of(known, 1)
    fit_tail(found, zip(small.split(8), large.split(8), strict=True))
    with torch.no_grad():
        wrong = (found(small / 255) - large / 255).abs()
    inside = float(wrong[..., 24:-24, 24:-24].mean())
    for outermost in (wrong[..., 0, 3:-3], wrong[..., -1, 3:-3], wrong[..., 3:-3, 0]):
        assert float(outermost.mean()) < 2 * inside  # of half as many features


def test_several_processes_find_the_same() -> None:
    known = net(2, 0)
    small = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    pairs = [
        (part, 255 * part.repeat_interleave(2, 2).repeat_interleave(2, 3) / 255)
        for part in small.split(1)
    ]
    alone = with_body_of(known, 1)
    fit_tail(alone, pairs)
    summed: list[Tensor] = []
    fit_tail(
        with_body_of(known, 1), pairs[1:], lambda values: summed.append(values.clone()) or values
    )
    shares = iter(summed)
    together = with_body_of(known, 1)
    fit_tail(together, pairs[:1], lambda values: values + next(shares))
    for one, other in zip(alone.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_other_channels_may_learn() -> None:
    found = net(3, 2, 30)
    before = found.upsample[0].weight[27 * 9 :].clone()  # type: ignore[index]
    small = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    fit_tail(found, [(small, torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8))])
    assert torch.equal(found.upsample[0].weight[27 * 9 :], before)  # type: ignore[index]
    found(small / 255).sum().backward()
    assert found.conv_last.weight.grad[:, 27:].abs().min() > 0  # type: ignore[index, union-attr]


def recipe(scale: int, **network: Any) -> dict[str, Any]:
    return {
        "network": {"name": "hat-nano", "scale": scale, **network},
        "run": {"folder": "run"},
        "stage": [
            {
                **{"iterations": 1, "batch": 1, "patch": 16, "learning_rate": 1e-3, "fit": 8},
                "data": {"sources": [{"pictures": "pictures"}]},
            }
        ],
    }


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (recipe(4), "fit is for scale 2 and 3"),
        (recipe(3, num_feat=2), "fit needs num_feat of 3 at least"),
    ],
)
def test_what_cannot_be_fitted_is_refused(told: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Recipe.model_validate(told)
