"""Which form of a network an engine is given, and what becomes of tiles out of range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hatvid.engine_selection
import hatvid.picture_checks
from hatvid.engine import Engine, ResolvedEngine, TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.model.attention import WindowAttention
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.whole import WholeFrame
from hatvid.options import EngineOptions
from hatvid.tile_runner import TileRunner

CPU = torch.device("cpu")
SPEC = TileSpec(batch=1, height=32, width=32, scale=2)


@pytest.fixture(scope="module")
def forms() -> Forms:
    config = HATConfig(
        embed_dim=60, depths=(2,), num_heads=(2,), squeeze_factor=10, num_feat=8, upscale=2
    )
    torch.manual_seed(0)
    return Forms(HAT(config).eval())


@pytest.fixture(autouse=True)
def quick_form_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given is looked at here, and not what it gives."""
    monkeypatch.setattr(hatvid.picture_checks, "FORM_SHAPE", (16, 16))


class Given:
    """Builds eager engines, and keeps the networks they were given."""

    def __init__(self) -> None:
        self.networks: list[nn.Module] = []

    def __call__(
        self, network: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        self.networks.append(network)
        return EagerEngine(network, spec, precision=resolved.precision)


def _network(
    forms: Forms,
    engine: Any,
    *,
    layout: Any = "gpu",
    kernel: Any = "default",
    precision: Any = "fp32",
    chunked: bool = False,
) -> nn.Module:
    """What the engine of a job is given."""
    given = Given()
    resolved = ResolvedEngine(
        engine=engine, precision=precision, device=CPU, threads=1, layout=layout, kernel=kernel
    )
    requested = EngineOptions(engine=engine, precision=precision, kernel=kernel)
    runner = TileRunner(forms, resolved, requested, scale=2, factory=given, fingerprint=None)
    runner.engine(SPEC, chunked=chunked)
    return given.networks[-1]


def _attention(network: nn.Module) -> set[str]:
    return {m.attention for m in network.modules() if isinstance(m, WindowAttention)}


def _is_channels_last(network: nn.Module) -> set[bool]:
    return {
        m.weight.is_contiguous(memory_format=torch.channels_last)
        for m in network.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1) and m.in_channels > 1
    }


@pytest.mark.parametrize(("kernel", "form"), [("efficient", "sdpa"), ("triton", "triton")])
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_the_kernel_is_that_of_the_engine(
    forms: Forms, kernel: str, form: str, chunked: bool
) -> None:
    network = _network(forms, "replay", kernel=kernel, chunked=chunked)
    assert _attention(network) == {form}
    assert isinstance(network, WholeFrame) is chunked


@pytest.mark.parametrize("engine", ["replay", "tensorrt", "eager"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_heads_are_padded_for_a_gpu(forms: Forms, engine: str, precision: str) -> None:
    network = _network(forms, engine, precision=precision)
    (qkv, *_) = [m.qkv for m in network.modules() if isinstance(m, WindowAttention)]
    assert qkv.out_features == 3 * 2 * 32
    assert qkv.weight.dtype == (torch.float16 if precision == "fp16" else torch.float32)
    assert _is_channels_last(network) == {engine != "tensorrt"}, "a compiler has its own order"


@pytest.mark.parametrize("engine", ["replay", "eager", "openvino"])
def test_a_cpu_gets_neither_padding_nor_another_order(forms: Forms, engine: str) -> None:
    network = _network(forms, engine, layout="cpu")
    (first, *_) = [m for m in network.modules() if isinstance(m, WindowAttention)]
    assert (first.proj.in_features, first.num_heads) == (60, 2)
    assert _is_channels_last(network) == {False}


BF16 = ResolvedEngine(
    engine="openvino",
    precision="bf16",
    tentative=True,
    device=CPU,
    threads=1,
    streams=2,
)


class Noisy(EagerEngine):
    """An engine that is off by as much as was said of its name and precision."""

    def __init__(self, network: nn.Module, resolved: ResolvedEngine, noise: float) -> None:
        super().__init__(network, SPEC, precision=resolved.precision)
        self.name = resolved.engine
        self.noise = noise

    def run(self, tiles: Tensor) -> Tensor:
        output = super().run(tiles)
        return output + self.noise * torch.linspace(-1, 1, output.numel()).view(output.shape)


@pytest.mark.parametrize(
    ("far", "measured", "taken"),
    [
        ((), "bf16", ("eager", "bf16")),
        # PyTorch in bf16 is the faster, and is not near enough.
        ((("eager", "bf16"),), "bf16", ("openvino", "bf16")),
        ((("openvino", "bf16"),), "fp32", ("eager", "fp32")),
        ((("eager", "bf16"), ("openvino", "bf16")), "fp32", ("eager", "fp32")),
    ],
)
def test_what_races_is_what_is_near_enough(
    forms: Forms,
    monkeypatch: pytest.MonkeyPatch,
    far: tuple[tuple[str, str], ...],
    measured: str,
    taken: tuple[str, str],
) -> None:
    raced: list[str] = []

    def quicker(resolved: ResolvedEngine, *_: Any, **told: Any) -> ResolvedEngine:
        raced.append(resolved.precision)
        return replace(resolved, engine="eager", precision=told["eager_precision"], streams=1)

    monkeypatch.setattr(hatvid.engine_selection, "faster_on_cpu", quicker)
    runner = TileRunner(
        forms,
        BF16,
        EngineOptions(),
        scale=2,
        factory=lambda network, spec, resolved, fingerprint: Noisy(
            network, resolved, 0.3 if (resolved.engine, resolved.precision) in far else 0.0
        ),
        fingerprint=None,
    )
    runner.warm_up(SPEC)
    assert raced == [measured]
    engine = runner.engine(SPEC)
    assert (engine.name, engine.precision) == taken
    resolved = runner.resolved(chunked=False)
    assert (resolved.engine, resolved.precision, resolved.tentative) == (*taken, False)
    assert runner.fidelity is not None
    assert runner.fidelity.sufficient


def test_a_tile_out_of_range_is_computed_in_chunks_in_fp32(
    forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second engine of the full size would not fit beside the first."""
    built: list[tuple[nn.Module, TileSpec, str, str]] = []

    class Blind(EagerEngine):
        def run(self, tiles: Tensor) -> Tensor:
            output = super().run(tiles).clone()
            bright = tiles.amax((1, 2, 3)) > 0.999
            output[bright] = torch.nan
            return output

    def factory(
        network: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        built.append((network, spec, resolved.engine, resolved.precision))
        exact = resolved.engine == "eager" and resolved.precision == "fp32"
        return (EagerEngine if exact else Blind)(network, spec, precision=resolved.precision)

    spec = replace(SPEC, batch=2)
    resolved = ResolvedEngine(
        engine="replay", precision="bf16", device=CPU, threads=1, layout="cpu"
    )
    requested = EngineOptions(engine="replay", precision="bf16")
    runner = TileRunner(forms, resolved, requested, scale=2, factory=factory, fingerprint=None)
    tiles = 0.9 * torch.rand(spec.input_shape)
    tiles[1, 0, 3, 4] = 1.0
    larger, again = runner.run(spec, tiles)
    assert again == [1]
    with torch.no_grad():
        expected = forms.published(tiles)
    assert torch.equal(larger[1], runner.run(spec, tiles.flip(0))[0][0]), "in whatever slot"
    torch.testing.assert_close(larger[1], expected[1], atol=1e-5, rtol=0)
    network, one, engine, precision = built[-1]
    assert isinstance(network, WholeFrame)
    assert (one.batch, engine, precision) == (1, "eager", "fp32")
