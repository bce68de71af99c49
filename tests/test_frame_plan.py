"""What is decided for a frame size, and that whole frames in chunks are the network itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import hatvid.engine
import hatvid.frame_plan
from hatvid.engine import TileSpec
from hatvid.engine.fidelity import compare
from hatvid.engine.memory import MEMORY_SHARE
from hatvid.errors import OptionError
from hatvid.frame_memory import network_bytes, pieces_by_size, recorded_frame_bytes
from hatvid.frame_plan import FramePlanner
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.precision import RescalePlan
from hatvid.model.ranges import Ranges
from hatvid.model.whole import WholeFrame
from hatvid.options import EngineName, EngineOptions, Precision, TileOptions
from hatvid.tiling import TilePlan
from hatvid.upscaler import MendedTile, Upscaler

SIZE = (50, 75)


@pytest.fixture(scope="module")
def model() -> HAT:
    """Two groups of two blocks, weights redrawn."""
    config = HATConfig(
        embed_dim=12,
        depths=(2, 2),
        num_heads=(2, 2),
        compress_ratio=3,
        squeeze_factor=6,
        num_feat=8,
        upscale=2,
    )
    generator = torch.Generator().manual_seed(3)
    built = HAT(config).eval().requires_grad_(False)
    for parameter in built.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    built.conv_last.weight *= 0.1  # what comes out is to look like a picture to the sentinel
    return built


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return torch.rand((2, 3, *SIZE), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU with OpenVINO and plenty of memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hatvid.engine, "_openvino_runs", lambda: True)
    monkeypatch.setattr(hatvid.engine, "_native_bf16", lambda: True)
    monkeypatch.setattr(hatvid.frame_plan, "available_memory", lambda device: 10**12)
    return monkeypatch


def upscaler(
    model: HAT,
    tile: int | None,
    engine: EngineName = "auto",
    precision: Precision = "auto",
) -> Upscaler:
    return Upscaler(
        model,
        scale=2,
        engine_options=EngineOptions(engine=engine, precision=precision, threads=1),
        tile_options=TileOptions(tile="auto" if tile is None else tile, overlap=16),
    )


def test_pytorch_runs_whole_frames_in_chunks(model: HAT, cpu: pytest.MonkeyPatch) -> None:
    for tile in (None, 0):
        facts = upscaler(model, tile, "eager").describe(*SIZE)
        assert (facts.chunked, facts.tiles, facts.engine) == (True, 1, "eager")
    assert not upscaler(model, 32, "eager").describe(*SIZE).chunked


def test_auto_takes_tiles_where_not_even_chunks_fit(model: HAT, cpu: pytest.MonkeyPatch) -> None:
    cpu.setattr(hatvid.frame_plan, "available_memory", lambda device: 10**6)
    facts = upscaler(model, None, "eager").describe(500, 500)
    assert not facts.chunked
    assert facts.tiles > 1


def test_a_whole_frame_that_fits_stays_with_the_fast_engine(
    model: HAT, cpu: pytest.MonkeyPatch
) -> None:
    facts = upscaler(model, 0).describe(*SIZE)
    assert (facts.chunked, facts.engine, facts.tiles) == (False, "openvino", 1)


def _around(pixels: int, streams: int = 1) -> int:
    return recorded_frame_bytes(pixels, 2, streams)


def _planner(model: HAT, engine: str, streams: int = 1, **options: Any) -> FramePlanner:
    return FramePlanner(
        Forms(model),
        scale=2,
        engine=engine,
        fixed=True,
        options=TileOptions(**options),
        device=torch.device("cpu"),
        streams=streams,
    )


@pytest.mark.parametrize("engine", ["replay", "cudagraph"])
@pytest.mark.parametrize("tile", [0, "auto"])
def test_a_recorded_whole_frame_is_run_at_once_where_it_fits(
    model: HAT, engine: str, tile: int | str, cpu: pytest.MonkeyPatch
) -> None:
    plan = _planner(model, engine, tile=tile).plan(300, 400)
    assert (plan.tiles.count, plan.chunked) == (1, False)
    spec = plan.spec(2, torch.device("cpu"))
    at_once = network_bytes(Forms(model).form(), spec, on_gpu=False)
    memory = at_once / MEMORY_SHARE + _around(300 * 400)
    for free, chunked in ((memory + 9, False), (memory - 9, True)):
        cpu.setattr(hatvid.frame_plan, "available_memory", lambda device, free=free: free)
        plan = _planner(model, engine, tile=tile).plan(300, 400)
        assert (plan.tiles.count, plan.chunked) == (1, chunked)


def test_a_recorded_whole_frame_is_run_in_the_largest_chunks_that_fit(
    model: HAT, cpu: pytest.MonkeyPatch
) -> None:
    forms = Forms(model)
    spec = TileSpec(batch=1, height=304, width=400, scale=2)
    cuts = list(pieces_by_size(spec, 16))
    needed = [
        network_bytes(WholeFrame(model, chunk=cut.chunk, strip=cut.strip), spec, on_gpu=False)
        for cut in cuts
    ]
    assert needed == sorted(needed, reverse=True)
    assert len(set(needed)) > 2
    for bytes_ in needed:
        cut = cuts[needed.index(bytes_)]  # the largest of those that take as much
        planner = FramePlanner(
            forms,
            scale=2,
            engine="cudagraph",
            fixed=True,
            options=TileOptions(chunked=True),
            device=torch.device("cpu"),
            runs=lambda chunked: WholeFrame(model, pieces=forms.pieces),
        )
        memory = bytes_ / MEMORY_SHARE + _around(300 * 400)
        cpu.setattr(hatvid.frame_plan, "available_memory", lambda device, free=memory: free + 9)
        assert planner.plan(300, 400).chunked
        whole = forms.form(chunked=True)
        assert isinstance(whole, WholeFrame)
        assert whole.prepare(304, 400).pieces_for(304, 400) == cut
        assert (whole.chunk, whole.strip) == cut


def test_what_stands_around_the_network_and_each_stream_take_memory(
    model: HAT, cpu: pytest.MonkeyPatch
) -> None:
    spec = TileSpec(batch=1, height=304, width=400, scale=2)
    at_once = network_bytes(Forms(model).form(), spec, on_gpu=False)
    for streams in (1, 3):
        memory = streams * at_once / MEMORY_SHARE + _around(300 * 400, streams)
        for free, chunked in ((memory + 9, False), (memory - 9, True)):
            cpu.setattr(hatvid.frame_plan, "available_memory", lambda device, free=free: free)
            assert _planner(model, "cudagraph", streams).plan(300, 400).chunked is chunked


GB_24 = 24 * 10**9


def test_hat_at_720p_fits_a_gpu_of_24_gb_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the form that runs: 16 bits, padded, attention in one kernel, of either kind."""
    monkeypatch.setattr(hatvid.frame_plan, "available_memory", lambda device: GB_24)
    forms = Forms(HAT(HATConfig.hat()).eval().requires_grad_(False))
    # What numbers it divides by does not matter, and finding them takes long.
    depths = HATConfig.hat().depths
    forms._plan = RescalePlan(
        s=(1.0,) * len(depths),
        t=tuple((1.0,) * depth for depth in depths),
        subnormal=0.0,
        residual_fp32=False,
        ranges=Ranges(shallow=0.0, groups=(), body=0.0, tail=0.0),
    )
    for fused in (False, True):
        planner = FramePlanner(
            forms,
            scale=4,
            engine="cudagraph",
            fixed=False,
            options=TileOptions(),
            device=torch.device("cuda", 0),
            runs=lambda chunked, fused=fused: forms.form(  # type: ignore[misc]
                "fp16", chunked=chunked, padded=True, fused=fused
            ),
        )
        plan = planner.plan(720, 1280)
        assert (plan.tiles.count, plan.chunked) == (1, False)


