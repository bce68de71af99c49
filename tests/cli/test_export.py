"""``hatvid export``: a file that other programs run, or one line and no file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnxruntime import InferenceSession

from hatvid.model import export as model_export
from hatvid.model.zoo import load_model

Hatvid = Callable[..., Any]
SIZE = ("--height", "20", "--width", "28")


def assert_runs(path: Path, checkpoint: Path, shape: tuple[int, ...], close: float = 1e-4) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    with torch.no_grad():
        wanted = load_model(str(checkpoint))(x)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < close * wanted.std()


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_one_shape(
    hatvid: Hatvid, lies_in: Hatvid, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    done = hatvid("export", "--model", checkpoints[2], *SIZE, "--onnx", output)
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith(f"{output}: {checkpoints[2].stem}, x2, 1x3x20x28, fp32, ")
    assert second.startswith("largest error in onnxruntime: ")
    assert list(lies_in(tmp_path)) == ["out.onnx"]
    assert metadata(output)["license"] == "unknown"
    assert_runs(output, checkpoints[2], (1, 3, 20, 28))


@pytest.mark.long
def test_any_size(hatvid: Hatvid, checkpoints: dict[int, Path], tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    done = hatvid("export", "--model", checkpoints[4], "--dynamic", "--onnx", output)
    assert (done.code, done.err) == (0, "")
    assert ", x4, any size, fp32, " in done.out
    for shape in ((1, 3, 20, 28), (2, 3, 33, 16), (1, 3, 1, 1)):
        assert_runs(output, checkpoints[4], shape)


def test_fp16_batch_and_opset_over_a_file(
    hatvid: Hatvid, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"what was there")
    options = ("--precision", "fp16", "--batch", "2", "--opset", "20", "--no-check", "--overwrite")
    done = hatvid("export", "--model", checkpoints[2], *SIZE, *options, "-o", output)
    assert (done.code, done.err) == (0, "")
    assert ", 2x3x20x28, fp16, " in done.out
    assert "not run: --no-check" in done.out
    proto = onnx.load(output)
    assert proto.opset_import[0].version == 20
    assert onnx.TensorProto.FLOAT16 in {value.data_type for value in proto.graph.initializer}
    assert_runs(output, checkpoints[2], (2, 3, 20, 28), 3e-2)


def test_without_onnxruntime(
    hatvid: Hatvid, checkpoints: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    output = tmp_path / "out.onnx"
    done = hatvid("export", "--model", checkpoints[2], *SIZE, "--onnx", output)
    assert done.code == 0
    assert "not run: onnxruntime is not installed" in done.out
    assert output.is_file()


@pytest.fixture
def refused(
    hatvid: Hatvid, refusal: Hatvid, lies_in: Hatvid, tmp_path: Path
) -> Callable[..., None]:
    """Run ``hatvid export`` on what cannot be: one line, and nothing touched."""

    def check(*arguments: str | Path, code: int, says: str) -> None:
        before = lies_in(tmp_path)
        refusal(hatvid("export", *arguments), code=code, says=says)
        assert lies_in(tmp_path) == before

    return check


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give --height and --width, or --dynamic"),
        (("--height", "20"), "give --height and --width, or --dynamic"),
        (("--dynamic", *SIZE), "--dynamic takes any shape; leave"),
        (("--dynamic", "--batch", "2"), "--dynamic takes any shape; leave"),
        (("--height", "0", "--width", "20"), r"'--height'.*0.*see hatvid export --help"),
        (("--height", "20", "--width", "-3"), "'--width'"),
        (("--height", "20", "--width", "wide"), "'--width'.*'wide'"),
        ((*SIZE, "--batch", "0"), "'--batch'"),
        ((*SIZE, "--opset", "17"), "'--opset'.*17"),
        ((*SIZE, "--precision", "bf16"), "'--precision'.*'bf16'"),
        ((*SIZE, "--model", "zebra"), "no model is called 'zebra'"),
        ((*SIZE, "--model", "hat-nano-x2", "--scale", "4"), "upscales by 2, not by 4"),
        ((*SIZE, "--model", "hat-nano-x4", "--scale", "2"), "exported it is not reduced to 2"),
        (
            (*SIZE, "--model", "hat-nano-x4", "--scale", "3"),
            "exported it is not reduced to 3; choose another model, or",
        ),
    ],
)
def test_options_that_cannot_be(
    refused: Hatvid, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    refused(*options, "--onnx", tmp_path / "out.onnx", code=2, says=says)


def test_no_file_named(refused: Hatvid) -> None:
    refused(*SIZE, code=2, says="Missing option.*--onnx")


def test_a_file_that_is_there(refused: Hatvid, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"somebody's")
    refused(*SIZE, "--onnx", output, code=2, says="out.onnx exists; use --overwrite to replace it")


def test_a_link_to_nothing(refused: Hatvid, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").symlink_to(tmp_path / "gone")
    refused(*SIZE, "--onnx", tmp_path / "out.onnx", code=2, says="exists; use --overwrite")


def test_places_that_cannot_be_written(refused: Hatvid, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "gone" / "out.onnx", tmp_path / "file" / "out.onnx"):
        refused(*SIZE, "--onnx", place, code=1, says="out.onnx cannot be written .*another place")
    refused(*SIZE, "--overwrite", "--onnx", tmp_path, code=2, says="is a folder; give the model")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_package_that_is_missing(
    refused: Hatvid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    says = rf'needs the package {missing}; run: pip install "hatvid\[onnx\]"'
    refused(*SIZE, "--onnx", tmp_path / "out.onnx", code=2, says=says)


def test_what_fails_the_check_gets_no_name(
    refused: Hatvid,
    checkpoints: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(model_export.LARGEST_ERROR, "fp32", 0.0)
    arguments = ("--model", checkpoints[2], *SIZE, "--onnx", tmp_path / "out.onnx")
    refused(*arguments, code=1, says="onnxruntime and PyTorch differ by .*; nothing was kept")
