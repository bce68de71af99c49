"""Planes in bands of rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hatvid.video import bands as module
from hatvid.video.bands import bands
from hatvid.video.color import ColorTags, assumed, rgb_to_planes
from hatvid.video.convert import PlaneLayout


@given(height=st.integers(0, 3000), width=st.integers(0, 3000))
def test_every_row_is_in_one_of_them(height: int, width: int) -> None:
    found = list(bands(torch.empty(1).expand(3, height, width)))
    assert [row for band in found for row in range(height)[band]] == list(range(height))
    for band in found:
        rows = band.stop - band.start
        assert rows == 1 or rows * width <= module.SAMPLES


def test_elsewhere_than_on_a_cpu_there_is_one() -> None:
    assert list(bands(torch.empty(3, 2160, 3840, device="meta"))) == [slice(0, 2160)]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv440p", "yuv444p", "gray"])
def test_colours_do_not_hang_on_them(pix_fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = PlaneLayout.of(pix_fmt)
    assert layout is not None
    rgb = torch.rand(2, 3, 46, 64, generator=torch.Generator().manual_seed(0))
    tags = assumed(ColorTags(), layout, 46, 64)
    monkeypatch.setattr(module, "SAMPLES", 2**40)
    wanted = rgb_to_planes(rgb, layout, tags)
    for samples in (1, 64 * 5):
        monkeypatch.setattr(module, "SAMPLES", samples)
        found = rgb_to_planes(rgb, layout, tags)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