@pytest.mark.usefixtures("cpu")
def test_small_tiles_are_put_together_until_a_gpu_is_full(model: HAT) -> None:
    assert _planner(model, "cudagraph", tile=64).plan(300, 400).batch == 32
    assert _planner(model, "tensorrt").plan(180, 320).batch == 2
    assert _planner(model, "cudagraph").plan(720, 1280).batch == 1
    assert _planner(model, "cudagraph", tile=64, batch=5).plan(300, 400).batch == 5
    assert _planner(model, "replay", tile=64).plan(300, 400).batch == 1, "a CPU is full at once"


def test_as_many_tiles_as_a_cpu_computes_side_by_side(model: HAT, cpu: pytest.MonkeyPatch) -> None:
    assert _planner(model, "openvino").plan(180, 320).batch == 1
    assert _planner(model, "openvino", 2).plan(180, 320).batch == 2
    assert _planner(model, "openvino", 2, tile=64).plan(180, 320).batch == 2
    assert _planner(model, "openvino", 2, batch=3).plan(180, 320).batch == 3
    # Memory for one whole frame and a half: that is no reason to cut it into tiles.
    planner = _planner(model, "openvino", 2)
    cost = planner._cost()[1] * 192 * 320 / MEMORY_SHARE
    result = 2 * 180 * 320 * 3 * 4 * 4
    cpu.setattr(hatvid.frame_plan, "available_memory", lambda device: 1.5 * cost + result)
    plan = planner.plan(180, 320)
    assert (plan.tiles.count, plan.batch) == (1, 1)


