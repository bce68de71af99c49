"""Set5 with the embedded weights, against the figures on their card.

The pictures are not part of the project: the environment variable HATVID_BENCHMARKS
names the directory that holds ``set5/image_SRF_4/img_001_SRF_4_HR.png`` and so on.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hatvid.model.zoo import load_model

Picture = NDArray[np.uint8]

CARD = {2: 37.031, 3: 33.053, 4: 30.734}
"""PSNR in dB on the Y channel, by scale."""


def read(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def luma(rgb: Picture) -> NDArray[np.float64]:
    """Y of BT.601, 16..235, as MATLAB's rgb2ycbcr, not rounded."""
    weights = np.array([65.481, 128.553, 24.966])
    result: NDArray[np.float64] = rgb.astype(np.float64) @ weights / 255 + 16
    return result


def psnr_y(got: Picture, wanted: Picture, border: int) -> float:
    """In dB for a peak of 255, ``border`` pixels left out on each side."""
    inside = (slice(border, -border),) * 2
    error = luma(got)[inside] - luma(wanted)[inside]
    return float(10 * np.log10(255**2 / np.mean(error**2)))


@pytest.mark.parametrize("scale", CARD)
@torch.inference_mode()
def test_set5_equals_the_card(scale: int) -> None:
    place = os.environ.get("HATVID_BENCHMARKS")
    if not place:
        pytest.skip("HATVID_BENCHMARKS is not set to the directory that holds set5/")
    model = load_model("auto", scale)
    folder = Path(place, "set5", f"image_SRF_{scale}")
    results = []
    for path in sorted(folder.glob("*_LR.png")):
        x = torch.from_numpy(read(path).copy()).permute(2, 0, 1).unsqueeze(0) / 255
        y = (model(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        wanted = read(path.with_name(path.name.replace("_LR", "_HR")))
        results.append(psnr_y(y, wanted[: y.shape[0], : y.shape[1]], scale))
    assert len(results) == 5
    assert np.mean(results) == pytest.approx(CARD[scale], abs=0.02)
