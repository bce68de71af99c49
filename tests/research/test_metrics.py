"""PSNR, SSIM and resizing against others' numbers: scikit-image, Pillow, MATLAB's pixels."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hatvid.research.matlab_resize import Kernel, Pixels, imresize
from hatvid.research.metrics import luma, psnr, quality, ssim
from hatvid.research.pairs import find_pairs, read_pixels


def noisy(height: int, width: int, *, seed: int, amount: int) -> tuple[Pixels, Pixels]:
    """A picture with structure, and the same with noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    wanted = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = random.integers(-amount, amount + 1, wanted.shape)
    return (wanted + noise).clip(0, 255).astype(np.uint8), wanted


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(24, 70),
    width=st.integers(24, 70),
    border=st.integers(0, 4),
    amount=st.sampled_from([1, 10, 80]),
    seed=st.integers(0, 1000),
)
def test_psnr_and_ssim_are_those_of_scikit_image(
    height: int, width: int, border: int, amount: int, seed: int
) -> None:
    pixels, wanted = noisy(height, width, seed=seed, amount=amount)
    found = quality(pixels, wanted, border=border)
    crop = np.s_[border : height - border, border : width - border]
    y, ideal = rgb2ycbcr(pixels)[..., 0][crop], rgb2ycbcr(wanted)[..., 0][crop]
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(ideal, y, data_range=255), abs=1e-3)
    theirs = structural_similarity(
        ideal, y, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert found.ssim == pytest.approx(theirs, abs=1e-4)


def test_luma_is_that_of_others() -> None:
    """scikit-image's, and BT.601 from its own words: KR 0.299, KB 0.114, 219 steps from 16."""
    random = np.random.default_rng(1)
    rgb = random.integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_allclose(luma(rgb), rgb2ycbcr(rgb)[..., 0], atol=1e-9)
    red, green, blue = rgb.transpose(2, 0, 1) / 255
    formula = 219 * (0.299 * red + (1 - 0.299 - 0.114) * green + 0.114 * blue) + 16
    np.testing.assert_allclose(luma(rgb), formula, atol=1e-9)
    ends = luma(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    np.testing.assert_allclose(ends, [[16, 235]], atol=1e-9)


def test_equal_pictures() -> None:
    pixels, _ = noisy(30, 40, seed=1, amount=3)
    found = quality(pixels, pixels.copy(), border=2)
    assert found.psnr == math.inf
    assert found.ssim == pytest.approx(1, abs=1e-12)


def test_what_cannot_be_measured_is_refused() -> None:
    pixels, _ = noisy(30, 40, seed=1, amount=3)
    with pytest.raises(ValueError, match="not of one size"):
        quality(pixels, pixels[:-1], border=2)
    with pytest.raises(ValueError, match="hold no window"):
        quality(pixels[:14], pixels[:14], border=2)


def test_psnr_of_a_known_error() -> None:
    y = np.zeros((12, 12))
    assert psnr(y + 1, y) == pytest.approx(20 * math.log10(255))
    assert ssim(y + 1, y) == pytest.approx(6.5025 / 7.5025)


@pytest.fixture(scope="session")
def set5() -> Path:
    place = os.environ.get("HATVID_BENCHMARKS")
    if not place:
        pytest.skip("HATVID_BENCHMARKS is not set to the directory that holds set5/")
    return Path(place, "set5")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_small_pictures_are_matlabs_to_the_last_bit(set5: Path, scale: int) -> None:
    """They were made when MATLAB repeated the edge; mirrored, only a rim of two differs."""
    pairs = find_pairs(set5, scale)
    assert len(pairs) == 5
    rim = 0
    for pair in pairs:
        assert pair.small is not None
        small, large = read_pixels(pair.small), read_pixels(pair.large)
        height, width = small.shape[:2]
        repeated = imresize(large, height, width, border="replicate")
        np.testing.assert_array_equal(repeated, small)
        mirrored = imresize(large, height, width)
        np.testing.assert_array_equal(mirrored[2:-2, 2:-2], small[2:-2, 2:-2])
        rim += int((mirrored != small).sum())
    assert rim > 0


@pytest.mark.parametrize("size", [(80, 120), (60, 90), (20, 30), (10, 15), (40, 15)])
@pytest.mark.parametrize(
    ("kernel", "theirs"),
    [("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)],
)
def test_resizing_is_near_pillows(
    kernel: Kernel, theirs: Image.Resampling, size: tuple[int, int]
) -> None:
    """Pillow widens and rounds alike, but across before down, so it is given the picture
    turned; and it leaves out what lies beyond the edge, so only the inside is compared."""
    pixels, _ = noisy(40, 60, seed=2, amount=20)
    got = imresize(pixels, *size, kernel=kernel)
    turned = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2)))
    wanted = np.asarray(turned.resize(size, theirs)).transpose(1, 0, 2)
    assert got.shape == wanted.shape == (*size, 3)
    edges = [3 * -(-max(n, old) // old) for n, old in zip(size, (40, 60), strict=True)]
    inside = tuple(slice(edge, -edge) for edge in edges)
    assert got[inside].size
    # A half may fall on either side in each pass.
    assert np.abs(got[inside].astype(int) - wanted[inside]).max() <= 1


def test_the_nearest_pixel_is_repeated() -> None:
    pixels, _ = noisy(9, 7, seed=2, amount=20)
    got = imresize(pixels, 27, 14, kernel="nearest")
    np.testing.assert_array_equal(got, pixels.repeat(3, axis=0).repeat(2, axis=1))


def test_nothing_to_do_changes_nothing() -> None:
    pixels, _ = noisy(24, 25, seed=3, amount=20)
    np.testing.assert_array_equal(imresize(pixels, 24, 25), pixels)


@given(value=st.integers(0, 255), height=st.integers(1, 20), width=st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_flat_stays_flat(value: int, height: int, width: int) -> None:
    """Weights sum to one at every border, however small the picture."""
    pixels = np.full((3, 5, 1), value, np.uint8)
    for kernel in ("nearest", "bicubic", "lanczos"):
        for border in ("symmetric", "replicate"):
            got = imresize(pixels, height, width, kernel=kernel, border=border)  # type: ignore[arg-type]
            assert (got == value).all()
            assert got.shape == (height, width, 1)
