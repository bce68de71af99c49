"""Upscalers that reuse results give what those give that compute everything."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import hatvid.upscaler
from hatvid.engine import Engine, ResolvedEngine, TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig
from hatvid.options import EngineOptions, ReuseMode, ReuseOptions, TileOptions
from hatvid.picture_checks import PictureChecks
from hatvid.reuse import Reused, checksum
from hatvid.tile_cache import FRAMES_MOST
from hatvid.tile_runner import TileRunner
from hatvid.upscaler import MendedTile, Upscaler

EAGER = EngineOptions(engine="eager", threads=1)
OFF = ReuseOptions(mode="off")
HEIGHT, WIDTH = 50, 84


@pytest.fixture(scope="module")
def network() -> nn.Module:
    config = HATConfig(
        embed_dim=12, depths=(2,), num_heads=(2,), squeeze_factor=4, num_feat=8, upscale=2
    )
    torch.manual_seed(4)
    return HAT(config).eval()


class Small(nn.Module):
    """A cheap one: every pixel hangs on its neighbours, and on the whole tile."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + x.mean((2, 3), keepdim=True)
        return nn.functional.pixel_shuffle(self.conv(x), 2)


def film() -> Iterator[Tensor]:
    """Held frames, pans, noise, an inset that moves; (1, 3, HEIGHT, WIDTH) each."""
    generator = torch.Generator().manual_seed(6)

    def noise(*shape: int) -> Tensor:
        return torch.rand((1, 3, *shape), generator=generator)

    still, wide = noise(HEIGHT, WIDTH), noise(HEIGHT, 3 * WIDTH)
    inset = noise(12, 12)
    for _ in range(3):
        yield still
    for step in range(3):
        yield wide[..., 16 * step : 16 * step + WIDTH]
    for step in range(4):
        frame = still.clone()
        frame[..., 4:16, 60 + 3 * step : 72 + 3 * step] = inset
        yield frame
    yield noise(HEIGHT, WIDTH)
    yield still
    yield torch.zeros_like(still)


@pytest.mark.parametrize(("tile", "batch"), [(0, 1), (0, 3), (32, 1), (32, 4)])
@pytest.mark.parametrize("together", [1, 4])
def test_frames_are_the_same_bit_for_bit(
    network: nn.Module, tile: int, batch: int, together: int
) -> None:
    options = TileOptions(tile=tile, overlap=8, batch=batch)

    def enlarged(reuse: ReuseOptions) -> tuple[Tensor, Reused]:
        frames = torch.cat(list(film()))
        with Upscaler(
            network, scale=2, engine_options=EAGER, tile_options=options, reuse=reuse
        ) as up:
            return torch.cat([up(part) for part in frames.split(together)]), up.reused

    expected, nothing = enlarged(OFF)
    found, reused = enlarged(ReuseOptions())
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
    assert nothing.hits == 0
    assert nothing.tiles == reused.tiles
    if tile == 0:
        assert reused.hits == _shown_again(batch, together)
    else:  # of tiles also those that the inset does not touch
        assert reused.hits > 0.3 * reused.tiles


def _shown_again(batch: int, together: int) -> int:
    """Frames that were in the same slot before."""
    seen, again = set(), 0
    for number, frame in enumerate(film()):
        key = number % together % batch, frame.numpy().tobytes()
        again += key in seen
        seen.add(key)
    return again


def test_a_small_memory_costs_hits_and_nothing_else() -> None:
    options = TileOptions(tile=48, overlap=8)
    frames = torch.rand((2, 3, 100, 150), generator=torch.Generator().manual_seed(1))
    frames[1:] = frames[:1]
    results, hits = [], []
    # A tile of 48x48 and its result take 138 kB; a frame has 12.
    for memory in (1, 100):
        reuse = ReuseOptions(memory=memory)
        with Upscaler(
            Small(), scale=2, engine_options=EAGER, tile_options=options, reuse=reuse
        ) as up:
            results.append(up(frames))
            hits.append(up.reused.hits)
    assert torch.equal(*results)
    assert hits[0] == 0
    assert hits[1] == up.reused.tiles // 2


