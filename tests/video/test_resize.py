"""Sizes that no whole scale gives: the arithmetic, and the filter against Pillow's."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hatvid.options import SizeOptions
from hatvid.resampling import resample
from hatvid.video.resize import aspect_after, target_size

SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (SizeOptions(), (1280, 720)),
        (SizeOptions(height=1080), (1920, 1080)),
        (SizeOptions(width=1000), (1000, 562)),
        (SizeOptions(width=600, height=600), (600, 600)),
    ],
)
def test_the_open_side_follows_the_aspect(size: SizeOptions, expected: tuple[int, int]) -> None:
    assert target_size(320, 180, 4, size) == expected


@given(width=SIDES, height=SIDES, asked=SIDES)
def test_the_open_side_is_even_and_near(width: int, height: int, asked: int) -> None:
    w, h = target_size(width, height, 4, SizeOptions(height=asked))
    assert h == asked
    assert w % 2 == 0
    assert w == 2 or abs(w - Fraction(asked * width, height)) <= 1


@given(
    before=st.tuples(SIDES, SIDES),
    after=st.tuples(SIDES, SIDES),
    aspect=st.fractions(Fraction(1, 10), 10),
)
def test_the_shape_on_the_screen_stays(
    before: tuple[int, int], after: tuple[int, int], aspect: Fraction
) -> None:
    kept = aspect_after(aspect, before, after)
    assert kept is not None
    assert kept * Fraction(*after) == aspect * Fraction(*before)


def test_an_unsaid_aspect_stays_unsaid_where_the_shape_does() -> None:
    assert aspect_after(None, (320, 180), (640, 360)) is None
    assert aspect_after(None, (320, 180), (640, 350)) == Fraction(320 * 350, 180 * 640)


@pytest.mark.parametrize("size", [(23, 40), (31, 90), (100, 64)])
def test_the_filter_is_pillows(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    plane = rng.random((61, 83), np.float32)
    expected = np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC))
    result = resample(torch.from_numpy(plane)[None, None], *size)[0, 0]
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-5)
