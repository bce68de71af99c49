"""Which form of a network a GPU is given; no GPU is needed to see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hatvid.engine.calibration
import hatvid.tile_runner
from hatvid.engine import ResolvedEngine, TileSpec
from hatvid.model.attention import BiasedAttention, WindowAttention
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.whole import WholeFrame
from hatvid.tile_runner import TileRunner

GPU = torch.device("cuda:0")
SPEC = TileSpec(batch=1, height=32, width=32, scale=2, device=GPU)


class Given:
    """An engine that keeps the network it was given."""

    name, precision, spec = "given", "fp16", SPEC

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def run(self, tiles: Tensor) -> Tensor:
        raise AssertionError("nothing can be run here")

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def forms() -> Forms:
    config = HATConfig(
        embed_dim=60, depths=(2,), num_heads=(2,), squeeze_factor=10, num_feat=8, upscale=2
    )
    torch.manual_seed(0)
    return Forms(HAT(config).eval())


class Measured:
    """In place of a measurement: the named one wins."""

    def __init__(self, winner: str) -> None:
        self.winner = winner
        self.identities: list[Mapping[str, str]] = []
        self.kinds: dict[str, str] = {}

    def __call__(
        self,
        candidates: Mapping[str, Callable[[], Any]],
        tiles: Tensor,
        *,
        identity: Mapping[str, str],
        cache: object,
    ) -> str:
        self.identities.append(identity)
        for name, build in candidates.items():
            self.kinds[name] = _attention(build().network)
        return self.winner


def _attention(network: nn.Module) -> str:
    (form,) = {m.attention for m in network.modules() if isinstance(m, BiasedAttention)}
    return form


def _runner(
    forms: Forms, engine: str, precision: str, patch: pytest.MonkeyPatch, measured: Measured
) -> TileRunner:
    patch.setattr(hatvid.engine.calibration, "fastest", measured)
    patch.setattr(hatvid.engine.calibration, "probe", lambda spec: torch.empty(0))
    patch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    resolved = ResolvedEngine(engine=engine, precision=precision, device=GPU, threads=1)  # type: ignore[arg-type]
    return TileRunner(
        forms,
        resolved,
        asked=precision,  # type: ignore[arg-type]
        factory=lambda network, spec, resolved, fingerprint: Given(network),
        fingerprint=None,
    )


def _network(runner: TileRunner, *, chunked: bool = False) -> nn.Module:
    engine = runner.engine(SPEC, chunked=chunked)
    assert isinstance(engine, Given)
    return engine.network


@pytest.mark.parametrize("winner", ["sdpa", "triton"])
def test_attention_is_chosen_by_measurement(
    forms: Forms, monkeypatch: pytest.MonkeyPatch, winner: str
) -> None:
    measured = Measured(winner)
    network = _network(_runner(forms, "cudagraph", "fp16", monkeypatch, measured))
    assert _attention(network) == winner
    assert measured.kinds == {"sdpa": "sdpa", "triton": "triton"}
    (identity,) = measured.identities
    assert identity["gpu"] == "GPU of cuda:0"
    assert identity["precision"] == "fp16"
    assert identity["shape"] == "(1, 3, 32, 32)"
    assert "embed_dim=60" in identity["network"]


@pytest.mark.parametrize("engine", ["cudagraph", "tensorrt", "eager"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_heads_are_padded_on_a_gpu(
    forms: Forms, monkeypatch: pytest.MonkeyPatch, engine: str, precision: str
) -> None:
    measured = Measured("sdpa")
    network = _network(_runner(forms, engine, precision, monkeypatch, measured))
    (qkv, *_) = [m.qkv for m in network.modules() if isinstance(m, WindowAttention)]
    assert qkv.out_features == 3 * 2 * 32
    assert qkv.weight.dtype == (torch.float16 if precision == "fp16" else torch.float32)
    assert bool(measured.identities) == (engine == "cudagraph"), "others know no Triton"


def test_chunks_are_not_fused(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured("triton")
    network = _network(_runner(forms, "cudagraph", "fp16", monkeypatch, measured), chunked=True)
    assert isinstance(network, WholeFrame)
    assert _attention(network) == "sdpa"
    assert measured.identities == []


CPU_SPEC = TileSpec(batch=1, height=32, width=32, scale=1, device=torch.device("cpu"))
BF16 = ResolvedEngine(
    engine="openvino",
    precision="bf16",
    tentative=True,
    device=torch.device("cpu"),
    threads=1,
    streams=2,
)


class Noisy:
    """An engine that is off by as much as was said of its name and precision."""

    def __init__(self, resolved: ResolvedEngine, noise: float) -> None:
        self.name, self.precision, self.spec = resolved.engine, resolved.precision, CPU_SPEC
        self.noise = noise

    def run(self, tiles: Tensor) -> Tensor:
        return tiles + self.noise * torch.linspace(-1, 1, tiles.numel()).view(tiles.shape)

    def close(self) -> None:
        pass


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

    monkeypatch.setattr(hatvid.tile_runner, "faster_on_cpu", quicker)
    runner = TileRunner(
        forms,
        BF16,
        asked="auto",
        factory=lambda network, spec, resolved, fingerprint: Noisy(
            resolved, 0.3 if (resolved.engine, resolved.precision) in far else 0.0
        ),
        fingerprint=None,
        free=True,
    )
    tiles = torch.rand(CPU_SPEC.input_shape)
    runner.warm_up(CPU_SPEC, tiles)
    assert raced == [measured]
    engine = runner.engine(CPU_SPEC)
    assert (engine.name, engine.precision) == taken
    resolved = runner.resolved(chunked=False)
    assert (resolved.engine, resolved.precision, resolved.tentative) == (*taken, False)
    assert runner.fidelity is not None
    assert runner.fidelity.sufficient == (taken[1] == "bf16")