@pytest.mark.parametrize("tile", [0, 32])
def test_so_many_frames_are_kept_if_nothing_is_asked_for(tile: int) -> None:
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand((FRAMES_MOST + 2, 3, HEIGHT, WIDTH), generator=generator).split(1)
    options = TileOptions(tile=tile, overlap=8)
    with Upscaler(Small(), scale=2, engine_options=EAGER, tile_options=options) as up:
        for frame in frames:
            up(frame)
        assert up.reused.hits == 0
        each = up.reused.tiles // len(frames)
        up(frames[-FRAMES_MOST])
        assert up.reused.hits == each
        up(frames[0])
        assert up.reused.hits == each


def test_threads_in_any_order() -> None:
    frames = list(film())
    options = TileOptions(tile=32, overlap=8)

    def make(reuse: ReuseOptions) -> Upscaler:
        return Upscaler(Small(), scale=2, engine_options=EAGER, tile_options=options, reuse=reuse)

    with make(OFF) as up:
        expected = [up(frame) for frame in frames]
    found: dict[int, Tensor] = {}
    with make(ReuseOptions(memory=1)) as up:

        def work(first: int) -> None:
            for number in reversed(range(first, len(frames), 3)):
                found[number] = up(frames[number])

        threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert up.reused.hits > 0
    assert all(torch.equal(found[number], one) for number, one in enumerate(expected))


