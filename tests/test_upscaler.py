from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import hatvid.frame_plan
import hatvid.upscaler
from hatvid.engine import Engine, ResolvedEngine, TileSpec
from hatvid.engine.checks import continued
from hatvid.engine.eager import EagerEngine
from hatvid.errors import EngineError, OptionError
from hatvid.model.calibration import calibration_picture
from hatvid.options import EngineOptions, TileOptions
from hatvid.upscaler import MendedTile, Upscaler

EAGER = EngineOptions(engine="eager", threads=1)
SCALE = 3


class Nearest(nn.Module):
    """Every pixel becomes a square: what any way of tiling must give back."""

    def forward(self, x: Tensor) -> Tensor:
        return nearest(x)


def nearest(x: Tensor) -> Tensor:
    return x.repeat_interleave(SCALE, -1).repeat_interleave(SCALE, -2)


class Pooled(nn.Module):
    """Depends on the whole tile, as HAT's channel attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3 * SCALE**2, 5, padding=2)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 2 * x.mean((2, 3), keepdim=True).tanh()
        return nn.functional.pixel_shuffle(self.conv(x), SCALE)


class Recorder:
    """Builds eager engines whatever was asked for, and keeps account of them."""

    def __init__(self) -> None:
        self.built: list[tuple[TileSpec, str]] = []
        self.batches: list[Tensor] = []
        self.closed = 0

    def __call__(
        self,
        module: nn.Module,
        spec: TileSpec,
        resolved: ResolvedEngine,
        fingerprint: str | None,
    ) -> Engine:
        assert not resolved.tentative
        self.built.append((spec, resolved.precision))
        return _Recorded(module, spec, resolved.precision, self)


class _Recorded(EagerEngine):
    def __init__(
        self, module: nn.Module, spec: TileSpec, precision: str, recorder: Recorder
    ) -> None:
        super().__init__(module, spec)
        self.precision = precision
        self._recorder = recorder

    def run(self, tiles: Tensor) -> Tensor:
        self._recorder.batches.append(tiles.clone())
        return super().run(tiles)

    def close(self) -> None:
        self._recorder.closed += 1
        super().close()


@pytest.fixture
def frames() -> Tensor:
    return torch.rand((3, 3, 50, 75), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.mark.parametrize("tile", [0, 32, 48])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_nearest_pixels_bit_for_bit(frames: Tensor, tile: int, batch: int) -> None:
    options = TileOptions(tile=tile, overlap=8, batch=batch)
    up = Upscaler(Nearest(), scale=SCALE, engine_options=EAGER, tile_options=options)
    assert torch.equal(up(frames), nearest(frames))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_frame_does_not_depend_on_those_that_come_with_it(frames: Tensor, batch: int) -> None:
    options = TileOptions(tile=32, overlap=8, batch=batch)
    up = Upscaler(Pooled(), scale=SCALE, engine_options=EAGER, tile_options=options)
    together = up(frames)
    assert float(together.std()) > 0.1
    for number in range(len(frames)):
        assert torch.equal(up(frames[number : number + 1])[0], together[number])


def test_the_whole_frame_is_the_padded_module_cropped(frames: Tensor) -> None:
    module = Pooled()
    up = Upscaler(
        module, scale=SCALE, engine_options=EAGER, tile_options=TileOptions(tile=0, batch=3)
    )
    padded = nn.functional.pad(frames, (0, 5, 0, 14), "reflect")
    with torch.no_grad():
        expected = module(padded)[..., : 50 * SCALE, : 75 * SCALE]
    assert torch.equal(up(frames), expected)


def test_every_call_has_one_shape_and_tiles_of_several_frames_share_it(
    frames: Tensor, recorder: Recorder
) -> None:
    options = TileOptions(tile=48, overlap=8, batch=5)
    up = Upscaler(
        Nearest(),
        scale=SCALE,
        engine_options=EAGER,
        tile_options=options,
        engine_factory=recorder,
    )
    up(frames)
    # 50x75 is padded to 64x80, and 2x2 tiles of 48x48 cover that; 3 frames, 12 tiles.
    assert up.describe(50, 75).tiles == 4
    assert [tuple(batch.shape) for batch in recorder.batches] == [(5, 3, 48, 48)] * 3
    last = recorder.batches[-1]
    for slot in range(2, 5):
        assert torch.equal(last[slot], last[1])


def test_engines_of_alternating_sizes_are_kept_and_old_ones_closed(recorder: Recorder) -> None:
    up = Upscaler(
        Nearest(),
        scale=SCALE,
        engine_options=EAGER,
        tile_options=TileOptions(tile=0),
        engine_factory=recorder,
    )
    for side in (32, 16, 32, 16, 20):
        up(torch.rand(1, 3, side, 16))
    assert len(recorder.built) == 2  # 20 is padded to 32
    up(torch.rand(1, 3, 64, 16))
    assert (len(recorder.built), recorder.closed) == (3, 1)
    up(torch.rand(1, 3, 32, 16))
    assert len(recorder.built) == 3, "the size used last should have been kept"
    up.close()
    assert recorder.closed == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_and_any_layout(frames: Tensor, dtype: torch.dtype) -> None:
    up = Upscaler(Nearest(), scale=SCALE, engine_options=EAGER)
    given = frames.to(dtype)
    result = up(given.transpose(2, 3).contiguous().transpose(2, 3))
    assert result.dtype == torch.float32
    assert torch.equal(result, nearest(given.float()))


def test_results_are_ordinary_tensors_and_not_clamped() -> None:
    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nearest(x) * 3 - 1

    up = Upscaler(Bright(), scale=SCALE, engine_options=EAGER)
    frames = torch.rand(1, 3, 20, 20, requires_grad=True)
    result = up(frames)
    assert not result.requires_grad
    assert float(result.min()) < 0
    assert float(result.max()) > 1
    result.clamp_(0, 1)


def test_no_frames_make_no_frames() -> None:
    up = Upscaler(Nearest(), scale=SCALE, engine_options=EAGER)
    assert up(torch.rand(0, 3, 20, 30)).shape == (0, 3, 60, 90)


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"float\(\) / 255"),
        (torch.zeros(3, 8, 8), r"\(1, 3, H, W\)"),
        (torch.zeros(1, 4, 8, 8), "RGB"),
        (torch.zeros(1, 3, 0, 8), "8x0"),
        ([[0.0]], "torch tensor"),
    ],
)
def test_what_are_no_frames(frames: Tensor, text: str) -> None:
    up = Upscaler(Nearest(), scale=SCALE, engine_options=EAGER)
    with pytest.raises(OptionError, match=text):
        up(frames)


def test_a_wrong_scale_is_told(frames: Tensor) -> None:
    up = Upscaler(Nearest(), scale=2, engine_options=EAGER)
    with pytest.raises(EngineError, match="check that its scale is 2"):
        up(frames)
    with pytest.raises(OptionError, match="at least 1"):
        Upscaler(Nearest(), scale=0)


def test_a_closed_upscaler_does_not_run(frames: Tensor) -> None:
    with Upscaler(Nearest(), scale=SCALE, engine_options=EAGER) as up:
        up(frames)
    with pytest.raises(EngineError, match="closed"):
        up(frames)


def test_calls_from_threads_run_one_after_another(frames: Tensor) -> None:
    inside = threading.Lock()
    collision = threading.Event()

    class Alone(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not inside.acquire(blocking=False):
                collision.set()
                return nearest(x)
            # Long enough for the others to come in, if nothing keeps them out.
            collision.wait(0.02)
            inside.release()
            return nearest(x)

        def __deepcopy__(self, memo: object) -> Alone:
            return self

    options = TileOptions(tile=0)
    up = Upscaler(Alone(), scale=SCALE, engine_options=EAGER, tile_options=options)
    results: list[Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(up(frames))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert not collision.is_set()
    assert all(torch.equal(result, nearest(frames)) for result in results)


def test_auto_tile_follows_free_memory_and_then_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10**12]
    monkeypatch.setattr(hatvid.frame_plan, "available_memory", lambda device: free[0])

    def make() -> Upscaler:
        return Upscaler(Pooled(), scale=SCALE, engine_options=EAGER)

    rich = make()
    assert rich.describe(500, 500).tiles == 1
    free[0] = 0
    assert rich.describe(500, 500).tiles == 1, "one size must be cut alike all the time"
    poor = make()
    assert (poor.describe(500, 500).tile_height, poor.describe(500, 500).batch) == (64, 1)


# ---- the precision that is kept ---------------------------------------------------------


class Rounding(nn.Module):
    """Differs from one precision to the other by a known amount."""

    def __init__(self) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        sign = torch.arange(x.shape[-1]) % 2 * 2 - 1
        return nearest(x + self.error * sign)


class RoundingFactory(Recorder):
    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def __call__(
        self,
        module: nn.Module,
        spec: TileSpec,
        resolved: ResolvedEngine,
        fingerprint: str | None,
    ) -> Engine:
        rounding = Rounding()
        with torch.no_grad():
            rounding.error.fill_(self.error if resolved.precision == "bf16" else 0)
        return super().__call__(rounding, spec, resolved, fingerprint)


@pytest.fixture
def tentative(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = ResolvedEngine(
        engine="openvino",
        precision="bf16",
        tentative=True,
        device=torch.device("cpu"),
        threads=1,
    )
    monkeypatch.setattr(hatvid.upscaler, "resolve_engine", lambda options: resolved)


@pytest.mark.usefixtures("tentative")
@pytest.mark.parametrize(("error", "precision"), [(0.001, "bf16"), (0.006, "fp32")])
def test_bf16_is_kept_only_where_it_is_near(
    frames: Tensor, error: float, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    factory = RoundingFactory(error)
    options = TileOptions(tile=32, overlap=8)
    up = Upscaler(Nearest(), scale=SCALE, tile_options=options, engine_factory=factory)
    assert up.describe(50, 75).precision == "auto"
    with caplog.at_level(logging.INFO, logger="hatvid"):
        result = up(frames)
    description = up.describe(50, 75)
    assert description.precision == precision
    assert description.fidelity is not None
    kept = precision == "bf16"
    assert description.fidelity.max_error == pytest.approx(error if kept else 0, rel=1e-3)
    assert len(description.refused) == len(caplog.records) == (not kept)
    assert all("openvino in bf16" in line for line in description.refused)
    assert torch.equal(result, nearest(frames)) is (precision == "fp32")
    # The engine that lost is closed, and no other is left over.
    built = len(factory.built)
    assert built - factory.closed == 1

    # It holds, whatever frames come.
    up(torch.rand(1, 3, 50, 75))
    assert len(factory.built) == built


@pytest.mark.usefixtures("tentative")
def test_what_is_judged_by_does_not_depend_on_the_frames() -> None:
    """A black first frame says nothing, and another file must not decide otherwise."""
    factory = RoundingFactory(0.001)
    up = Upscaler(Nearest(), scale=SCALE, tile_options=TileOptions(tile=0), engine_factory=factory)
    up(torch.zeros(1, 3, 50, 75))
    assert up.describe(50, 75).precision == "bf16"
    spec = factory.built[0][0]
    assert torch.equal(factory.batches[0], continued(calibration_picture(), spec))
    assert float(factory.batches[-1].abs().max()) == 0


@pytest.mark.usefixtures("tentative")
def test_warming_up_decides_without_frames(frames: Tensor) -> None:
    for error, precision in ((0.001, "bf16"), (0.006, "fp32")):
        factory = RoundingFactory(error)
        up = Upscaler(Nearest(), scale=SCALE, engine_factory=factory)
        assert up.warm_up(50, 75).precision == precision
        built = len(factory.built)
        up(frames)
        assert len(factory.built) == built


# ---- tiles that run out of range ---------------------------------------------------------


class Fragile(nn.Module):
    """In a low precision, what is brighter than ``limit`` comes out as ``wrong``."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(float("inf")))
        self.wrong = nn.Parameter(torch.tensor(float("nan")))

    def forward(self, x: Tensor) -> Tensor:
        bad = x.amax((1, 2, 3), keepdim=True) > self.limit
        return nearest(torch.where(bad, self.wrong, x))


