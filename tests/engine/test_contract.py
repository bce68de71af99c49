"""What every engine promises, against every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import Engine, ResolvedEngine, TileSpec, build_engine
from hatvid.engine.fidelity import compare
from hatvid.engine.openvino import native_bf16
from hatvid.errors import EngineError

Build = Callable[[nn.Module, TileSpec], Engine]

# Least SNR in dB against the plain module; the eager engine must be it.
ENGINES = {
    ("eager", "fp32"): float("inf"),
    ("replay", "fp32"): float("inf"),
    ("openvino", "fp32"): 120.0,
}
if native_bf16():  # elsewhere OpenVINO does not compute in it, and the engine says so
    ENGINES["openvino", "bf16"] = 35.0


@pytest.fixture(scope="module", params=list(ENGINES), ids="-".join)
def resolved(request: pytest.FixtureRequest) -> ResolvedEngine:
    engine, precision = request.param
    return ResolvedEngine(engine=engine, precision=precision, device=torch.device("cpu"), threads=1)


@pytest.fixture(scope="module")
def engine(resolved: ResolvedEngine, net: nn.Module, spec: TileSpec) -> Iterator[Engine]:
    built = build_engine(net, spec, resolved)
    yield built
    built.close()


def test_it_says_what_it_is(engine: Engine, resolved: ResolvedEngine, spec: TileSpec) -> None:
    assert isinstance(engine, Engine)
    assert (engine.name, engine.precision) == (resolved.engine, resolved.precision)
    assert engine.spec == spec


def test_result_is_that_of_the_module(
    engine: Engine, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    output = engine.run(tiles)
    assert tuple(output.shape) == spec.output_shape
    assert output.dtype == spec.dtype
    with torch.no_grad():
        fidelity = compare(net(tiles), output)
    assert fidelity.snr >= ENGINES[engine.name, engine.precision]
    if engine.precision == "bf16":
        assert fidelity.snr < 80, "this is not bf16"


def test_runs_repeat_bit_for_bit(engine: Engine, tiles: Tensor) -> None:
    first = engine.run(tiles).clone()
    engine.run(1 - tiles)
    assert torch.equal(engine.run(tiles), first)


def test_memory_layout_of_the_input_does_not_matter(engine: Engine, tiles: Tensor) -> None:
    expected = engine.run(tiles).clone()
    strided = tiles.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    assert torch.equal(engine.run(strided), expected)
    torch.testing.assert_close(
        engine.run(tiles.contiguous(memory_format=torch.channels_last)), expected
    )


def test_input_is_not_written_to(engine: Engine, tiles: Tensor) -> None:
    before = tiles.clone()
    engine.run(tiles)
    assert torch.equal(tiles, before)


def test_tiles_of_a_batch_do_not_mix(engine: Engine, tiles: Tensor) -> None:
    first = engine.run(tiles).clone()
    assert torch.equal(engine.run(tiles.flip(0)).flip(0), first)


@pytest.mark.parametrize("shape", [(1, 3, 16, 32), (2, 3, 32, 16), (2, 1, 16, 32), (3, 16, 32)])
def test_another_shape_is_an_error(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="build another"):
        engine.run(torch.zeros(shape))


def test_another_dtype_is_an_error(engine: Engine, tiles: Tensor) -> None:
    with pytest.raises(EngineError, match=r"float32.*float64"):
        engine.run(tiles.double())


def test_a_closed_engine_does_not_run(
    resolved: ResolvedEngine, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    engine = build_engine(net, spec, resolved)
    engine.run(tiles)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(tiles)


def test_a_module_of_another_scale_is_an_error(
    resolved: ResolvedEngine, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    wrong = TileSpec(batch=spec.batch, height=spec.height, width=spec.width, scale=3)
    with pytest.raises(EngineError, match="check that its scale is 3"):
        build_engine(net, wrong, resolved).run(tiles)


class _Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(7, 11)


def test_a_failing_module_is_one_line(
    resolved: ResolvedEngine, spec: TileSpec, tiles: Tensor
) -> None:
    with pytest.raises(EngineError, match=r"network.*7, 11") as caught:
        build_engine(_Failing(), spec, resolved).run(tiles)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_dropout_is_off_and_the_module_stays_in_training(
    resolved: ResolvedEngine, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    module = nn.Sequential(nn.Dropout(0.5), net)
    module.train()
    output = build_engine(module, spec, resolved).run(tiles)
    assert module.training
    assert module[0].training
    module.eval()
    with torch.no_grad():
        assert compare(module(tiles), output).snr > 30


class _Shaped(nn.Module):
    """Adds a map that it builds for one shape, as HAT builds its masks."""

    ramp: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def prepare(self, height: int, width: int) -> None:
        ramp = torch.linspace(0, 1, height * width).reshape(1, 1, height, width)
        self.register_buffer("ramp", ramp, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x + self.ramp)
        return result


def test_engines_of_two_shapes_share_one_module(
    resolved: ResolvedEngine, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    module = _Shaped(net)
    turned = TileSpec(batch=2, height=spec.width, width=spec.height, scale=spec.scale)
    one, other = build_engine(module, spec, resolved), build_engine(module, turned, resolved)
    assert not hasattr(module, "ramp")
    for engine, batch in ((one, tiles), (other, tiles.transpose(2, 3)), (one, tiles)):
        shape = engine.spec.height, engine.spec.width
        ramp = torch.linspace(0, 1, shape[0] * shape[1]).reshape(shape)
        with torch.no_grad():
            assert compare(net(batch + ramp), engine.run(batch)).snr > 30
