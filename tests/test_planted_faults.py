"""Faults planted in the engine that a GPU gets: each is refused, by its figure.

The network has the embedded weights, as a fault that fresh weights hide may show with
trained ones. What stands in docs/gpu.md is what ``pytest -m long -s`` prints here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import hatvid.engine.recorded
import hatvid.model.window_ops
from hatvid.engine import ResolvedEngine, TileSpec, build_engine
from hatvid.engine.checks import FP32_FORM, ROUNDING
from hatvid.engine_selection import EngineSelection
from hatvid.errors import EngineError
from hatvid.model.attention import BiasedAttention, WindowAttention
from hatvid.model.blocks import HAB, OCAB
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT
from hatvid.model.zoo import load_model
from hatvid.options import EngineOptions

CPU = torch.device("cpu")


def each[Part: nn.Module](network: nn.Module, kind: type[Part]) -> list[Part]:
    return [module for module in network.modules() if isinstance(module, kind)]


def bias_of(attention: BiasedAttention) -> Tensor:
    assert attention.bias is not None
    return attention.bias


def reordered(attention: BiasedAttention) -> None:
    """As ``Module.to(memory_format=torch.channels_last)`` leaves the buffer: the same values,
    which a kernel that indexes memory flat does not find."""
    attention.bias = bias_of(attention).contiguous(memory_format=torch.channels_last)


def scrambled(attention: BiasedAttention) -> None:
    """What such a kernel then reads, by value: for attention that follows strides."""
    bias = bias_of(attention)
    memory = bias.contiguous(memory_format=torch.channels_last)
    attention.bias = memory.as_strided(bias.shape, bias.stride()).clone()


def in_all(plant: Callable[[BiasedAttention], None]) -> Callable[[HAT], None]:
    def planted(network: HAT) -> None:
        for attention in each(network, BiasedAttention):
            plant(attention)

    return planted


def cab_lost(network: HAT) -> None:
    for block in each(network, HAB):
        block.conv_scale = 0.0


def kinds_swapped(network: HAT) -> None:
    for attention in each(network, WindowAttention):
        if attention.shift_size:
            attention.bias = bias_of(attention)[[0, 2, 1, 3]].contiguous()


def bias_zero(network: HAT) -> None:
    for attention in each(network, BiasedAttention):
        bias_of(attention).zero_()


def no_shift_mask(network: HAT) -> None:
    for attention in each(network, WindowAttention):
        if attention.shift_size:
            attention.bias = bias_of(attention)[:1].expand(4, -1, -1, -1).contiguous()


def padded_scale(attention: BiasedAttention) -> None:
    """The scale of a head as it was padded from 30 to 32 channels."""
    attention.scale *= (30 / 32) ** 0.5


def edge_repeated(network: HAT) -> None:
    """Padding by the last row and column, and not by reflection."""
    for name in ("pad_rows", "pad_columns"):
        order = getattr(network, name)
        real = int(order.max()) + 1
        setattr(network, name, torch.arange(len(order), dtype=order.dtype).clamp(max=real - 1))


FAULTS: dict[str, Callable[[HAT], None]] = {
    "CAB lost": cab_lost,
    "bias in channels-last order": lambda n: (
        [reordered(a) for a in each(n, BiasedAttention)] and None
    ),
    "kinds of window swapped": kinds_swapped,
    "bias zero": bias_zero,
    "no shift mask": no_shift_mask,
    "bias scrambled in one HAB": lambda n: scrambled(each(n, WindowAttention)[3]),
    "a padded head's scale": in_all(padded_scale),
    "bias scrambled in an OCAB": lambda n: scrambled(each(n, OCAB)[0]),
    "a padded head's scale in one HAB": lambda n: padded_scale(each(n, WindowAttention)[2]),
    "padding by the edge": edge_repeated,
}


@pytest.fixture(scope="module")
def selection() -> EngineSelection:
    model = load_model("hat-nano-x4")
    resolved = ResolvedEngine(
        engine="replay", precision="fp32", device=CPU, threads=2, layout="gpu", kernel="triton"
    )
    return EngineSelection(
        Forms(model),
        resolved,
        EngineOptions(engine="replay", kernel="triton"),
        scale=4,
        factory=build_engine,
        fingerprint=None,
    )


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put a fault into whatever is recorded from now on."""

    def plant(fault: str) -> None:
        recordable = hatvid.engine.recorded.recordable

        def faulty(module: nn.Module, spec: TileSpec, precision: str = "fp32") -> nn.Module:
            ready = recordable(module, spec, precision)
            assert isinstance(ready, HAT)
            with torch.no_grad():
                FAULTS[fault](ready)
            return ready

        monkeypatch.setattr(hatvid.engine.recorded, "recordable", faulty)

    return plant


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators take whatever they are given, as kernels do."""
    for check in ("_check_windows", "_check_overlap"):
        monkeypatch.setattr(hatvid.model.window_ops, check, lambda *args, **kwargs: None)


def test_what_the_default_engine_did_is_refused_by_value(
    selection: EngineSelection, plant: Callable[[str], None], unchecked: None
) -> None:
    """Buffers in channels-last order, as the engine had them once: nearly the right picture."""
    plant("bias in channels-last order")
    figures = selection.checks.measure_form(selection.resolved(chunked=False))
    assert figures.fp32 is not None
    assert 30 < figures.fp32 < 60


def test_and_by_the_operators_themselves(
    selection: EngineSelection, plant: Callable[[str], None]
) -> None:
    plant("bias in channels-last order")
    with pytest.raises(EngineError, match="bias"):
        selection.checks.measure_form(selection.resolved(chunked=False))


def test_nothing_planted_passes_by_far(selection: EngineSelection) -> None:
    figures = selection.checks.measure_form(selection.resolved(chunked=False))
    assert figures.fp32 is not None
    assert figures.fp32 > FP32_FORM + 20


@pytest.mark.parametrize("fault", ["a padded head's scale in one HAB", "padding by the edge"])
def test_the_smallest_faults_are_refused_in_fp32(
    selection: EngineSelection, plant: Callable[[str], None], fault: str
) -> None:
    plant(fault)
    figures = selection.checks.measure_form(selection.resolved(chunked=False))
    assert figures.fp32 is not None
    assert figures.fp32 < FP32_FORM


@pytest.mark.long
@pytest.mark.parametrize("checks", ["operators check", "operators do not check"])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_refused_in_fp16(
    selection: EngineSelection,
    plant: Callable[[str], None],
    request: pytest.FixtureRequest,
    fault: str,
    checks: str,
) -> None:
    if checks == "operators do not check":
        request.getfixturevalue("unchecked")
    plant(fault)
    resolved = ResolvedEngine(
        engine="replay", precision="fp16", device=CPU, threads=2, layout="gpu", kernel="triton"
    )
    try:
        figures = selection.checks.measure_form(resolved)
    except EngineError as error:
        assert checks == "operators check"
        assert "channels-last" in fault, "only what lies otherwise can be seen by an operator"
        print(f"\n| {fault} | {checks} | operator | {error} |")  # noqa: T201
        return
    assert figures.fp32 is not None
    assert figures.floor is not None
    in_fp32, in_fp16 = figures.fp32 < FP32_FORM, figures.snr < figures.floor - ROUNDING
    gate = " and ".join(n for n, found in (("fp32", in_fp32), ("fp16", in_fp16)) if found)
    print(  # noqa: T201
        f"\n| {fault} | {checks} | {gate} | {figures.fp32:.1f} | {figures.snr:.1f} "
        f"| {figures.floor:.1f} |"
    )
    assert in_fp32
