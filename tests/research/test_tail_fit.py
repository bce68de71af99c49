"""A new tail in closed form."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from smallest import smallest

from hatvid.model.hat import HAT
from hatvid.research.recipe import Recipe
from hatvid.research.tail_fit import fit_tail


def net(scale: int, seed: int) -> HAT:
    torch.manual_seed(seed)
    return HAT(smallest(scale)).eval()


@pytest.mark.parametrize("scale", [2, 3])
def test_a_tail_that_is_one_convolution_is_found_again(scale: int) -> None:
    known = net(scale, 0)
    with torch.no_grad():
        # Where only the middle tap counts, conv_last mixes channels and no more.
        known.conv_last.weight[:, :, [0, 2]] = 0  # type: ignore[index]
        known.conv_last.weight[:, :, :, [0, 2]] = 0  # type: ignore[index]
        known.conv_last.weight *= 20  # type: ignore[operator]
    pictures = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)

    with torch.no_grad():
        large = known(pictures / 255)
    found = net(scale, 1)
    for name, part in found.named_children():
        if name not in ("upsample", "conv_last"):
            part.load_state_dict(getattr(known, name).state_dict())
    # In files large pictures are whole numbers; here they need not be.
    fit_tail(found, [(pictures[:3], 255 * large[:3]), (pictures[3:], 255 * large[3:])])
    with torch.no_grad():
        again = found(pictures / 255)
    assert large.std() > 0.05
    assert (again - large).abs().max() < 1e-3


def test_the_other_channels_may_learn() -> None:
    found = net(3, 2)
    before = found.upsample[0].weight[27:].clone()  # type: ignore[index]
    small = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    fit_tail(found, [(small, torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8))])
    assert torch.equal(found.upsample[0].weight[27:], before)  # type: ignore[index]
    found(small / 255).sum().backward()
    assert found.conv_last.weight.grad[:, 3:].abs().min() > 0  # type: ignore[index, union-attr]


def test_two_shuffles_are_refused() -> None:
    told = {
        "network": {"name": "hat-nano", "scale": 4},
        "start": {"checkpoint": "hat-nano-x2", "take": "fitting", "fit": 8},
        "run": {"folder": "run"},
        "stage": [
            {
                **{"iterations": 1, "batch": 1, "patch": 16, "learning_rate": 1e-3},
                "data": {"sources": [{"pictures": "pictures"}]},
            }
        ],
    }
    with pytest.raises(ValidationError, match=r"start\.fit is for scale 2 and 3"):
        Recipe.model_validate(told)