class Unsteady(EagerEngine):
    """Each call gives a last bit of its own."""

    def run(self, tiles: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        larger = super().run(tiles).clone()
        larger.view(torch.int32)[..., 0, 0] += self.calls
        return larger


def unsteady(
    module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
) -> Engine:
    return Unsteady(module, spec)


def test_an_engine_that_gives_other_bits_reuses_nothing() -> None:
    frames = torch.cat([frame for frame in film() for _ in range(2)])

    def run(reuse: ReuseOptions) -> tuple[Reused, str, bool]:
        with Upscaler(
            Small(), scale=2, engine_options=EAGER, reuse=reuse, engine_factory=unsteady
        ) as up:
            up(frames)
            return up.reused, up.describe(HEIGHT, WIDTH).reuse, up.reuses(HEIGHT, WIDTH)

    assert run(ReuseOptions()) == (Reused(tiles=26, hits=0), "refused", False)
    assert run(ReuseOptions(mode="on")) == (Reused(tiles=26, hits=0), "refused", False)
    assert run(OFF) == (Reused(tiles=26), "off", False)


def test_the_engine_is_tried_once_and_not_before_something_comes_again() -> None:
    calls = []

    class Counted(EagerEngine):
        def run(self, tiles: Tensor) -> Tensor:
            calls.append(len(tiles))
            return super().run(tiles)

    def factory(
        module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        return Counted(module, spec)

    frames = torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(3))
    with Upscaler(Small(), scale=2, engine_options=EAGER, engine_factory=factory) as up:
        up.warm_up(32, 32)
        up(frames)
        assert len(calls) == 4
        assert up.describe(32, 32).reuse == "untried"
        up(frames)
        assert len(calls) == 4 + 2
        assert up.describe(32, 32).reuse == "on"
        up(frames)
        assert len(calls) == 4 + 2


def _runner(network: nn.Module, fingerprint: str | None = "f", **changed: object) -> TileRunner:
    given: dict[str, object] = {
        "engine": "eager",
        "precision": "fp32",
        "device": torch.device("cpu"),
        "threads": 1,
    }
    resolved = ResolvedEngine(**given | changed)  # type: ignore[arg-type]
    return TileRunner(
        Forms(network),
        resolved,
        EngineOptions(),
        scale=2,
        factory=_nothing,
        fingerprint=fingerprint,
    )


def _nothing(
    module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
) -> Engine:
    raise AssertionError("nothing is built")


def test_what_a_result_depends_on(network: nn.Module) -> None:
    """Any one thing that is different makes another identity."""
    spec = TileSpec(batch=2, height=32, width=48, scale=2)
    other = TileSpec(batch=3, height=32, width=48, scale=2)
    found = [
        _runner(network).identity(spec),
        _runner(network).identity(other),
        _runner(network).identity(TileSpec(batch=2, height=48, width=32, scale=2)),
        _runner(network).identity(TileSpec(batch=2, height=32, width=48, scale=4)),
        _runner(network).identity(spec, chunked=True),
        _runner(network, precision="bf16").identity(spec),
        _runner(network, engine="replay").identity(spec),
        _runner(network, engine="openvino").identity(spec),
        _runner(network, threads=2).identity(spec),
        _runner(network, compiled=True).identity(spec),
        _runner(network, layout="gpu").identity(spec),
        _runner(network, kernel="triton").identity(spec),
        _runner(network, streams=2).identity(spec),
        _runner(network, engine="openvino", streams=2).identity(spec),
        _runner(network, fingerprint="g").identity(spec),
        _runner(network, fingerprint=None).identity(spec),
    ]
    assert len(set(found)) == len(found)
    assert _runner(network).identity(spec) == found[0]
    assert found[0].versions[1] == torch.__version__
    assert [identity.slots for identity in found[:2]] == [2, 3]
    assert found[13].slots == 1, "each tile is a call of its own"


@pytest.mark.parametrize(
    ("device", "mode", "computed"),
    [("cuda:0", "auto", 6), ("cuda:0", "on", 3), ("cpu", "auto", 3), ("cpu", "off", 6)],
)
def test_tiles_on_a_gpu_are_looked_up_only_by_name(
    network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    mode: ReuseMode,
    computed: int,
) -> None:
    """They would travel to main memory for a checksum, each of them."""
    resolved = ResolvedEngine(
        engine="eager", precision="fp32", device=torch.device(device), threads=1
    )
    calls: list[Tensor] = []
    looked_up: list[Tensor] = []

    class Counted(EagerEngine):
        def run(self, tiles: Tensor) -> Tensor:
            calls.append(tiles)
            return super().run(tiles)

    def factory(
        module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        return Counted(module, spec)

    def digest(tile: Tensor) -> int:
        looked_up.append(tile)
        return checksum(tile)

    monkeypatch.setattr("hatvid.reuse.checksum", digest)
    # There is no GPU that could be checked.
    monkeypatch.setattr(PictureChecks, "job", lambda *args, **kwargs: None)
    runner = TileRunner(
        Forms(network),
        resolved,
        EngineOptions(),
        scale=2,
        factory=factory,
        fingerprint="f",
        reuse=ReuseOptions(mode=mode, memory=64),
    )
    spec = TileSpec(batch=1, height=32, width=32, scale=2)
    different = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(runner, "reuses", lambda spec, chunked: mode != "off")
    for _ in range(2):
        results = list(runner.results(spec, different, frame=3))
        assert len(results) == 3
    assert len(calls) == computed
    assert bool(looked_up) == (computed == 3)


class Fragile(nn.Module):
    """In a low precision, what is very bright is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(float("inf")))

    def forward(self, x: Tensor) -> Tensor:
        bad = x.amax((1, 2, 3), keepdim=True) > self.limit
        return torch.where(bad, torch.nan, x).repeat_interleave(2, 2).repeat_interleave(2, 3)


def fragile(
    module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
) -> Engine:
    fragile = Fragile()
    if resolved.precision != "fp32":
        torch.nn.init.constant_(fragile.limit, 0.9)
    engine = EagerEngine(fragile, spec)
    engine.precision = resolved.precision
    return engine


def test_a_tile_out_of_range_is_told_in_each_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = ResolvedEngine(
        engine="openvino", precision="bf16", device=torch.device("cpu"), threads=1
    )
    monkeypatch.setattr(hatvid.upscaler, "resolve_engine", lambda options: resolved)
    frames = torch.full((3, 3, 32, 64), 0.5)
    frames[:, :, 3, 50] = 1.0
    options = TileOptions(tile=32, overlap=0)
    told: list[MendedTile] = []
    with Upscaler(
        Fragile(), scale=2, tile_options=options, reuse=ReuseOptions(), engine_factory=fragile
    ) as up:
        result = up(frames, mended=told.append)
        assert up.reused == Reused(tiles=6, hits=2)
    assert [(tile.frame, tile.left) for tile in told] == [(0, 32), (1, 32), (2, 32)]
    assert torch.equal(result, frames.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_shrinking_forgets() -> None:
    options = TileOptions(tile=128, overlap=8)
    frame = torch.rand((1, 3, 128, 128), generator=torch.Generator().manual_seed(8))
    with Upscaler(Small(), scale=2, engine_options=EAGER, tile_options=options) as up:
        up(frame)
        assert up.shrink(128, 128)
        up(frame)
        assert up.reused.hits == 0