class FragileFactory(Recorder):
    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong = wrong

    def __call__(
        self,
        module: nn.Module,
        spec: TileSpec,
        resolved: ResolvedEngine,
        fingerprint: str | None,
    ) -> Engine:
        fragile = Fragile()
        with torch.no_grad():
            fragile.wrong.fill_(self.wrong)
            if resolved.precision != "fp32":
                fragile.limit.fill_(0.9)
        return super().__call__(fragile, spec, resolved, fingerprint)


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = ResolvedEngine(
        engine="openvino", precision="bf16", device=torch.device("cpu"), threads=1
    )
    monkeypatch.setattr(hatvid.upscaler, "resolve_engine", lambda options: resolved)


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 3.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_tile_that_runs_out_of_range_is_computed_again_in_fp32(
    frames: Tensor, wrong: float, batch: int
) -> None:
    frames = frames * 0.8
    frames[1, 0, 49, 70] = 1.0  # in the last of 2x2 tiles
    frames[2, 1, 2, 3] = 1.0
    factory = FragileFactory(wrong)
    options = TileOptions(tile=48, overlap=8, batch=batch)
    up = Upscaler(
        Nearest(),
        scale=SCALE,
        engine_options=EngineOptions(precision="bf16"),
        tile_options=options,
        engine_factory=factory,
    )
    assert up.describe(50, 75).tiles == 4
    told: list[MendedTile] = []
    result = up(frames, mended=told.append)
    assert torch.equal(result, nearest(frames))
    assert told == [
        MendedTile(frame=1, top=16, left=32, height=48, width=48),
        MendedTile(frame=2, top=0, left=0, height=48, width=48),
    ]
    assert [precision for _, precision in factory.built] == ["bf16", "fp32"]
    _, *of_frames = factory.batches  # the first was the check's
    bright = [len(batch) for batch in of_frames if float(batch.amax()) > 0.9]
    # Tiles 7 and 8 of 12: alone, or both in the third batch of three; then each alone in fp32.
    assert bright == {1: [1, 1, 1, 1], 3: [3, 1, 1]}[batch]


