"""What every engine promises, of engine tensorrt: against the double, and on a GPU."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import Engine, TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.engine.fidelity import compare
from hatvid.engine.prepare import prepared
from hatvid.engine.tensorrt import TensorRTEngine
from hatvid.engine.tensorrt_graph import exported
from hatvid.errors import EngineError
from hatvid.model.calibration import calibration_picture
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.padded import pad_channels
from hatvid.model.precision import lower_precision, plan_rescale
from hatvid.model.tail import collapse_tail
from hatvid.tiling import TilePlan

DOUBLE = runpy.run_path(str(Path(__file__).with_name("tensorrt_double.py")))

GPU = (pytest.mark.needs_cuda, pytest.mark.needs_tensorrt)
LEAST_SNR = {"fp32": 100.0, "bf16": 35.0, "fp16": 50.0}

Build = Callable[..., TensorRTEngine]


@pytest.fixture(params=["double", pytest.param("gpu", marks=GPU)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if request.param == "gpu":
        return torch.device("cuda:0")
    DOUBLE["install"](monkeypatch)
    return torch.device("cpu")


@pytest.fixture
def there(spec: TileSpec, device: torch.device) -> TileSpec:
    return TileSpec(**vars(spec) | {"device": device})


@pytest.fixture
def batch(tiles: Tensor, device: torch.device) -> Tensor:
    return tiles.to(device)


@pytest.fixture
def build(there: TileSpec, net: nn.Module) -> Build:
    def make(
        module: nn.Module = net,
        spec: TileSpec = there,
        precision: str = "fp32",
        cache_dir: Path | None = None,
    ) -> TensorRTEngine:
        return TensorRTEngine(
            module,
            spec,
            precision=precision,  # type: ignore[arg-type]
            fingerprint="weights",
            cache_dir=cache_dir,
        )

    return make


def test_it_says_what_it_is(build: Build, there: TileSpec) -> None:
    engine = build()
    assert isinstance(engine, Engine)
    assert (engine.name, engine.precision, engine.spec) == ("tensorrt", "fp32", there)


def test_result_is_that_of_the_module(
    build: Build, net: nn.Module, there: TileSpec, batch: Tensor
) -> None:
    output = build().run(batch)
    assert tuple(output.shape) == there.output_shape
    assert (output.dtype, output.device.type) == (there.dtype, there.device.type)
    exact = EagerEngine(net, there).run(batch)
    assert compare(exact, output).snr >= LEAST_SNR["fp32"]


def test_frames_are_padded_to_whole_windows_before_they_reach_tensorrt(
    build: Build, device: torch.device
) -> None:
    """HAT of 1080 lines is 67.5 windows. The padding is the tile plan's: were it the
    network's own, the exported graph would gather rows and columns by an index."""
    torch.manual_seed(1)
    config = HATConfig(
        embed_dim=12, depths=(1,), num_heads=(2,), squeeze_factor=6, num_feat=8, upscale=2
    )
    network = HAT(config).eval().requires_grad_(False)
    for height, width, padded in ((1080, 1920, (1088, 1920)), (24, 40, (32, 48))):
        plan = TilePlan.make(height, width, tile=0, overlap=0)
        assert (plan.tile_height, plan.tile_width) == padded
        spec = TileSpec(
            batch=1, height=plan.tile_height, width=plan.tile_width, scale=2, device=device
        )
        prepared_network = prepared(network, spec)
        assert prepared_network.pad_rows is None
        assert prepared_network.pad_columns is None
    frame = torch.rand(1, 3, height, width, device=device)
    program = exported(prepared_network, plan.extract(frame))
    assert not {"pad_rows", "pad_columns"} & {*program.graph_signature.buffers}
    with torch.no_grad():
        alone = network.to(device)(frame)
    engine = build(network, spec)
    output = engine.run(plan.extract(frame))[..., : 2 * height, : 2 * width]
    assert compare(alone, output).snr >= LEAST_SNR["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_hat_keeps_its_precision(
    build: Build, device: torch.device, precision: str, tmp_path: Path
) -> None:
    """With the rewrites that the upscaler makes for a GPU; from disk the same again."""
    torch.manual_seed(1)
    config = HATConfig(embed_dim=30, depths=(2,), num_heads=(3,), num_feat=32, upscale=2)
    network = pad_channels(collapse_tail(HAT(config).eval()))
    low = network
    if precision != "fp32":
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        low = lower_precision(network, dtype, plan_rescale(network, calibration_picture()))
    spec = TileSpec(batch=2, height=32, width=48, scale=2, device=device)
    tiles = torch.rand(spec.input_shape, generator=torch.Generator().manual_seed(2)).to(device)
    engine = build(low, spec, precision, tmp_path / "cache")
    output = engine.run(tiles).clone()
    exact = EagerEngine(network, spec).run(tiles)
    assert compare(exact, output).snr >= LEAST_SNR[precision]
    engine.close()
    assert torch.equal(build(low, spec, precision, tmp_path / "cache").run(tiles), output)


