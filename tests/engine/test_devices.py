"""What is said where a GPU that is wanted cannot be: one line, and nothing of PyTorch's."""

from __future__ import annotations

import pytest
import torch
from gpus import CU130, TOO_OLD, Machine

from hatvid.engine import resolve_engine
from hatvid.engine.base import TileSpec
from hatvid.engine.devices import resolve_device
from hatvid.engine.memory import available_memory
from hatvid.engine.prepare import prepared
from hatvid.errors import EngineError, HatvidError, OutOfMemoryError
from hatvid.options import EngineName, EngineOptions


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def _device(name: str, engine: EngineName = "auto") -> str:
    return str(resolve_device(EngineOptions(device=name, engine=engine)))


def _refused(name: str, engine: EngineName = "auto") -> HatvidError:
    with pytest.raises(HatvidError) as caught:
        _device(name, engine)
    assert "\n" not in str(caught.value)
    return caught.value


def test_no_gpu(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.without(RuntimeError("Found no NVIDIA driver on your system. Please check that"))
    error = _refused("cuda")
    assert str(error) == "no CUDA device can be used here; choose device cpu"
    assert error.exit_code == 2
    assert "NVIDIA GPU" in str(_refused("auto", "cudagraph"))
    assert _device("auto") == "cpu"
    assert not caplog.records


def test_gpus_that_are_hidden(machine: Machine) -> None:
    machine.without(RuntimeError("No CUDA GPUs are available"))
    machine.patch.setenv("CUDA_VISIBLE_DEVICES", "")
    error = _refused("cuda")
    assert "CUDA_VISIBLE_DEVICES is ''" in str(error)
    assert error.exit_code == 2


def test_a_pytorch_without_cuda(machine: Machine) -> None:
    machine.without(AssertionError("Torch not compiled with CUDA enabled"))
    error = _refused("cuda:1")
    assert "this PyTorch is built without CUDA; install one" in str(error)
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("name", "engine"), [("cuda", "auto"), ("cuda:1", "eager"), ("auto", "cudagraph")]
)
def test_a_driver_that_is_too_old(machine: Machine, name: str, engine: EngineName) -> None:
    machine.without(RuntimeError(TOO_OLD))
    machine.patch.setattr(torch.version, "cuda", "13.0")
    error = _refused(name, engine)
    assert "it runs CUDA 12.4, PyTorch is built for 13.0; update the driver" in str(error)
    assert error.exit_code == 1


def test_a_driver_that_is_too_old_is_said_once_where_the_cpu_does(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.without(RuntimeError(TOO_OLD))
    assert [_device("auto"), _device("auto")] == ["cpu", "cpu"]
    (record,) = caplog.records
    assert "computing on the CPU: the NVIDIA driver is too old" in record.getMessage()


def test_a_gpu_that_is_not_there(machine: Machine) -> None:
    machine.having((9, 0), (8, 6))
    error = _refused("cuda:3")
    assert str(error) == "device cuda:3 is not there; the last one is cuda:1"
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((9, 0), CU130, True),
        ((8, 9), CU130, True),  # by the code for 8.6
        ((7, 0), CU130, False),
        ((6, 1), CU130, False),
        ((12, 1), CU130, True),
        ((13, 0), CU130, False),
        ((13, 0), [*CU130, "compute_120"], True),  # by PTX
        ((7, 0), [*CU130, "compute_120"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((11, 0), ["compute_100f"], False),
        ((9, 0), ["gfx90a"], True),  # of another maker: nothing is known
        ((9, 0), [], True),
    ],
)
def test_which_gpus_a_pytorch_runs_on(
    machine: Machine, capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    machine.having(capability, built=built)
    if runs:
        assert _device("cuda") == "cuda:0"
    else:
        assert "compute capability" in str(_refused("cuda"))


def test_a_gpu_that_is_too_old_and_one_that_is_too_new(machine: Machine) -> None:
    machine.having((6, 1), (13, 0))
    old, new = _refused("cuda"), _refused("cuda:1")
    assert "cuda:0 (GPU of cuda:0) has compute capability 6.1" in str(old)
    assert "is built for 7.5, 8.0, 8.6, 9.0, 10.0, 12.0; install a PyTorch that is" in str(old)
    assert "install a newer PyTorch" in str(new)
    assert (old.exit_code, new.exit_code) == (1, 1)


def test_auto_takes_the_first_gpu_that_runs(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.having((6, 1), (8, 6))
    assert _device("auto") == "cuda:1"
    assert resolve_engine(EngineOptions()).engine == "cudagraph"
    assert not caplog.records
    machine.having((6, 1))
    assert _device("auto") == "cpu"
    assert "compute capability 6.1" in caplog.text
    assert "compute capability 6.1" in str(_refused("auto", "tensorrt"))


def test_a_gpu_that_does_not_answer(machine: Machine) -> None:
    def fails(device: torch.device) -> tuple[int, int]:
        raise RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA")

    machine.having((9, 0))
    machine.patch.setattr(torch.cuda, "get_device_capability", fails)
    error = _refused("cuda")
    assert "cuda:0 cannot be used (CUDA error: unspecified launch failure); choose" in str(error)


@pytest.mark.parametrize(
    ("says", "kind", "advice"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors", OutOfMemoryError, "end what fills it"),
        ("CUDA error: device not ready", EngineError, "choose another device"),
    ],
)
def test_a_gpu_without_memory_to_be_asked(
    monkeypatch: pytest.MonkeyPatch, says: str, kind: type[Exception], advice: str
) -> None:
    def asked(device: torch.device) -> tuple[int, int]:
        raise RuntimeError(says)

    monkeypatch.setattr(torch.cuda, "mem_get_info", asked)
    with pytest.raises(EngineError, match=advice) as caught:
        available_memory(torch.device("cuda:0"))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_a_gpu_that_does_not_hold_the_weights() -> None:
    class Large(torch.nn.Module):
        def to(self, *given: object, **options: object) -> Large:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        def __deepcopy__(self, memo: object) -> Large:
            return self

    with pytest.raises(OutOfMemoryError, match=r"for the network itself .*smaller model"):
        prepared(Large(), TileSpec(batch=1, height=16, width=16, scale=2))