@pytest.mark.usefixtures("bf16")
def test_what_is_wrong_in_fp32_too_is_not_hidden(frames: Tensor) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nearest(x) * float("nan")

    recorder = Recorder()
    told: list[MendedTile] = []
    up = Upscaler(
        Broken(),
        scale=SCALE,
        engine_options=EngineOptions(precision="bf16"),
        engine_factory=recorder,
    )
    assert bool(up(frames, mended=told.append).isnan().all())
    assert len(told) == 3


def test_fp32_is_not_computed_twice(frames: Tensor) -> None:
    factory = FragileFactory(float("nan"))
    told: list[MendedTile] = []
    up = Upscaler(Nearest(), scale=SCALE, engine_options=EAGER, engine_factory=factory)
    up(frames * 5, mended=told.append)
    assert told == []
    assert len(factory.built) == 1


def test_a_network_that_is_not_hat_has_no_low_precision_in_eager() -> None:
    for precision in ("fp16", "bf16"):
        with pytest.raises(OptionError, match="choose precision fp32"):
            Upscaler(
                Nearest(),
                scale=SCALE,
                engine_options=EngineOptions(engine="eager", precision=precision),  # type: ignore[arg-type]
            )


# ---- other scales than the network's -----------------------------------------------------


def test_a_larger_network_is_reduced_without_aliasing(frames: Tensor) -> None:
    up = Upscaler(Nearest(), scale=SCALE, output_scale=2, engine_options=EAGER)
    assert (up.scale, up.network_scale) == (2, SCALE)
    assert (up.describe(50, 75).scale, up.describe(50, 75).network_scale) == (2, SCALE)
    expected = torch.stack(
        [
            torch.stack(
                [
                    torch.from_numpy(
                        np.asarray(
                            Image.fromarray(plane.numpy(), "F").resize((150, 100), Image.BICUBIC)
                        ).copy()
                    )
                    for plane in frame
                ]
            )
            for frame in nearest(frames)
        ]
    )
    torch.testing.assert_close(up(frames), expected, atol=1e-5, rtol=0)
    assert up(frames[:0]).shape == (0, 3, 100, 150)


