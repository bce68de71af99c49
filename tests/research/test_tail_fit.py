"""A new tail in closed form."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from hatvid.model.hat import HAT, HATConfig
from hatvid.research.recipe import Recipe
from hatvid.research.tail_fit import fit_tail


def net(scale: int, seed: int) -> HAT:
    torch.manual_seed(seed)
    config = HATConfig(
        embed_dim=12,
        depths=(1,),
        num_heads=(2,),
        num_feat=8,
        compress_ratio=3,
        squeeze_factor=12,
        upscale=scale,
    )
    return HAT(config).eval()


@pytest.mark.parametrize("scale", [2, 3])
def test_a_tail_that_is_one_convolution_is_found_again(scale: int) -> None:
    known = net(scale, 0)
    with torch.no_grad():
        # Where only the middle tap counts, conv_last mixes channels and no more.
        known.conv_last.weight[:, :, [0, 2]] = 0  # type: ignore[index]
        known.conv_last.weight[:, :, :, [0, 2]] = 0  # type: ignore[index]
        known.conv_last.weight *= 20  # type: ignore[operator]
    pictures = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)

    # Large pictures are whole numbers in files; here they need not be.
    class Exact:
        def __init__(self, values: Tensor) -> None:
            self.values = values

        def to(self, _: torch.device) -> Tensor:
            return self.values * 255

    with torch.no_grad():
        large = known(pictures / 255)
    found = net(scale, 1)
    own = found.state_dict()
    theirs = known.state_dict()
    found.load_state_dict({k: own[k] if "upsample.0" in k[:10] else theirs[k] for k in own})
    found.conv_last.reset_parameters()  # type: ignore[operator]
    found.upsample[0].reset_parameters()  # type: ignore[index]
    pairs = [(pictures[:3], Exact(large[:3])), (pictures[3:], Exact(large[3:]))]
    fit_tail(found, pairs)  # type: ignore[arg-type]
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