def test_but_only_as_many_as_there_is_memory_for(model: HAT, cpu: pytest.MonkeyPatch) -> None:
    planner = _planner(model, "cudagraph", tile=64)
    fixed, each = planner._cost()
    needed = fixed + each * 64 * 64 * 7.5
    memory = needed / MEMORY_SHARE + _around(300 * 400)
    cpu.setattr(hatvid.frame_plan, "available_memory", lambda device: memory)
    assert planner.plan(300, 400).batch == 7
    assert planner.shrink(300, 400) is False
    large = _planner(model, "cudagraph", tile=128)
    assert large.plan(300, 400).batch == 2
    assert large.shrink(300, 400)
    assert large.plan(300, 400).batch == 1, "smaller tiles are to take less memory, not the same"


@pytest.mark.parametrize(
    ("asked", "precision"), [("auto", "fp32"), ("fp32", "fp32"), ("bf16", "bf16")]
)
def test_one_that_does_not_fit_goes_to_pytorch_in_chunks(
    model: HAT, cpu: pytest.MonkeyPatch, asked: Precision, precision: str
) -> None:
    cpu.setattr(hatvid.frame_plan, "available_memory", lambda device: 10**6)
    facts = upscaler(model, 0, precision=asked).describe(*SIZE)
    assert (facts.chunked, facts.engine, facts.precision) == (True, "eager", precision)
    with pytest.raises(OptionError, match="engine eager runs it in chunks"):
        upscaler(model, 0, "openvino").describe(*SIZE)


def test_whole_frames_in_chunks_are_the_network_itself(model: HAT, frames: Tensor) -> None:
    expected = model(frames)
    result = upscaler(model, 0, "eager")(frames)
    torch.testing.assert_close(result, expected, atol=2e-5 * float(expected.std()), rtol=0)


@pytest.mark.parametrize(("precision", "least"), [("fp16", 50.0), ("bf16", 30.0)])
@pytest.mark.parametrize("tile", [0, 32])
def test_low_precisions_of_pytorch(
    model: HAT, frames: Tensor, precision: Precision, least: float, tile: int
) -> None:
    exact = upscaler(model, tile, "eager", "fp32")(frames)
    up = upscaler(model, tile, "eager", precision)
    mended: list[MendedTile] = []
    result = up(frames, mended=mended.append)
    assert mended == []
    assert up.describe(*SIZE).precision == precision
    snr = compare(exact, result).snr
    assert least < snr < 90, snr


def test_a_window_of_another_size_is_padded_as_published(frames: Tensor) -> None:
    generator = torch.Generator().manual_seed(4)
    config = HATConfig(
        embed_dim=8,
        depths=(2,),
        num_heads=(2,),
        window_size=8,
        squeeze_factor=4,
        num_feat=4,
        upscale=2,
    )
    built = HAT(config).eval().requires_grad_(False)
    for parameter in built.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    expected = built(frames)  # 50x75 becomes 56x80, not 64x80
    for engine in ("eager", "openvino"):
        result = upscaler(built, 0, engine, "fp32")(frames)
        scale = float(expected.std())
        torch.testing.assert_close(result, expected, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize(
    ("tile", "overlap"), [(16, 0), (32, 16), (48, 24), (64, 32), (96, 48), (128, 48), (0, 48)]
)
def test_auto_overlap_suits_the_tile(tile: int, overlap: int) -> None:
    assert TileOptions(tile=tile).overlap_for(tile) == overlap
    assert TileOptions(tile=tile, overlap=8).overlap_for(tile) == 8
    # Such tiles can be laid, whatever the frame.
    TilePlan.make(300, 500, tile=tile, overlap=overlap)


def test_a_tile_that_overflows_inside_is_mended(model: HAT, frames: Tensor) -> None:
    """Not an injected NaN: what is too bright by far leaves fp16's range behind the body."""
    frames = frames.clone()
    frames[1, :, 40:, 60:] *= 1e6
    exact = upscaler(model, 48, "eager", "fp32")(frames)
    up = upscaler(model, 48, "eager", "fp16")
    mended: list[MendedTile] = []
    result = up(frames, mended=mended.append)
    assert bool(result.isfinite().all())
    # 50x75 is padded to 64x80 by reflection: tiles at rows 0 and 16, columns 0 and 32.
    assert {(tile.frame, tile.top, tile.left) for tile in mended} == {(1, 0, 32), (1, 16, 32)}
    scale = float(exact[1].abs().max())
    assert float((result[1] - exact[1]).abs().max()) < 1e-5 * scale
    assert compare(exact[:1], result[:1]).snr > 50
