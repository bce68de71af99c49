"""Degradations against scipy's filters, MATLAB's resize of whole pictures, and statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter
from scipy.ndimage import gaussian_filter

from hatvid.research.codec import through_jpeg, through_x264
from hatvid.research.degradations import Degradation
from hatvid.research.degrade import block, blurred, degrade, noisy, reach
from hatvid.research.matlab_resize import Pixels, imresize
from hatvid.research.patches import augmented
from hatvid.research.recipe import Augment


def chain(*parts: dict[str, Any]) -> tuple[Degradation, ...]:
    return TypeAdapter(tuple[Degradation, ...]).validate_python(parts)


def picture(height: int = 48, width: int = 40) -> Pixels:
    random = np.random.default_rng(height)
    coarse = random.integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def decibels(a: Pixels, b: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.7, 8.0])
def test_blur_is_that_of_scipy(sigma: float) -> None:
    wanted = gaussian_filter(picture().astype(float), (sigma, sigma, 0), mode="reflect", truncate=4)
    assert np.abs(blurred(picture(), sigma) - wanted).max() <= 0.5 + 1e-9


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    gray = np.full((200, 200, 3), 128, np.uint8)
    coloured = noisy(gray, 10, np.random.default_rng(1), gray=False).astype(float) - 128
    assert coloured.std() == pytest.approx(10, rel=0.01)
    assert abs(np.corrcoef(coloured[..., 0].ravel(), coloured[..., 1].ravel())[0, 1]) < 0.02
    alike = noisy(gray, 10, np.random.default_rng(1), gray=True)
    assert (alike == alike[..., :1]).all()


def test_the_reduction_is_the_published_one() -> None:
    found = degrade(picture(), chain({"kind": "bicubic"}), 4, np.random.default_rng(1))
    np.testing.assert_array_equal(found, imresize(picture(), 12, 10))


def test_jpeg_and_its_quality() -> None:
    losses = [decibels(through_jpeg(picture(), quality), picture()) for quality in (10, 50, 95)]
    assert losses == sorted(losses)
    assert losses[0] < 26 < losses[2]
    # What was written once is nearly a fixed point: the same quantisation, on the same grid.
    once = through_jpeg(picture(), 30)
    assert decibels(through_jpeg(once, 30), once) > decibels(once, picture()) + 6


@pytest.mark.parametrize("shown", [0, 2, 3])
def test_x264_gives_the_picture_whichever_frame_it_is(shown: int) -> None:
    """At a high quality what comes back is the picture, not a neighbour in the pan."""
    gray = picture(47, 41)[..., :1]  # of odd size; without chroma, which is of half the size
    source = gray.repeat(3, 2)

    def through(crf: int) -> Pixels:
        return through_x264(source, crf, preset="veryfast", frames=4, shown=shown, pan=(2, -3))

    best, moved = through(1), np.roll(source, (2, -3), (0, 1))
    assert best.shape == source.shape
    assert decibels(best, source) > 40
    assert decibels(best, source) > decibels(best, moved) + 8
    assert decibels(through(45), source) < decibels(best, source) - 3
    np.testing.assert_array_equal(through(30), through(30))


def test_a_chain_runs_in_order_and_each_part_by_its_chance() -> None:
    sure = chain(
        {"kind": "blur", "sigma": [1, 1]},
        {"kind": "bicubic"},
        {"kind": "noise", "sigma": [5, 5]},
        {"kind": "jpeg", "quality": [60, 60]},
    )
    random = np.random.default_rng(4)
    found = degrade(picture(), sure, 2, np.random.default_rng(4))
    # Whether to blur, how much; whether there is noise, whether it is gray, how much.
    for _ in range(5):
        random.random()
    small = imresize(blurred(picture(), 1), 24, 20)
    small = np.floor((small + 5 * random.standard_normal(small.shape)).clip(0, 255) + 0.5)
    np.testing.assert_array_equal(found, through_jpeg(small.astype(np.uint8), 60))
    never = chain({"kind": "noise", "sigma": [50, 50], "chance": 0})
    np.testing.assert_array_equal(degrade(picture(), never, 1, random), picture())


def test_how_far_a_chain_sees() -> None:
    assert reach(chain({"kind": "bicubic"}), 4) == 3
    assert reach(chain({"kind": "blur", "sigma": [0, 2]}, {"kind": "bicubic"}), 4) == 5
    assert reach(chain({"kind": "bicubic"}, {"kind": "blur", "sigma": [0, 2]}), 4) == 11
    assert block(chain({"kind": "bicubic"})) == 1
    assert block(chain({"kind": "bicubic"}, {"kind": "x264", "crf": [1, 2]})) == 16


@pytest.mark.parametrize(
    ("flips", "rotations", "count"),
    [(True, True, 8), (True, False, 4), (False, True, 4), (False, False, 1)],
)
def test_all_ways_to_lay_a_square_and_no_other(flips: bool, rotations: bool, count: int) -> None:
    """Small and large alike: the small one is every second pixel of the large one's blocks."""
    small = np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)
    large = small.repeat(2, 0).repeat(2, 1)
    turned = {np.rot90(side, k).tobytes() for side in (small, small[:, ::-1]) for k in range(4)}
    assert len(turned) == 8
    augment = Augment(flips=flips, rotations=rotations)
    seen = set()
    for seed in range(60):
        a, b = augmented(small, large, augment, np.random.default_rng(seed))
        np.testing.assert_array_equal(b, a.repeat(2, 0).repeat(2, 1))
        seen.add(a.tobytes())
    assert len(seen) == count
    assert seen <= turned


def test_channels_change_places_as_often_as_asked() -> None:
    small = np.arange(3, dtype=np.uint8).reshape(1, 1, 3)
    still = Augment(flips=False, rotations=False, channels=0.6)
    random = np.random.default_rng(2)
    orders = [tuple(augmented(small, small, still, random)[0][0, 0]) for _ in range(600)]
    assert len(set(orders)) == 6
    # A sixth of the permutations changes nothing.
    assert sum(order != (0, 1, 2) for order in orders) / 600 == pytest.approx(0.5, abs=0.07)
