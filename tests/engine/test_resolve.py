from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hatvid.engine
from hatvid.engine import ResolvedEngine, TileSpec, build_engine, resolve_engine
from hatvid.errors import OptionError
from hatvid.options import EngineName, EngineOptions, Precision

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU with bf16, OpenVINO, and no GPU, whatever this one is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hatvid.engine, "_openvino_runs", lambda: True)
    monkeypatch.setattr(hatvid.engine, "_native_bf16", lambda: True)
    return monkeypatch


@pytest.fixture
def two_gpus(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: 2)
    machine.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    machine.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    machine.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])


def _resolve(
    engine: EngineName = "auto", precision: Precision = "auto", device: str = "auto"
) -> tuple[str, str, bool, str]:
    resolved = resolve_engine(EngineOptions(engine=engine, precision=precision, device=device))
    return resolved.engine, resolved.precision, resolved.tentative, str(resolved.device)


@pytest.mark.usefixtures("machine")
def test_choices_on_a_cpu_with_bf16() -> None:
    assert _resolve() == ("openvino", "bf16", True, "cpu")
    assert _resolve(precision="fp32") == ("openvino", "fp32", False, "cpu")
    assert _resolve(precision="bf16") == ("openvino", "bf16", False, "cpu")
    assert _resolve("openvino", device="cpu") == ("openvino", "bf16", True, "cpu")
    assert _resolve("eager") == ("eager", "fp32", False, "cpu")
    assert _resolve("eager", "fp32", "cpu") == ("eager", "fp32", False, "cpu")
    assert _resolve("eager", "bf16") == ("eager", "bf16", False, "cpu")
    assert _resolve("eager", "fp16") == ("eager", "fp16", False, "cpu")
    assert _resolve(precision="fp16") == ("eager", "fp16", False, "cpu")


@pytest.mark.usefixtures("machine")
def test_streams_side_by_side_where_there_are_threads_for_them() -> None:
    def streams(**given: Any) -> int:
        return resolve_engine(EngineOptions(**given)).streams

    assert streams(threads=2) == 1  # left to the caller, who may have one frame only
    assert streams(threads=2, streams="auto") == 2
    assert streams(threads=8, streams="auto") == 2
    assert streams(threads=1, streams="auto") == 1
    assert streams(threads=8, streams=4) == 4
    assert streams(threads=8, streams="auto", engine="eager") == 1
    assert streams(threads=8, streams="auto", engine="replay") == 1


def test_choices_on_a_cpu_without_bf16(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(hatvid.engine, "_native_bf16", lambda: False)
    assert _resolve() == ("openvino", "fp32", False, "cpu")
    assert _resolve(precision="bf16") == ("eager", "bf16", False, "cpu")
    with pytest.raises(OptionError, match="choose precision fp32"):
        _resolve("openvino", "bf16")


def test_choices_without_openvino(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(hatvid.engine, "_openvino_runs", lambda: False)
    assert _resolve() == ("eager", "fp32", False, "cpu")
    with pytest.raises(OptionError, match="install openvino"):
        _resolve("openvino")
    assert _resolve(precision="bf16") == ("eager", "bf16", False, "cpu")


@pytest.mark.usefixtures("two_gpus")
def test_choices_with_cuda() -> None:
    assert _resolve() == ("cudagraph", "fp16", True, "cuda:0")
    assert _resolve(device="cuda") == ("cudagraph", "fp16", True, "cuda:0")
    assert _resolve("eager", device="cuda:1") == ("eager", "fp16", True, "cuda:1")
    assert _resolve("tensorrt", device="cuda:1") == ("tensorrt", "fp16", True, "cuda:1")
    assert _resolve(precision="fp32") == ("cudagraph", "fp32", False, "cuda:0")
    assert _resolve("eager", device="cpu") == ("eager", "fp32", False, "cpu")
    assert _resolve("openvino") == ("openvino", "bf16", True, "cpu")
    assert _resolve("replay") == ("replay", "fp32", False, "cpu")
    assert _resolve(precision="bf16") == ("cudagraph", "bf16", False, "cuda:0")
    for engine in ("openvino", "replay"):
        with pytest.raises(OptionError, match="choose engine cudagraph, or device cpu"):
            _resolve(engine, device="cuda")
    for engine in ("cudagraph", "tensorrt"):
        with pytest.raises(OptionError, match="choose engine auto"):
            _resolve(engine, device="cpu")
    with pytest.raises(OptionError, match="the last one is cuda:1"):
        _resolve(device="cuda:2")


@pytest.mark.usefixtures("machine")
def test_what_cannot_be() -> None:
    for engine in ("cudagraph", "tensorrt"):
        with pytest.raises(OptionError, match=r"NVIDIA GPU.*choose engine auto"):
            _resolve(engine)
    with pytest.raises(OptionError, match="choose engine cudagraph, or leave --compile out"):
        resolve_engine(EngineOptions(engine="eager", compiled=True))
    with pytest.raises(OptionError, match="choose engine cudagraph, or leave --compile out"):
        resolve_engine(EngineOptions(engine="replay", compiled=True))
    with pytest.raises(OptionError, match="choose engine auto, or leave --streams out"):
        resolve_engine(EngineOptions(engine="eager", streams=2))
    with pytest.raises(OptionError, match="choose device cpu"):
        _resolve(device="cuda")
    with pytest.raises(OptionError, match="engine openvino does not compute in fp16"):
        _resolve("openvino", "fp16")


@pytest.mark.usefixtures("machine")
def test_threads() -> None:
    assert resolve_engine(EngineOptions(threads=3)).threads == 3
    assert resolve_engine(EngineOptions()).threads == torch.get_num_threads()


def test_settling_a_precision() -> None:
    tentative = ResolvedEngine(
        engine="openvino", precision="bf16", tentative=True, device=CPU, threads=2
    )
    settled = tentative.settled("fp32")
    assert (settled.precision, settled.tentative, settled.threads) == ("fp32", False, 2)


def test_nothing_is_kept_on_disk_without_a_fingerprint(
    net: nn.Module,
    spec: TileSpec,
    tiles: Tensor,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr("hatvid.engine.cache.default_cache_dir", lambda engine: home / engine)
    resolved = ResolvedEngine(engine="openvino", precision="fp32", device=CPU, threads=1)
    build_engine(net, spec, resolved, None).run(tiles)
    assert not list(home.iterdir())
    build_engine(net, spec, resolved, "weights").run(tiles)
    assert len(list((home / "openvino").iterdir())) == 1


def test_engines_are_imported_when_they_are_built() -> None:
    code = (
        "import sys, hatvid.engine\n"
        "heavy = {'openvino', 'hatvid.engine.eager', 'hatvid.engine.openvino'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
