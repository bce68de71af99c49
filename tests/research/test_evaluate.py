"""Tables: each row against its own computation, and the published row of bicubic."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from hatvid.errors import InputError, OptionError
from hatvid.options import EngineOptions, TileOptions
from hatvid.research.evaluate import csv_lines, evaluate
from hatvid.research.pairs import find_pairs
from hatvid.upscaler import Upscaler


class Doubled(nn.Module):
    """Each pixel as ``scale`` x ``scale``, half a step of 8 bits too bright."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3) + 0.4 / 255


def make(scale: int) -> Upscaler:
    return Upscaler(
        Doubled(scale),
        scale=scale,
        engine_options=EngineOptions(engine="eager", threads=1),
        tile_options=TileOptions(tile=0),
        name="doubled",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    for number, (height, width) in enumerate([(41, 50), (64, 37)]):
        coarse = rng.integers(0, 256, (height // 6, width // 6, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_rows_are_what_scikit_image_measures(folder: Path) -> None:
    pairs = find_pairs(folder, 2)
    done: list[int] = []
    found = evaluate(pairs, 2, ["x"], lambda model: make(2), crops=True, advanced=done.append)
    assert sum(done) == 8
    assert found.names == ("0", "1")
    assert found.made
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ["nearest", "bicubic", "lanczos", "doubled"]
    assert rows["doubled"].model == "x"
    assert rows["doubled"].pictures == rows["nearest"].pictures, "what is under half a step"
    for pair, measured in zip(pairs, rows["nearest"].pictures, strict=True):
        small, large = pair.read(2)
        assert (large.shape[0] % 2, large.shape[1] % 2) == (0, 0)
        ours = rgb2ycbcr(small.repeat(2, 0).repeat(2, 1))[2:-2, 2:-2, 0]
        ideal = rgb2ycbcr(large)[2:-2, 2:-2, 0]
        psnr = peak_signal_noise_ratio(ideal, ours, data_range=255)
        ssim = structural_similarity(
            ideal,
            ours,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert measured.psnr == pytest.approx(psnr, abs=1e-3)
        assert measured.ssim == pytest.approx(ssim, abs=1e-4)
    assert rows["nearest"].psnr == pytest.approx(
        np.mean([one.psnr for one in rows["nearest"].pictures])
    )
    assert rows["nearest"].psnr < rows["bicubic"].psnr < rows["lanczos"].psnr
    assert found.crops is not None
    assert found.crops.width > 5 * 37 * 3


def test_json_and_csv_say_the_same(folder: Path) -> None:
    found = evaluate(find_pairs(folder, 3), 3, [], lambda model: make(3))
    plain = found.as_dict()
    head, *lines = csv_lines(found)
    assert head == ("name", "model", "scale", "picture", "psnr", "ssim")
    assert len(lines) == 3 * 2
    by_line = {(line[0], line[3]): (float(line[4]), float(line[5])) for line in lines}
    for row in plain["rows"]:
        for one in row["pictures"]:
            assert by_line[row["name"], one["name"]] == pytest.approx((one["psnr"], one["ssim"]))
    assert (plain["scale"], plain["small_pictures"]) == (3, "made")


def test_equal_pictures_have_no_number(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (90, 20, 30)).save(tmp_path / "flat.png")
    found = evaluate(find_pairs(tmp_path, 2), 2, [], lambda model: make(2))
    assert [row["psnr"] for row in found.as_dict()["rows"]] == [None] * 3


@pytest.mark.parametrize("layout", ["basicsr", "selfexsr"])
def test_given_small_pictures_are_taken(folder: Path, tmp_path: Path, layout: str) -> None:
    """Not made again: those here are all black."""
    root = tmp_path / layout
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as large:
            size = large.width // 2, large.height // 2
            if layout == "basicsr":
                names = root / "HR" / path.name, root / "LR_bicubic" / "X2" / f"{path.stem}x2.png"
            else:
                inside = root / "image_SRF_2"
                names = inside / f"{path.stem}_SRF_2_HR.png", inside / f"{path.stem}_SRF_2_LR.png"
            for name, image in zip(names, (large, Image.new("RGB", size)), strict=True):
                name.parent.mkdir(parents=True, exist_ok=True)
                image.save(name)
    found = evaluate(find_pairs(root, 2), 2, [], lambda model: make(2))
    assert not found.made
    assert found.names == ("0", "1")
    assert all(row.psnr < 15 for row in found.rows)
    with pytest.raises(InputError, match=r"holds no (X4|image_SRF_4)"):
        find_pairs(root, 4)
    next(root.rglob("*0x2.png" if layout == "basicsr" else "0_SRF_2_LR.png")).unlink()
    with pytest.raises(InputError, match="no small picture"):
        find_pairs(root, 2)


def test_pairs_that_do_not_fit(tmp_path: Path) -> None:
    for name, size in (("HR/a.png", (40, 40)), ("LR_bicubic/X2/ax2.png", (10, 10))):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(InputError, match="not 2 times as many"):
        evaluate(find_pairs(tmp_path, 2), 2, [], lambda model: make(2))


def test_what_cannot_be_measured(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(OptionError, match="doubled upscales by 2, not by 3"):
        evaluate(find_pairs(folder, 3), 3, ["x"], lambda model: make(2))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        find_pairs(empty, 2)
    with pytest.raises(InputError, match="cannot be read"):
        find_pairs(tmp_path / "gone", 2)
    Image.new("RGB", (16, 12)).save(empty / "tiny.png")
    with pytest.raises(InputError, match="too few for SSIM"):
        evaluate(find_pairs(empty, 4), 4, [], lambda model: make(4))


@pytest.mark.parametrize("models", [["wrong"], ["right", "wrong"]])
def test_another_scale_is_refused_before_anything_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, models: list[str]
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Upscaler, "close", lambda upscaler: closed.append(upscaler.name))
    done: list[int] = []
    scales = {"right": 2, "wrong": 4}
    with pytest.raises(OptionError, match="doubled upscales by 4, not by 2"):
        evaluate(
            *(find_pairs(folder, 2), 2, models),
            lambda model: make(scales[model]),
            advanced=done.append,
        )
    assert done == []
    assert len(closed) == len(models)


PUBLISHED = {2: (33.66, 0.9299), 3: (30.39, 0.8682), 4: (28.42, 0.8104)}
"""Bicubic on Set5, as the tables of the papers have it."""


@pytest.mark.parametrize("scale", PUBLISHED)
def test_set5_by_bicubic_is_the_papers_row(scale: int) -> None:
    place = os.environ.get("HATVID_BENCHMARKS")
    if not place:
        pytest.skip("HATVID_BENCHMARKS is not set to the directory that holds set5/")
    found = evaluate(find_pairs(Path(place, "set5"), scale), scale, [], lambda model: make(scale))
    bicubic = next(row for row in found.rows if row.name == "bicubic")
    assert not found.made
    assert bicubic.psnr == pytest.approx(PUBLISHED[scale][0], abs=0.03)
    assert bicubic.ssim == pytest.approx(PUBLISHED[scale][1], abs=0.001)
