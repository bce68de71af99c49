"""``hatvid models check``: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from hatvid.cli.models_check import check
from hatvid.errors import CheckpointError, InputError, UnknownModelError


@pytest.fixture
def run() -> Callable[..., Result]:
    def invoke(*arguments: str | Path) -> Result:
        return CliRunner().invoke(check, [str(a) for a in arguments], standalone_mode=False)

    return invoke


def test_a_line_for_each_block_and_a_verdict(
    run: Callable[..., Result], checkpoints: dict[int, Path]
) -> None:
    done = run(checkpoints[2], "--crop", "32")
    assert done.exit_code == 0, done.output
    lines = [line.rstrip() for line in done.output.splitlines()]
    assert lines[0] == f"{checkpoints[2]} on 32x32 of the embedded picture"
    names = "block residual qkv logits MLP CAB 1 CAB 2 s t"
    assert lines[1].split() == names.split()
    assert [line[:12].rstrip() for line in lines[2:9]] == [
        "shallow",
        "RHAG 0 HAB 0",
        "RHAG 0 HAB 1",
        "RHAG 0 OCAB",
        "RHAG 0 conv",
        "body",
        "tail",
    ]
    assert len(lines[3].split()) == 4 + 8
    assert lines[3].split()[-2:] == ["1", "1"]
    assert len(lines[5].split()) == 3 + 5
    labels = ("subnormal", "residual", "fp16 ", "fp16 plain", "bf16")
    assert all(line.startswith(label) for line, label in zip(lines[9:14], labels, strict=True))
    assert all("dB SNR" in line for line in lines[11:14])
    assert lines[14] == "safe: fp16, bf16, fp32"
    assert len(lines) == 15
    assert max(map(len, lines[1:])) <= 80


def test_what_overflows_is_called_inf(
    run: Callable[..., Result], checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    weights = load_file(checkpoints[2])
    weights["layers.0.residual_group.blocks.0.mlp.fc2.bias"] += 1e5
    weights["layers.0.residual_group.blocks.0.mlp.fc2.weight"] *= 1e5
    weights["layers.0.residual_group.blocks.0.mlp.fc2.bias"][::2] *= -1
    save_file(weights, tmp_path / "large.safetensors")
    done = run(tmp_path / "large.safetensors", "--crop", "32")
    assert done.exit_code == 0, done.output
    (plain,) = [line for line in done.output.splitlines() if line.startswith("fp16 plain")]
    assert plain.split(maxsplit=2)[2] == "inf: it runs out of range"
    (rescaled,) = [line for line in done.output.splitlines() if line.startswith("fp16  ")]
    assert float(rescaled.split()[1]) > 45


def test_json_is_one_object(run: Callable[..., Result], checkpoints: dict[int, Path]) -> None:
    done = run(checkpoints[2], "--crop", "32", "--json")
    assert done.exit_code == 0, done.output
    (line,) = done.output.splitlines()
    record = json.loads(line)
    assert record["model"] == str(checkpoints[2])
    assert record["safe"] == ["fp16", "bf16", "fp32"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["hat-nona-x4"], UnknownModelError),
        (["nothing.safetensors"], CheckpointError),
        (["hat-nano-x2", "--image", "nothing.png"], InputError),
    ],
)
def test_what_is_not_there_is_told(
    run: Callable[..., Result],
    arguments: list[str],
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert isinstance(done.exception, error)


def test_a_file_that_is_no_checkpoint_is_told(run: Callable[..., Result], tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    done = run(tmp_path / "other.safetensors")
    assert isinstance(done.exception, CheckpointError)


def test_help_comes_without_the_heavy_libraries() -> None:
    code = "import sys; from hatvid.cli.models_check import check; check(['--help'])"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "hatvid" in imported
    assert imported & {"av", "numpy", "rich", "safetensors", "torch"} == set()
