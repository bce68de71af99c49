"""Models that are unknown, damaged, of another scale, or a trap: one line, nothing written."""

from __future__ import annotations

import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Refused = Callable[..., Any]


def test_a_name_that_is_nearly_right(refused: Refused, clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    for name in ("hat-nano-4x", "HAT-nano-X4", "hatnano-x4"):
        says = rf"no model is called '{name}'; did you mean hat-nano-x4\?"
        refused(clip, "-o", output, "--scale", "4", "--model", name, code=2, says=says)


def test_a_name_that_is_nothing_like_one(refused: Refused, clip: Path, tmp_path: Path) -> None:
    says = r"no model is called 'zebra'; see hatvid models list, or give the path"
    outcome = refused(clip, "-o", tmp_path / "out.mp4", "--model", "zebra", code=2, says=says)
    assert "did you mean" not in outcome.err


def test_a_path_where_nothing_is(refused: Refused, clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    for path in (tmp_path / "gone.safetensors", tmp_path / "gone", Path("gone.pth")):
        says = rf"no checkpoint at {path}; check the path"
        refused(clip, "-o", output, "--model", path, code=1, says=says)


@pytest.mark.parametrize("scale", ["0", "1", "5", "-4"])
def test_a_scale_that_does_not_exist(
    refused: Refused, clip: Path, tmp_path: Path, scale: str
) -> None:
    says = rf"scale is {scale}; choose 2, 3 or 4"
    refused(clip, "-o", tmp_path / "out.mp4", "--scale", scale, code=2, says=says)


def test_a_scale_that_is_no_whole_number(refused: Refused, clip: Path, tmp_path: Path) -> None:
    for scale in ("2.5", "two"):
        says = rf"'--scale'.*'{scale}'.*see hatvid upscale --help"
        refused(clip, "-o", tmp_path / "out.mp4", "--scale", scale, code=2, says=says)


def test_a_model_of_a_smaller_scale(
    refused: Refused, clip: Path, tmp_path: Path, checkpoints: dict[int, Path]
) -> None:
    output = tmp_path / "out.mp4"
    for model in ("hat-nano-x2", str(checkpoints[2])):
        says = r"upscales by 2, not by 3; choose scale 2 or another model"
        refused(clip, "-o", output, "--scale", "3", "--model", model, code=2, says=says)


def damaged(kind: str, whole: Path, path: Path) -> None:
    """Write a file that is like the checkpoint ``whole``, and no good."""
    data = whole.read_bytes()
    state = load_file(whole)
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "cut in the header":
        path.write_bytes(data[:100])
    elif kind == "random":
        path.write_bytes(random.Random(3).randbytes(20_000))
    elif kind == "random after the magic bytes":
        path.write_bytes(b"PK\x03\x04" + random.Random(3).randbytes(20_000))
    elif kind == "a header of endless length":
        path.write_bytes(b"\xff" * 7 + b"\x7f" + data[8:])
    elif kind == "empty":
        path.touch()
    elif kind == "a folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "another network":
        save_file({"fc.weight": torch.ones(3, 3), "fc.bias": torch.ones(3)}, path)
    elif kind == "a tensor is missing":
        del state["conv_last.bias"]
        save_file(state, path)
    elif kind == "a tensor too many":
        save_file(state | {"extra.weight": torch.ones(3)}, path)
    elif kind == "a wrong shape":
        save_file(state | {"conv_last.bias": torch.ones(4)}, path)
    elif kind == "NaN":
        save_file(state | {"conv_last.bias": torch.full((3,), torch.nan)}, path)
    else:
        raise AssertionError(kind)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut", "is damaged or cut short .*download it again"),
        ("cut in the header", "is damaged or cut short .*download it again"),
        ("random", "neither a safetensors nor a PyTorch file; give the checkpoint of a HAT"),
        ("random after the magic bytes", "is damaged or cut short .*download it again"),
        ("a header of endless length", "is damaged or cut short .*download it again"),
        ("empty", "is empty; copy or download it again"),
        ("a folder", "is a directory; give the checkpoint file in it"),
        ("text", "neither a safetensors nor a PyTorch file; give the checkpoint of a HAT"),
        ("another network", "not a HAT.*give the checkpoint of a HAT"),
        ("a tensor is missing", r"conv_last\.bias"),
        ("a tensor too many", r"extra\.weight"),
        ("a wrong shape", r"conv_last\.bias is \[4\] instead of \[3\]"),
        ("NaN", r"conv_last\.bias holds NaN"),
    ],
)
def test_a_damaged_checkpoint(
    refused: Refused,
    clip: Path,
    tmp_path: Path,
    checkpoints: dict[int, Path],
    kind: str,
    says: str,
    suffix: str,
) -> None:
    model = tmp_path / f"broken{suffix}"
    damaged(kind, checkpoints[2], model)
    says = rf"broken{suffix}.*{says}"
    refused(clip, "-o", tmp_path / "out.mp4", "--model", model, code=1, says=says)


def test_a_torch_file_cut_short(
    refused: Refused, clip: Path, tmp_path: Path, checkpoints: dict[int, Path]
) -> None:
    model = tmp_path / "broken.pth"
    torch.save({"params_ema": load_file(checkpoints[2])}, model)
    data = model.read_bytes()
    for size in (4, 1000, len(data) // 2, len(data) - 100):
        model.write_bytes(data[:size])
        says = r"broken\.pth is damaged or cut short .*download it again"
        refused(clip, "-o", tmp_path / "out.mp4", "--model", model, code=1, says=says)


class Trap:
    """A pickle of it makes a file at the moment it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def write_trap(kind: str, model: Path, sprung: Path) -> None:
    if kind == "bare pickle":
        model.write_bytes(pickle.dumps({"params": Trap(sprung)}, protocol=2))
    elif kind == "zip":
        torch.save({"params": {"conv_first.weight": Trap(sprung)}}, model)
    elif kind == "beside good tensors":
        torch.save({"params": {"a": torch.ones(2)}, "optimizer": Trap(sprung)}, model)
    elif kind == "old torch":
        torch.save({"params": Trap(sprung)}, model, _use_new_zipfile_serialization=False)
    else:  # renamed: the suffix promises a format that cannot hold code
        torch.save({"params": Trap(sprung)}, model)


@pytest.mark.parametrize(
    "kind", ["bare pickle", "zip", "beside good tensors", "old torch", "renamed"]
)
def test_a_checkpoint_that_would_run_code(
    refused: Refused, clip: Path, tmp_path: Path, kind: str
) -> None:
    sprung = tmp_path / "sprung"
    model = tmp_path / ("trap.safetensors" if kind == "renamed" else "trap.pth")
    write_trap(kind, model, sprung)
    says = r"trap\.pth holds code .*was refused; none of it was run; give a file"
    if kind == "renamed":
        says = r"trap\.safetensors"
    refused(clip, "-o", tmp_path / "out.mp4", "--model", model, code=1, says=says)
    assert not sprung.exists()


def test_the_trap_is_a_real_one(tmp_path: Path) -> None:
    # Else the test above would pass for a file that is only damaged.
    sprung = tmp_path / "sprung"
    write_trap("bare pickle", tmp_path / "trap.pth", sprung)
    opened = pickle.loads((tmp_path / "trap.pth").read_bytes())
    opened["params"].close()
    assert sprung.exists()
    write_trap("zip", tmp_path / "zip.pth", tmp_path / "other")
    assert zipfile.is_zipfile(tmp_path / "zip.pth")
