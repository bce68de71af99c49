"""Jobs that reuse results write the packets of jobs that compute everything."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hatvid
from hatvid.engine import Engine, ResolvedEngine, TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.jobs import enlarge
from hatvid.jobs.progress import Silent
from hatvid.jobs.receipt import Receipt
from hatvid.model.hat import HAT, HATConfig
from hatvid.options import EngineOptions, ReuseOptions, TileOptions
from hatvid.reuse import Reused
from hatvid.upscaler import Upscaler

WIDTH, HEIGHT = 144, 96
OFF = ReuseOptions(mode="off")
TILES = TileOptions(tile=48, overlap=16)
WHOLE = TileOptions(tile=0)

Frame = np.ndarray[Any, np.dtype[np.uint8]]
Make = Callable[..., Path]


def film() -> Iterator[Frame]:
    """Held frames, a pan, noise, an inset that moves, a held frame once more; gray planes."""
    rng = np.random.default_rng(5)
    still, wide = _noise(rng, WIDTH), _noise(rng, 2 * WIDTH)
    inset = rng.integers(16, 236, (12, 12), np.uint8)
    for _ in range(4):
        yield still
    for step in range(4):
        yield wide[:, 16 * step : 16 * step + WIDTH]
    yield from (_noise(rng, WIDTH) for _ in range(2))
    for step in range(6):
        yield _laid(still, inset, 70, 8 + 3 * step)
    for _ in range(3):
        yield still


def slides() -> Iterator[Frame]:
    rng = np.random.default_rng(6)
    for _ in range(3):
        slide = _noise(rng, WIDTH)
        for _ in range(12):
            yield slide


def one_object_moves() -> Iterator[Frame]:
    """No two frames are equal."""
    rng = np.random.default_rng(7)
    scene, thing = _noise(rng, WIDTH), rng.integers(16, 236, (10, 10), np.uint8)
    for step in range(20):
        yield _laid(scene, thing, 4 + step // 4, 100 + step)


def _noise(rng: np.random.Generator, width: int) -> Frame:
    coarse = rng.integers(16, 236, (HEIGHT // 8, width // 8), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def _laid(scene: Frame, thing: Frame, top: int, left: int) -> Frame:
    frame = scene.copy()
    frame[top : top + len(thing), left : left + len(thing)] = thing
    return frame


@pytest.fixture(scope="module")
def make(pyav: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("reuse")

    def write(name: str, frames: Iterator[Frame], pix_fmt: str = "yuv420p") -> Path:
        path = folder / f"{name}-{pix_fmt}.mkv"
        raw = folder / "raw.gray"
        raw.write_bytes(b"".join(frame.tobytes() for frame in frames))
        size = f"{WIDTH}x{HEIGHT}"
        pyav(
            *("-f", "rawvideo", "-pix_fmt", "gray", "-video_size", size, "-framerate", "25"),
            *("-i", raw, "-pix_fmt", pix_fmt, "-c:v", "ffv1", path),
        )
        return path

    return write


def job(
    clip: Path, output: Path, upscaler: Upscaler, progress: Silent | None = None
) -> tuple[Receipt, list[tuple[int | None, str]]]:
    with upscaler:
        receipt = hatvid.upscale(
            clip,
            output,
            upscaler=upscaler,
            lossless=True,
            overwrite=True,
            verify="none",
            progress=progress,
        )
    assert isinstance(receipt, Receipt)
    with av.open(output) as container:
        packets = [
            (packet.pts, hashlib.sha256(bytes(packet)).hexdigest())
            for packet in container.demux(video=0)
            if packet.size
        ]
    assert len(packets) == receipt.frames
    return receipt, packets


# ---- the default engine and precision ----------------------------------------------------


@pytest.fixture(scope="module")
def network() -> nn.Module:
    config = HATConfig(
        embed_dim=12, depths=(2,), num_heads=(2,), squeeze_factor=4, num_feat=8, upscale=2
    )
    torch.manual_seed(4)
    return HAT(config).eval()


@pytest.mark.parametrize("tiles", [TILES, WHOLE], ids=["tiles", "whole"])
def test_the_default_engine_writes_the_same_packets(
    network: nn.Module, tiles: TileOptions, make: Make, tmp_path: Path
) -> None:
    clip = make("film", film())

    def run(reuse: ReuseOptions) -> tuple[Receipt, object]:
        # The fingerprint lets the second find what was compiled for the first; two threads
        # compute two frames, or tiles, side by side.
        up = Upscaler(
            network,
            scale=2,
            engine_options=EngineOptions(threads=2, streams="auto"),
            tile_options=tiles,
            reuse=reuse,
            fingerprint="of this test",
        )
        assert up.describe(HEIGHT, WIDTH).batch == 2
        return job(clip, tmp_path / "out.mkv", up)

    nothing, expected = run(OFF)
    receipt, packets = run(ReuseOptions())
    assert packets == expected
    assert nothing.reused.hits == 0
    assert receipt.reused.tiles == nothing.reused.tiles
    # Five of 19 frames are held, one is shown again; of tiles also those the inset spares.
    assert receipt.reused.hits == 6 if tiles is WHOLE else receipt.reused.share > 0.45
    assert not any("reused" in note for note in receipt.notes)


# ---- with a network that costs nothing ---------------------------------------------------


class Mixing(nn.Module):
    """Twice as large; every pixel hangs on its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator) * 0.05)
            for channel in range(12):
                self.conv.weight[channel, channel // 4, 1, 1] += 0.9

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv(x), 2)


