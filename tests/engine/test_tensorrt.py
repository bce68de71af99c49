"""Engine tensorrt, against a double of TensorRT; and on a GPU the real one."""

from __future__ import annotations

import ctypes
import logging
import os
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.specifiers import SpecifierSet
from torch import Tensor, nn

import hatvid.engine.tensorrt as module_under_test
from hatvid.engine import TileSpec
from hatvid.engine.tensorrt import TensorRTEngine
from hatvid.errors import EngineError, OutOfMemoryError

HERE = Path(__file__).parent
DOUBLE = runpy.run_path(str(HERE / "tensorrt_double.py"))
double, build = DOUBLE["double"], DOUBLE["build"]

Build = Callable[..., TensorRTEngine]


def test_it_gives_what_the_module_gives(build: Build, net: nn.Module, tiles: Tensor) -> None:
    engine = build()
    for batch in (tiles, 1 - tiles, tiles.transpose(2, 3).contiguous().transpose(2, 3)):
        with torch.no_grad():
            torch.testing.assert_close(engine.run(batch), net(batch), atol=1e-6, rtol=0)
    assert engine.run(tiles).data_ptr() == engine.run(tiles).data_ptr()


def test_torch_tensorrt_is_told_what_the_engine_promises(build: Build, double: Any) -> None:
    for precision in ("fp32", "fp16", "bf16"):
        build(precision=precision, cache_dir=None)
        (options,) = double.conversions
        double.conversions.clear()
        scratch = Path(options.pop("timing_cache_path")).parent
        assert not scratch.exists()
        assert options == {
            "require_full_compilation": True,
            "attn_bias_is_causal": False,
            "disable_tf32": True,
            "use_fp32_acc": precision == "fp16",
            "arg_input_binding_names": ("tiles",),
            "output_binding_names": "upscaled",
        }


def test_on_the_default_stream_work_goes_beside_it(
    build: Build, double: Any, tiles: Tensor
) -> None:
    engine = build()
    assert "run on stream1" in double.streams.log, "kernels are not loaded yet"
    assert double.streams.log[-1] == "synchronize"
    double.streams.log.clear()
    engine.run(tiles)
    assert double.streams.log == [
        "stream1 waits for default",
        "run on stream1",
        "default waits for stream1",
    ]


def test_on_another_stream_work_stays_there_as_a_capture_needs(
    build: Build, double: Any, tiles: Tensor
) -> None:
    engine = build()
    double.streams.log.clear()
    with double.streams.on(double.streams.new(torch.device("cpu"))):
        engine.run(tiles)
    assert double.streams.log == ["run on stream2"]


def test_a_plan_of_other_tensors_is_not_run(build: Build, double: Any) -> None:
    """TensorRT would write past the end of the output."""
    real = double.deserialize

    def larger(plan: bytes) -> Any:
        engine = real(plan)
        engine.shapes["upscaled"] = (2, 3, 64, 64)
        return engine

    double.deserialize = larger
    sys.modules["tensorrt"].Runtime = lambda logger: DOUBLE["SimpleNamespace"](
        deserialize_cuda_engine=larger
    )
    with pytest.raises(EngineError, match=r"the plan has tensors.*64, 64"):
        build()


def test_only_float32_on_cuda(build: Build) -> None:
    for changes in ({"device": torch.device("cuda:0")}, {"dtype": torch.float16}):
        with pytest.raises(EngineError, match="choose engine eager"):
            build(spec=TileSpec(batch=1, height=16, width=16, scale=2, **changes))


def test_without_the_packages_it_says_what_to_install(
    build: Build, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real package prints to standard output and raises a plain Exception."""
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(EngineError, match=r"torch_tensorrt.*pip install 'hatvid\[tensorrt\]'"):
        build()
    path = Path(os.environ["XDG_CACHE_HOME"]) / "broken"
    path.mkdir(parents=True, exist_ok=True)
    (path / "torch_tensorrt.py").write_text(
        "print('import error')\nraise Exception('libnvinfer.so.11: cannot open')\n"
    )
    monkeypatch.delitem(sys.modules, "torch_tensorrt")
    monkeypatch.syspath_prepend(str(path))
    with pytest.raises(EngineError, match=r"libnvinfer\.so\.11.*pip install") as caught:
        build()
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_another_release_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_tensorrt.__version__", "2.15.0")
    with pytest.raises(EngineError, match=r"made for torch-tensorrt 2\.14, not 2\.15\.0"):
        build()


def test_release_facts_and_requirement_agree() -> None:
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())
    (requirement,) = project["project"]["optional-dependencies"]["tensorrt"]
    facts = DOUBLE["FACTS"]
    assert facts["torch_tensorrt"].startswith(f"{module_under_test.RELEASE}.")
    assert facts["torch_tensorrt"] in SpecifierSet(requirement.removeprefix("torch-tensorrt"))


def _chained(error: Exception, *outer: Exception) -> Exception:
    for wrap in outer:
        wrap.__cause__, error = error, wrap
    return error


@pytest.mark.parametrize(
    ("error", "says", "expected", "text"),
    [
        (
            _chained(
                RuntimeError("Conversion of function torch.ops.some.op not currently supported!"),
                RuntimeError("Conversion of module GraphModule()\nvery\nlong"),
            ),
            [],
            EngineError,
            r"cannot run this network: Conversion of function torch\.ops\.some\.op not",
        ),
        (
            AssertionError(),
            ["[builder.cpp] Error Code 10: Could not find any implementation\nfor node"],
            EngineError,
            "AssertionError; .* Could not find any implementation; choose engine eager",
        ),
        (
            AssertionError(),
            ["[virtualMemoryBuffer.cpp] Error Code 2: OutOfMemory (Requested size was 9 bytes.)"],
            OutOfMemoryError,
            "memory ran out in TensorRT .*Requested size was 9 bytes.*choose a smaller tile",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            [],
            OutOfMemoryError,
            "choose a smaller tile",
        ),
    ],
    ids=["no converter", "no kernel", "TensorRT's memory", "PyTorch's memory"],
)
def test_what_goes_wrong_in_a_build_is_one_line(
    build: Build,
    double: Any,
    error: Exception,
    says: list[str],
    expected: type[EngineError],
    text: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    double.fails, double.says = error, says
    with pytest.raises(EngineError, match=text) as caught:
        build()
    assert type(caught.value) is expected
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    seen = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not seen, "the user would see the whole network"
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "cache").iterdir()) == []
    # Only while it builds are the package's own messages kept back.
    logging.getLogger("torch_tensorrt").error("later")
    assert "later" in caplog.text


def test_work_that_cannot_be_queued_is_an_error(build: Build, double: Any, tiles: Tensor) -> None:
    engine = build()
    double.refuses = True
    with pytest.raises(EngineError, match="could not start"):
        engine.run(tiles)


def test_the_driver_is_asked_of_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert module_under_test._driver() == ""

    class Nvml:
        started = 0

        def nvmlInit_v2(self) -> int:
            self.started += 1
            return 0

        def nvmlShutdown(self) -> int:
            self.started -= 1
            return 0

        def nvmlSystemGetDriverVersion(self, text: Any, size: ctypes.c_uint) -> int:
            assert self.started == 1
            assert size.value == len(text) >= 80
            text.value = b"580.95.05"
            return 0

    nvml = Nvml()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: nvml)
    assert module_under_test._driver() == "580.95.05"
    assert nvml.started == 0


def test_the_module_itself_imports_neither_package() -> None:
    script = (
        "import sys, hatvid.engine.tensorrt;"
        "assert not {'torch_tensorrt', 'tensorrt'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
