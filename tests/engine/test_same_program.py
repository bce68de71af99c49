"""A CPU's twin builds and runs the program that a GPU gets, operator by operator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from programs_of_operators import Line, program
from redrawn import redrawn
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import hatvid.engine.recorded
from hatvid.bench.trace import GPU, fake_gpu
from hatvid.engine import TileSpec
from hatvid.engine.recorded import RecordedEngine, recordable
from hatvid.engine.runtime import HostRuntime
from hatvid.model.attention import BiasedAttention
from hatvid.model.forms import Forms
from hatvid.model.hat import HATConfig

SPEC = TileSpec(batch=2, height=24, width=40, scale=2)


@pytest.fixture(scope="module")
def forms() -> Forms:
    return Forms(
        redrawn(
            HATConfig(
                embed_dim=60, depths=(2,), num_heads=(2,), squeeze_factor=10, num_feat=8, upscale=2
            )
        )
    )


def _form(forms: Forms, precision: str, kernel: str, *, chunked: bool = False) -> nn.Module:
    return forms.form(
        precision, padded=True, channels_last=True, fused=kernel == "triton", chunked=chunked
    )


def of_the_twin(form: nn.Module, precision: str) -> list[Line]:
    """What the recording repeats."""
    engine = RecordedEngine(
        form, SPEC, runtime=HostRuntime(), name="replay", precision=precision, threads=1
    )
    recording = engine._recording
    assert recording is not None
    return program(lambda: recording._graph(*recording.inputs))  # type: ignore[attr-defined]


def of_a_gpu(form: nn.Module, precision: str) -> list[Line]:
    """What a GPU would capture."""
    spec = replace(SPEC, device=GPU)
    with FakeTensorMode(), torch.no_grad():
        ready = recordable(fake_gpu(form), spec, precision)
        x: Tensor = torch.empty(spec.input_shape, device=GPU)
        return program(lambda: ready(x))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kernel", ["efficient", "triton"])
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_the_twin_runs_the_program_of_a_gpu(
    forms: Forms, precision: str, kernel: str, chunked: bool
) -> None:
    form = _form(forms, precision, kernel, chunked=chunked)
    twin, gpu = of_the_twin(form, precision), of_a_gpu(form, precision)
    assert [name for name, _ in twin] == [name for name, _ in gpu]
    for ours, theirs in zip(twin, gpu, strict=True):
        assert ours == theirs
    names = {name for name, _ in twin}
    assert ("window_attention" in names) is (kernel == "triton")
    assert ("scaled_dot_product_attention" in names) is (kernel == "efficient")


def test_a_step_that_asks_for_the_device_is_seen(
    forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the one that reordered every buffer of four axes, on CUDA alone."""
    prepared = hatvid.engine.recorded.prepared

    def asking(module: nn.Module, spec: TileSpec, precision: str = "fp32") -> nn.Module:
        ready = prepared(module, spec, precision)
        for attention in ready.modules() if spec.device.type == "cuda" else ():
            if isinstance(attention, BiasedAttention):
                assert attention.bias is not None
                attention.bias = attention.bias.contiguous(memory_format=torch.channels_last)
        return ready

    monkeypatch.setattr(hatvid.engine.recorded, "prepared", asking)
    form = _form(forms, "fp32", "efficient")
    assert of_the_twin(form, "fp32") != of_a_gpu(form, "fp32")