def mixing(reuse: ReuseOptions, tiles: TileOptions = TILES, engine: str = "eager") -> Upscaler:
    options = EngineOptions(engine=engine, threads=1)  # type: ignore[arg-type]
    return Upscaler(Mixing(), scale=2, engine_options=options, tile_options=tiles, reuse=reuse)


PAIRS = TileOptions(tile=0, batch=2)


@pytest.mark.parametrize(
    ("engine", "tiles", "pix_fmt"),
    [
        ("eager", TILES, "yuv420p"),
        ("eager", TILES, "yuva420p"),
        ("eager", WHOLE, "yuv422p10le"),
        ("eager", WHOLE, "bgr0"),
        ("eager", PAIRS, "yuv420p"),
        ("replay", WHOLE, "yuv420p"),
        ("replay", WHOLE, "yuva420p"),
        ("replay", PAIRS, "yuv422p10le"),
    ],
)
def test_packets_are_the_same(
    engine: str, tiles: TileOptions, pix_fmt: str, make: Make, tmp_path: Path
) -> None:
    clip, output = make("film", film(), pix_fmt), tmp_path / "out.mkv"
    _, expected = job(clip, output, mixing(OFF, tiles, engine))
    receipt, packets = job(clip, output, mixing(ReuseOptions(), tiles, engine))
    assert packets == expected
    frames = (12 if tiles is TILES else 1) * (2 if pix_fmt == "yuva420p" else 1)
    assert receipt.reused.tiles == len(packets) * frames
    assert receipt.reused.hits > 0


@pytest.mark.parametrize("engine", ["eager", "replay"])
def test_a_slide_show_is_hardly_computed(engine: str, make: Make, tmp_path: Path) -> None:
    class Heard(Silent):
        shares: list[float] = []  # noqa: RUF012 - one instance

        def reused(self, tiles: Reused) -> None:
            self.shares.append(tiles.share)

    heard = Heard()
    heard.shares = []
    up = mixing(ReuseOptions(), WHOLE, engine)
    receipt, _ = job(make("slides", slides()), tmp_path / "out.mkv", up, heard)
    assert receipt.reused == Reused(tiles=36, hits=33)
    assert receipt.reused.share > 0.9
    assert len(heard.shares) == 36
    assert heard.shares[-1] == receipt.reused.share
    assert receipt.as_dict()["reused"] == {"tiles": 36, "hits": 33}


def test_a_held_frame_costs_no_colours_and_no_tiles(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    convert = enlarge.planes_to_rgb
    monkeypatch.setattr(enlarge, "planes_to_rgb", lambda *given: calls.append(1) or convert(*given))
    job(make("slides", slides()), tmp_path / "out.mkv", mixing(ReuseOptions()))
    assert len(calls) == 3


def test_of_a_still_scene_only_what_moves_is_computed(make: Make, tmp_path: Path) -> None:
    up = mixing(ReuseOptions())
    receipt, _ = job(make("object", one_object_moves()), tmp_path / "out.mkv", up)
    assert receipt.reused.tiles == 20 * 12
    assert receipt.reused.hits / receipt.reused.tiles > 0.5
    whole, _ = job(
        make("object", one_object_moves()), tmp_path / "out.mkv", mixing(ReuseOptions(), WHOLE)
    )
    assert whole.reused.hits == 0, "no two frames are equal"


# ---- what goes wrong ---------------------------------------------------------------------


class Unsteady(EagerEngine):
    """Each call gives a last bit of its own."""

    def run(self, tiles: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        larger = super().run(tiles).clone()
        larger.view(torch.int32)[..., 0, 0] += self.calls
        return larger


def test_an_engine_that_gives_other_bits_is_told(make: Make, tmp_path: Path) -> None:
    def factory(
        module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        return Unsteady(module, spec)

    up = Upscaler(
        Mixing(),
        scale=2,
        engine_options=EngineOptions(engine="eager"),
        engine_factory=factory,
    )
    receipt, _ = job(make("slides", slides()), tmp_path / "out.mkv", up)
    assert receipt.reused.hits == 0
    (note,) = [note for note in receipt.notes if "reused" in note]
    assert note == ("nothing is reused: engine eager in fp32 gave other bits for the same tile")


class Fragile(nn.Module):
    """In bf16, what is bright is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(float("inf")))

    def forward(self, x: Tensor) -> Tensor:
        bad = x.mean((1, 2, 3), keepdim=True) > self.limit
        return torch.where(bad, torch.nan, x).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_a_held_frame_that_was_mended_is_told_each_time(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bright() -> Iterator[Frame]:
        for code in (90, 90, 230, 230, 230, 91):
            yield np.full((HEIGHT, WIDTH), code, np.uint8)

    def factory(
        module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        fragile = Fragile()
        if resolved.precision != "fp32":
            nn.init.constant_(fragile.limit, 0.75)
        engine = EagerEngine(fragile, spec)
        engine.precision = resolved.precision
        return engine

    resolved = ResolvedEngine(
        engine="openvino", precision="bf16", device=torch.device("cpu"), threads=1
    )
    monkeypatch.setattr("hatvid.upscaler.resolve_engine", lambda options: resolved)
    up = Upscaler(Fragile(), scale=2, tile_options=WHOLE, engine_factory=factory)
    receipt, _ = job(make("bright", bright()), tmp_path / "out.mkv", up)
    assert [place.seconds for place in receipt.mended] == pytest.approx(
        [0.08, 0.12, 0.16], abs=1e-3
    )
    assert receipt.reused.hits == 3
