"""Whole jobs by the program that a GPU gets, on its twin: the picture of ``--engine eager``."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import hatvid
from hatvid.engine.fidelity import compare
from hatvid.jobs.receipt import Receipt
from hatvid.model.zoo import load_model
from hatvid.options import EngineOptions, TileOptions
from hatvid.upscaler import Upscaler

FRAMES = 7
"""Batches of three end with a short one."""

CLIPS = {"8 bit": ("yuv420p", (40, 36)), "10 bit": ("yuv420p10le", (36, 52))}
KERNELS: tuple[Any, ...] = ("efficient", "triton")
PLANS = {
    "whole frames": TileOptions(tile=0, batch=3),
    "tiles": TileOptions(tile=32, overlap=8, batch=3),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layout")
    found = {}
    for name, (pix_fmt, (width, height)) in CLIPS.items():
        found[name] = folder / f"{name}.mkv"
        rows, columns = np.mgrid[:height, :width]
        with av.open(found[name], "w") as output:
            stream = output.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.time_base = Fraction(1, 25)
            for number in range(FRAMES):
                wave = 120 + 80 * np.sin((columns + 3 * number) / 5) * np.cos(rows / 7)
                edge = 50 * (columns > 15 + number)
                picture = np.stack([wave, wave[::-1], wave + edge], -1).clip(0, 255)
                frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
                frame.pts = number
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
    return found


def planes(path: Path) -> torch.Tensor:
    """All samples of all frames, in codes."""
    with av.open(path) as container:
        frames = [frame.to_ndarray().astype(np.int32) for frame in container.decode(video=0)]
    assert len(frames) == FRAMES
    return torch.from_numpy(np.stack(frames))


def upscaled(clip: Path, output: Path, upscaler: Upscaler) -> tuple[torch.Tensor, Receipt]:
    # Weights drawn at random make another picture, which verification would refuse.
    receipt = hatvid.upscale(
        clip, output, upscaler=upscaler, lossless=True, overwrite=True, verify="none"
    )
    assert isinstance(receipt, Receipt)
    return planes(output), receipt


@pytest.fixture(scope="module")
def eager(smallest_hat: Path) -> Iterator[dict[str, Upscaler]]:
    model = load_model(str(smallest_hat))
    made = {
        name: Upscaler(
            model,
            scale=2,
            engine_options=EngineOptions(engine="eager", device="cpu", threads=1),
            tile_options=plan,
        )
        for name, plan in PLANS.items()
    }
    yield made
    for upscaler in made.values():
        upscaler.close()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("plan", PLANS)
def test_the_picture_is_that_of_eager(
    smallest_hat: Path,
    clips: dict[str, Path],
    eager: dict[str, Upscaler],
    plan: str,
    kernel: Any,
    tmp_path: Path,
) -> None:
    """In fp32: what 8 and 10 bits round differently is one code, and seldom. One upscaler takes
    both shapes in turn, and the first again."""
    options = EngineOptions(
        engine="replay", device="cpu", precision="fp32", layout="gpu", kernel=kernel, threads=1
    )
    with Upscaler(
        load_model(str(smallest_hat)), scale=2, engine_options=options, tile_options=PLANS[plan]
    ) as twin:
        for name in ("8 bit", "10 bit", "8 bit"):
            found, receipt = upscaled(clips[name], tmp_path / "twin.mkv", twin)
            expected, plain = upscaled(clips[name], tmp_path / "eager.mkv", eager[plan])
            assert (receipt.kernel, receipt.precision) == (kernel, "fp32")
            assert receipt.snr is not None
            assert receipt.snr > 90
            assert receipt.refused == ()
            assert (plain.engine, plain.kernel) == ("eager", "default")
            difference = (found - expected).abs()
            assert int(difference.max()) <= 1
            assert float((difference > 0).float().mean()) < 1e-3


def test_in_16_bits_it_is_within_what_the_receipt_says(
    smallest_hat: Path, clips: dict[str, Path], eager: dict[str, Upscaler], tmp_path: Path
) -> None:
    options = EngineOptions(
        engine="replay", device="cpu", precision="bf16", layout="gpu", kernel="triton", threads=1
    )
    with Upscaler(
        load_model(str(smallest_hat)),
        scale=2,
        engine_options=options,
        tile_options=PLANS["whole frames"],
    ) as twin:
        found, receipt = upscaled(clips["10 bit"], tmp_path / "twin.mkv", twin)
    expected, _ = upscaled(clips["10 bit"], tmp_path / "eager.mkv", eager["whole frames"])
    fidelity = compare(expected.double(), found.double())
    assert receipt.snr is not None
    # Another picture than the one that the receipt's figure is of.
    assert fidelity.snr > receipt.snr - 6
    assert torch.equal(found, expected) is False
