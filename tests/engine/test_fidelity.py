from __future__ import annotations

import math

import pytest
import torch

from hatvid.engine import TileSpec
from hatvid.engine.fidelity import compare, probe


def test_snr_is_variance_over_mean_squared_difference() -> None:
    reference = torch.tensor([0.0, 1.0, 0.0, 1.0]) + 5  # variance 1/4, mean far from 0
    fidelity = compare(reference, reference + torch.tensor([0.1, -0.1, 0.1, -0.1]))
    assert fidelity.snr == pytest.approx(10 * math.log10(0.25 / 0.01), abs=1e-4)
    assert fidelity.max_error == pytest.approx(0.1, abs=1e-6)


def test_equal_outputs_are_perfect() -> None:
    for reference in (torch.rand(9), torch.ones(9)):
        fidelity = compare(reference, reference)
        assert (fidelity.snr, fidelity.max_error) == (math.inf, 0)
        assert fidelity.sufficient


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_samples_never_suffice(bad: float) -> None:
    reference = torch.rand(1000)
    other = reference.clone()
    other[500] = bad
    assert not compare(reference, other).sufficient


def test_noise_over_a_constant_never_suffices() -> None:
    assert not compare(torch.ones(9), torch.ones(9) + 1e-6).sufficient


@pytest.mark.parametrize(
    ("noise", "spike", "sufficient"),
    [(0.0027, 0.0, True), (0.0031, 0.0, False), (0.0, 3.9 / 255, True), (0.0, 4.1 / 255, False)],
    ids=["41 dB", "39.7 dB", "one sample off by 3.9 steps", "one sample off by 4.1 steps"],
)
def test_both_limits_count(noise: float, spike: float, sufficient: bool) -> None:
    rows = torch.arange(10_000)
    reference = 0.5 + torch.where(rows % 2 == 0, 0.3, -0.3).double()
    other = reference + noise * torch.where(rows // 2 % 2 == 0, 1.0, -1.0)
    other[0] += spike
    assert compare(reference, other).sufficient is sufficient


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 48), (192, 320)])
def test_the_probe_is_a_picture_and_always_the_same(height: int, width: int) -> None:
    spec = TileSpec(batch=2, height=height, width=width, scale=4)
    torch.manual_seed(1)
    picture = probe(spec)
    torch.manual_seed(2)
    assert torch.equal(probe(spec), picture)
    assert tuple(picture.shape) == spec.input_shape
    assert float(picture.min()) >= 0
    assert float(picture.max()) <= 1
    for tile in picture:
        assert float(tile.double().std(correction=0)) >= 0.05, "too flat to judge by"
