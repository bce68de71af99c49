"""``hatvid evaluate``, ``compare``, ``lam`` and ``features``: what they print and write."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("research") / "noise.png"
    Image.effect_noise((40, 32), 60).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [
        make_clip(folder / "a.mkv", width=64, height=48),
        make_clip(folder / "b.mkv", width=64, height=48, options={"crf": "45"}),
    ]


def test_evaluate(hatvid: Run, picture: Path, checkpoints: dict[int, Path]) -> None:
    arguments = ("evaluate", picture.parent, "--scale", "2", "--model", checkpoints[2])
    done = hatvid(*arguments, "--crops", picture.parent / "crops.PNG")
    assert (done.code, done.err) == (0, "")
    head, columns, *rows = done.out.splitlines()
    assert head.endswith(": 1 picture, x2, reduced by MATLAB's bicubic")
    assert columns.split() == ["PSNR", "SSIM"]
    assert [row.split()[0] for row in rows] == ["nearest", "bicubic", "lanczos", "tiny-x2"]
    (picture.parent / "crops.PNG").unlink()
    plain = json.loads(hatvid(*arguments, "--json").out)
    assert plain["rows"][-1]["model"] == str(checkpoints[2])
    lines = list(csv.DictReader(io.StringIO(hatvid(*arguments, "--csv").out)))
    assert float(lines[-1]["psnr"]) == pytest.approx(plain["rows"][-1]["psnr"], abs=1e-5)


@pytest.mark.parametrize("taken", ["HR/baby.png", "LR_bicubic/X2/babyx2.png", "link.png"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_sheet_of_crops_is_no_picture_of_the_set(
    hatvid: Run,
    picture: Path,
    refusal: Callable[..., None],
    tmp_path: Path,
    taken: str,
    overwrite: bool,
) -> None:
    for name, times in (("HR/baby.png", 2), ("LR_bicubic/X2/babyx2.png", 1)):
        (tmp_path / name).parent.mkdir(parents=True)
        with Image.open(picture) as image:
            image.resize((image.width * times, image.height * times)).save(tmp_path / name)
    (tmp_path / "link.png").symlink_to(tmp_path / "HR" / "baby.png")
    before = (tmp_path / taken).read_bytes()
    arguments = ["evaluate", tmp_path, "--scale", "2", "--crops", tmp_path / taken]
    arguments += ["--overwrite"] * overwrite
    refusal(hatvid(*arguments), code=2, says="is an input itself; give the output another name")
    assert (tmp_path / taken).read_bytes() == before


def test_evaluate_without_a_network_of_that_scale(
    hatvid: Run, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hatvid.model.catalog.EMBEDDED", ())
    done = hatvid("evaluate", picture.parent, "--scale", "3")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 2 + 3


def test_lam(hatvid: Run, picture: Path, checkpoints: dict[int, Path], tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    arguments = ("lam", picture, "--at", "20,16", "--steps", "2", "-o", figure)
    models = [part for path in checkpoints.values() for part in ("--model", path)]
    done = hatvid(*arguments, *models)
    assert (done.code, done.err) == (0, "")
    said, *rows = done.out.splitlines()
    assert said == f"{figure}: around 20,16 of 40x32 pixels"
    assert [row.split(" DI ")[0] for row in rows] == ["tiny-x2:", "tiny-x4:"]
    with Image.open(figure) as drawn:
        two = drawn.size
    done = hatvid(*arguments, "--model", checkpoints[2], "--json", "--overwrite")
    (found,) = json.loads(done.out)
    assert float(rows[0].split()[-1]) == pytest.approx(found["diffusion_index"], abs=0.01)
    with Image.open(figure) as drawn:
        assert drawn.width == two[0]
        assert drawn.height < 0.6 * two[1], "a row for each network"


def test_features(hatvid: Run, picture: Path, checkpoints: dict[int, Path], tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    done = hatvid("features", picture, "--model", checkpoints[2], "-o", figure)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == f"{figure}: 5 maps"
    assert all("at windows" in line for line in done.out.splitlines()[1:])
    done = hatvid("features", picture, "--model", checkpoints[2], "--layer", "conv_first")
    assert done.code == 0, done.err
    beside = picture.with_name("noise_features.png")
    assert done.out.splitlines()[0] == f"{beside}: 1 map"
    beside.unlink()


def test_compare(hatvid: Run, clips: list[Path], tmp_path: Path) -> None:
    a, b = clips
    page, plot = tmp_path / "page.html", tmp_path / "plot.png"
    done = hatvid("compare", a, b, "-o", page, "--plot", plot, "--worst", "2")
    assert (done.code, done.err) == (0, "")
    assert "6 frames, measured at 64x48" in done.out
    assert "B against A: PSNR" in done.out
    assert "VMAF" in done.out
    assert page.read_text().count('"number":') == 2
    with Image.open(plot) as drawn:
        assert drawn.format == "PNG"
    arguments = ("compare", a, b, "--reference", a, "--no-vmaf")
    plain = json.loads(hatvid(*arguments, "--json").out)
    assert [video["video"] for video in plain["videos"]] == ["A", "B"]
    assert plain["videos"][0]["summary"]["psnr"] is None
    lines = list(csv.DictReader(io.StringIO(hatvid(*arguments, "--csv").out)))
    assert len(lines) == 12
    assert lines[-1]["vmaf"] == ""
    assert float(lines[-1]["psnr"]) == pytest.approx(plain["videos"][1]["frames"]["psnr"][-1])


def test_plots_say_what_they_need(
    hatvid: Run, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hatvid.research.plots.find_spec", lambda name: None)
    done = hatvid("compare", *clips, "-o", tmp_path / "page.html")
    assert done.code == 2
    assert "pip install 'hatvid[research]'" in done.err
    assert list(tmp_path.iterdir()) == []
    assert hatvid("compare", *clips, "--no-vmaf").code == 0, "numbers need no plot"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["evaluate", "{folder}", "--json", "--csv"], 2, "exclude each other"),
        (["evaluate", "{folder}", "--crops", "x.gif"], 2, "give it a name in .png"),
        (["evaluate", "{folder}", "--model", "zebra"], 2, "no model is called"),
        (["evaluate", "{folder}/gone"], 1, "cannot be read"),
        (["lam", "{picture}", "--at", "20"], 2, "give a pixel of the picture as X,Y"),
        (["lam", "{picture}", "--at", "99,1", "-o", "x.png"], 2, "99,1 is no pixel"),
        (["lam", "{picture}", "--at", "1,1", "-o", "{picture}"], 2, "is an input itself"),
        (["lam", "{picture}", "--at", "1,1", "--model", "zebra"], 2, "no model is called"),
        (["features", "{picture}", "--layer", "x", "-o", "x.png"], 2, "has no layer 'x'"),
        (["features", "{folder}/gone.png"], 1, "cannot be read"),
        (["compare", "{picture}", "{folder}/gone.mkv"], 1, "gone.mkv"),
        (["compare", "a.mkv", "b.mkv", "-o", "page.txt"], 2, "give it a name in .html"),
        (["compare", "a.mkv", "b.mkv", "--no-vmaf", "--worst-by", "vmaf"], 2, "needs VMAF"),
    ],
)
def test_what_is_refused(
    hatvid: Run,
    picture: Path,
    refusal: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [part.format(folder=picture.parent, picture=picture) for part in arguments]
    refusal(hatvid(*filled), code=code, says=text)
    assert list(tmp_path.iterdir()) == []
    assert [path.name for path in picture.parent.iterdir()] == ["noise.png"]