def test_no_network_gives_more_than_its_scale() -> None:
    for wanted in (0, SCALE + 1):
        with pytest.raises(OptionError, match=f"choose 1 to {SCALE}"):
            Upscaler(Nearest(), scale=SCALE, output_scale=wanted, engine_options=EAGER)


# ---- memory that runs out ----------------------------------------------------------------


def test_smaller_tiles_until_there_are_none(frames: Tensor, recorder: Recorder) -> None:
    options = TileOptions(tile=256, overlap=32)
    up = Upscaler(
        Nearest(),
        scale=SCALE,
        engine_options=EAGER,
        tile_options=options,
        engine_factory=recorder,
    )
    large = torch.rand(1, 3, 300, 200)
    up(large)
    sides = []
    while up.shrink(300, 200):
        facts = up.describe(300, 200)
        sides.append(max(facts.tile_height, facts.tile_width))
        assert torch.equal(up(large), nearest(large))
    # 304x208 in tiles of at most 128, and of 64; of 112 as many are needed as of 128.
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] == 64
    assert recorder.closed == len(recorder.built), "an engine kept its memory"
    assert up.describe(50, 75).tiles == 1, "frames of another size are not concerned"


def test_a_whole_frame_stays_whole() -> None:
    up = Upscaler(Nearest(), scale=SCALE, engine_options=EAGER, tile_options=TileOptions(tile=0))
    assert not up.shrink(300, 200)
    assert up.describe(300, 200).tiles == 1
