"""Comparisons of videos against FFmpeg's and scikit-image's numbers, and planted faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from hatvid.errors import InputError, OptionError
from hatvid.research.compare import Measured, compare_videos, worst_frames
from hatvid.research.videos import Video, resized

Draw = Callable[..., list[Any]]
Make = Callable[..., Path]


def noisy(lumas: list[Any], amount: float) -> list[Any]:
    random = np.random.default_rng(7)
    return [
        (luma + random.normal(0, amount, luma.shape)).round().clip(16, 235).astype(luma.dtype)
        for luma in lumas
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def good(folder: Path, make_video: Make, lumas: Draw) -> Path:
    return make_video(folder / "good.mkv", lumas(6))


@pytest.fixture(scope="module")
def bad(folder: Path, make_video: Make, lumas: Draw) -> Path:
    return make_video(folder / "bad.mkv", noisy(lumas(6), 9))


def test_psnr_is_ffmpegs_and_ssim_that_of_scikit_image(
    good: Path, bad: Path, lumas: Draw, ffmpeg: Callable[..., None], tmp_path: Path
) -> None:
    (one,) = compare_videos(good, bad, vmaf=False).measured
    log = tmp_path / "psnr.log"
    ffmpeg("-i", bad, "-i", good, "-lavfi", f"psnr={log}", "-f", "null", "-")
    theirs = [float(value) for value in re.findall(r"psnr_y:([\d.]+)", log.read_text())]
    assert one.psnr == pytest.approx(theirs, abs=0.006)  # it prints two digits
    for found, luma, wrong in zip(one.ssim, lumas(6), noisy(lumas(6), 9), strict=True):
        expected = structural_similarity(
            luma.astype(float),
            wrong.astype(float),
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert found == pytest.approx(expected, abs=1e-4)


def test_vmaf_falls_with_noise(
    good: Path, bad: Path, folder: Path, make_video: Make, lumas: Draw
) -> None:
    worse = make_video(folder / "worse.mkv", noisy(lumas(6), 30))
    found = compare_videos(bad, worse, good)
    a, b = found.measured
    assert len(a.vmaf) == len(b.vmaf) == 6
    assert all(0 <= value <= 100 for value in (*a.vmaf, *b.vmaf))
    same = compare_videos(good, good).measured[0]
    assert np.mean(same.vmaf) > 95
    assert np.mean(same.vmaf) > np.mean(a.vmaf) > np.mean(b.vmaf) + 5


def test_equal_videos(good: Path) -> None:
    found = compare_videos(good, good, vmaf=False)
    (one,) = found.measured
    assert set(one.psnr) == {float("inf")}
    assert one.ssim == pytest.approx([1.0] * 6)
    assert one.flicker == [0.0] * 6
    assert found.notes == ()
    plain = found.as_dict()["videos"][0]
    assert plain["summary"]["psnr"] is None
    assert "vmaf" not in plain["frames"]


def test_flicker_is_what_changes_and_should_not(
    good: Path, folder: Path, make_video: Make, lumas: Draw
) -> None:
    """A constant error does not flicker; one that comes and goes by 4 does by 4."""
    steady = make_video(folder / "steady.mkv", [luma + 4 for luma in lumas(6)])
    blinking = make_video(
        folder / "blinking.mkv", [luma + 4 * (n % 2) for n, luma in enumerate(lumas(6))]
    )
    a, b = compare_videos(steady, blinking, good, vmaf=False).measured
    assert a.flicker == [0] * 6
    assert b.flicker == pytest.approx([0, 4, 4, 4, 4, 4])
    assert a.overall_psnr == pytest.approx(20 * np.log10(255 / 4))
    assert b.summary()["flicker"] == pytest.approx(4)


def test_an_enlargement_is_held_against_its_source(
    good: Path, folder: Path, make_video: Make, lumas: Draw
) -> None:
    """Each way round the larger is reduced; repeated pixels come back nearly as they were."""
    larger = make_video(
        folder / "larger.mkv", [luma.repeat(2, 0).repeat(2, 1) for luma in lumas(6)]
    )
    found = compare_videos(good, larger, vmaf=False)
    assert (found.width, found.height) == (64, 48)
    assert found.sizes == {"A": (64, 48), "B": (128, 96)}
    assert found.notes == (
        "B is reduced from 128x96 to 64x48 for measuring (bicubic, antialiased)",
    )
    other = compare_videos(larger, good, vmaf=False)
    assert other.notes[0].startswith("A is reduced")
    assert other.measured[0].psnr == pytest.approx(found.measured[0].psnr)
    assert min(found.measured[0].psnr) > 25
    by_reference = compare_videos(good, larger, larger, vmaf=False)
    assert (by_reference.width, by_reference.height) == (128, 96)
    assert by_reference.notes[0].startswith("A is enlarged")
    flat = np.full((20, 30), 77.0)
    np.testing.assert_allclose(resized(flat, 10, 15), 77)


def test_shorter_and_slower_videos_are_told(
    good: Path, folder: Path, make_video: Make, lumas: Draw
) -> None:
    short = make_video(folder / "short.mkv", lumas(4))
    found = compare_videos(good, short, vmaf=False)
    assert len(found.seconds) == len(found.measured[0].psnr) == 4
    (note,) = found.notes
    assert note == "the numbers of frames differ (A has 6, B has 4): the first 4 are compared"
    slow = make_video(folder / "slow.mkv", lumas(6), rate=10)
    (note,) = compare_videos(good, slow, vmaf=False).notes
    assert note.startswith("frame 1 is shown at another time in B than in A")


def test_depth_and_range_do_not_matter(folder: Path, make_video: Make, lumas: Draw) -> None:
    deep = make_video(
        folder / "deep.mkv",
        [luma.astype(np.uint16) * 4 for luma in lumas(3)],
        pix_fmt="yuv420p10le",
    )
    again = [frame.luma for frame in Video(deep).frames(6)]
    for luma, wanted in zip(again, lumas(3), strict=True):
        np.testing.assert_allclose(luma, wanted)
    converted = next(iter(Video(deep).frames(1))).luma
    # Gray is gray by every matrix.
    np.testing.assert_allclose(converted, lumas(3)[0], atol=0.01)


def test_what_cannot_be_compared(good: Path, folder: Path, make_video: Make, lumas: Draw) -> None:
    tall = make_video(folder / "tall.mkv", lumas(2, 64, 48))
    with pytest.raises(OptionError, match="not the shape of"):
        compare_videos(good, tall)
    tiny = make_video(folder / "tiny.mkv", lumas(2, 8, 12))
    with pytest.raises(InputError, match="too few for SSIM"):
        compare_videos(tiny, tiny)
    small = make_video(folder / "small.mkv", lumas(2, 24, 32))
    found = compare_videos(small, small)
    assert found.notes == ("VMAF needs 32 pixels along each side: it is left out",)
    with pytest.raises(InputError, match=r"gone\.mkv"):
        compare_videos(good, folder / "gone.mkv")


def test_the_worst_are_not_all_neighbours() -> None:
    one = Measured(label="B", psnr=[40.0] * 30, ssim=[1.0] * 30, flicker=[0.0] * 30)
    one.psnr[10:14] = [20, 19, 18, 21]
    one.psnr[25] = 30
    one.flicker[3] = 5
    assert worst_frames(one, "psnr", 2) == [12, 25]
    assert worst_frames(one, "flicker", 1) == [3]
    assert len(worst_frames(one, "ssim", 50)) == 30