def test_runs_repeat_bit_for_bit_in_one_buffer(build: Build, batch: Tensor) -> None:
    engine = build()
    output = engine.run(batch)
    first = output.clone()
    assert engine.run(1 - batch) is output
    assert not torch.equal(output, first)
    assert torch.equal(engine.run(batch), first)


def test_memory_layout_of_the_input_does_not_matter(build: Build, batch: Tensor) -> None:
    engine = build()
    expected = engine.run(batch).clone()
    before = batch.clone()
    for layout in (
        batch.transpose(2, 3).contiguous().transpose(2, 3),
        batch.contiguous(memory_format=torch.channels_last),
        # Its address is no multiple of 256.
        torch.cat((batch.flatten(), batch.new_zeros(1))).roll(1)[1:].view(batch.shape),
    ):
        assert torch.equal(engine.run(layout), expected)
    assert torch.equal(batch, before)


def test_in_inference_mode_and_out_of_it(build: Build, batch: Tensor) -> None:
    engine = build()
    expected = engine.run(batch).clone()
    with torch.inference_mode():
        assert torch.equal(engine.run(batch.clone()), expected)
    assert torch.equal(engine.run(batch.clone().requires_grad_()), expected)


def test_tiles_of_a_batch_do_not_mix(build: Build, batch: Tensor) -> None:
    engine = build()
    first = engine.run(batch).clone()
    torch.testing.assert_close(engine.run(batch.flip(0)).flip(0), first, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 3, 16, 32), (2, 3, 32, 16), (2, 1, 16, 32), (3, 16, 32)])
def test_another_shape_is_an_error(
    build: Build, device: torch.device, shape: tuple[int, ...]
) -> None:
    with pytest.raises(EngineError, match="build another"):
        build().run(torch.zeros(shape, device=device))


def test_another_dtype_is_an_error(build: Build, batch: Tensor) -> None:
    with pytest.raises(EngineError, match=r"float32.*float64"):
        build().run(batch.double())


def test_a_closed_engine_does_not_run(build: Build, batch: Tensor) -> None:
    engine = build()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(batch)


def test_a_module_of_another_scale_is_an_error(build: Build, there: TileSpec) -> None:
    with pytest.raises(EngineError, match="check that its scale is 3"):
        build(spec=TileSpec(**vars(there) | {"scale": 3}))


class _Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(7, 11)


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x + 1


class _Reading(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("module", "text"),
    [(_Failing(), r"network.*7, 11"), (_Pair(), r"made \(\)"), (_Reading(), "network")],
    ids=["shape", "two results", "branch on data"],
)
def test_a_module_that_cannot_be_built_is_one_line(
    build: Build, module: nn.Module, text: str
) -> None:
    with pytest.raises(EngineError, match=text) as caught:
        build(module)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_dropout_is_off_and_the_module_stays_in_training(
    build: Build, net: nn.Module, there: TileSpec, batch: Tensor
) -> None:
    module = nn.Sequential(nn.Dropout(0.5), net)
    module.train()
    output = build(module).run(batch)
    assert module.training
    assert module[0].training
    assert compare(EagerEngine(net, there).run(batch), output).snr >= LEAST_SNR["fp32"]


def test_parameters_of_another_dtype_are_an_error(build: Build) -> None:
    with pytest.raises(EngineError, match=r"module\.float\(\)"):
        build(nn.Conv2d(3, 12, 1).half())


@pytest.mark.needs_cuda
@pytest.mark.needs_tensorrt
def test_a_run_can_be_captured(net: nn.Module, spec: TileSpec, tiles: Tensor) -> None:
    device = torch.device("cuda:0")
    there = TileSpec(**vars(spec) | {"device": device})
    engine = TensorRTEngine(net, there, precision="fp32", fingerprint="weights", cache_dir=None)
    first, second = tiles.to(device), (1 - tiles).to(device)
    expected = [engine.run(batch).clone() for batch in (first, second)]
    static = first.clone()
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.graph(graph, stream=stream):
        output = engine.run(static)
    for batch, result in zip((second, first, second), [*expected[::-1], expected[1]], strict=True):
        static.copy_(batch)
        output.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize(device)
        assert torch.equal(output, result)


@pytest.mark.needs_cuda
@pytest.mark.needs_tensorrt
def test_an_operator_without_a_converter_is_named(spec: TileSpec) -> None:
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x).repeat_interleave(2, 2).repeat_interleave(2, 3)

    there = TileSpec(**vars(spec) | {"device": torch.device("cuda:0")})
    with pytest.raises(EngineError, match="bessel_j0") as caught:
        TensorRTEngine(Bessel(), there, precision="fp32", fingerprint="x", cache_dir=None)
    assert "\n" not in str(caught.value)
