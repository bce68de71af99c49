"""The hash that names a network exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hatvid.model.fingerprint import state_dict_hash
from hatvid.model.hat import HAT, HATConfig

Save = Callable[[Any], Path]


@pytest.fixture(scope="session")
def weights(tiny: HATConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {key: value.detach() for key, value in HAT(tiny).state_dict().items()}


def test_hash_tells_networks_apart(tiny: HATConfig, weights: dict[str, Tensor]) -> None:
    def network(**values: float) -> HAT:
        model = HAT(tiny).eval()
        model.load_state_dict(weights)
        return model

    def bend(change: Callable[[HAT], object]) -> str:
        model = network()
        with torch.no_grad():
            change(model)
        return state_dict_hash(model)

    same = state_dict_hash(network())
    assert same == state_dict_hash(network().prepare(20, 20))
    assert same == state_dict_hash(network().train())
    assert same == state_dict_hash(copy.deepcopy(network()))
    changed = [
        bend(lambda m: m.norm.bias[0].add_(1e-7)),
        bend(lambda m: m.double()),
        bend(lambda m: setattr(m.norm, "eps", 1e-6)),
        bend(lambda m: setattr(m.layers[0].residual_group.blocks[0], "conv_scale", 0.5)),  # type: ignore[union-attr]
        bend(lambda m: setattr(m, "conv_before_upsample", torch.nn.Identity())),
        state_dict_hash(HAT(tiny)),
    ]
    assert len({same, *changed}) == 7
    assert all(len(digest) == 64 for digest in changed)
