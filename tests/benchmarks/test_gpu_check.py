"""The script for owners of a GPU, on the CPU's twin: every step, and what it does where a
picture is wrong."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import hatvid.engine.recorded
from hatvid.model.attention import WindowAttention

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    import sys

    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def run(gpu_check: ModuleType, folder: Path) -> tuple[int, dict[str, Any]]:
    out = folder / "gpu_check.json"
    code = gpu_check.main(["--device", "cpu", "--tiny", "--out", str(out)])
    return code, json.loads(out.read_text())


@pytest.mark.parametrize(
    "precisions",
    [("fp32",), pytest.param(("fp32", "fp16", "bf16"), marks=pytest.mark.long)],
    ids=["fp32", "every precision"],
)
def test_every_step_on_the_twin(
    gpu_check: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    precisions: tuple[str, ...],
) -> None:
    monkeypatch.setattr(gpu_check, "PRECISIONS", precisions)
    code, found = run(gpu_check, tmp_path)
    assert code == 0
    assert found["finished"]
    assert found["versions"]["torch"] == torch.__version__
    assert found["rates"]["copy_gb_s"] > 0
    rows = found["correctness"]
    assert {(row["kernel"], row["precision"]) for row in rows} == {
        (kernel, precision)
        for kernel in ("efficient", "cudnn", "triton")
        for precision in precisions
        if (kernel, precision) != ("cudnn", "fp32")
    }
    assert all(row["passed"] for row in rows)
    assert all(row["fp32"] > 90 for row in rows if row["kernel"] != "cudnn")
    assert {row["kernel"] for row in found["attention"]} == {"efficient", "cudnn", "triton"}
    assert all(row["ms"] > 0 for row in found["attention"])
    assert all(row["ms"] > 0 for row in found["replays"])
    assert found["profile"][0].startswith("tiny")
    assert found["tests"].startswith("not run")
    assert found["job"].startswith("not run")
    printed = capsys.readouterr().out
    assert printed.index("replays") > printed.index("correctness")


def test_a_wrong_picture_ends_it(
    gpu_check: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recordable = hatvid.engine.recorded.recordable

    def faulty(module: nn.Module, *others: Any) -> nn.Module:
        ready = recordable(module, *others)
        for attention in ready.modules():
            if isinstance(attention, WindowAttention):
                assert attention.bias is not None
                attention.bias.zero_()
        return ready

    monkeypatch.setattr(hatvid.engine.recorded, "recordable", faulty)
    monkeypatch.setattr(gpu_check, "PRECISIONS", ("fp32",))
    code, found = run(gpu_check, tmp_path)
    assert code == 1
    assert not found["finished"]
    assert [row["kernel"] for row in found["wrong"][:2]] == ["efficient", "triton"]
    assert "replays" not in found
    assert "WRONG PICTURES" in capsys.readouterr().err


def test_without_a_gpu_it_says_so(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--out", str(tmp_path / "out.json")]) == 2
    assert not (tmp_path / "out.json").exists()


def test_weights_are_the_same_everywhere(gpu_check: ModuleType) -> None:
    """Drawn by numpy, whose stream does not change with PyTorch's version."""
    network = gpu_check.checked_networks(tiny=True)["tiny"]()
    weight = network.conv_first.weight.flatten()[:3].tolist()
    assert weight == pytest.approx(FIRST, abs=1e-6)


FIRST = [0.3327661454677582, -0.2749060094356537, 0.19778957962989807]
