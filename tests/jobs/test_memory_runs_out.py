"""Jobs whose engine runs out of memory, or out of range."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import hatvid
import hatvid.upscaler
from hatvid.engine import Engine, ResolvedEngine, TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.errors import OutOfMemoryError
from hatvid.jobs.progress import Silent
from hatvid.jobs.receipt import MendedPlace, Receipt
from hatvid.jobs.stills import PictureReceipt
from hatvid.options import EngineOptions, TileOptions
from hatvid.upscaler import Upscaler

EAGER = EngineOptions(engine="eager", threads=1)


class RepeatPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Small:
    """Builds engines whose tiles have no more than ``side`` pixels a side, after ``free``
    calls that went well all the same."""

    def __init__(self, side: int, free: int) -> None:
        self.side, self.free = side, free

    def __call__(
        self, module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        small = self

        class Limited(EagerEngine):
            def run(self, tiles: Tensor) -> Tensor:
                if max(spec.height, spec.width) > small.side:
                    if small.free == 0:
                        raise OutOfMemoryError("memory ran out; choose a smaller tile")
                    small.free -= 1
                return super().run(tiles)

        return Limited(module, spec)


def upscaler(side: int, free: int = 0, tile: int = 256) -> Upscaler:
    return Upscaler(
        RepeatPixels(),
        scale=2,
        engine_options=EAGER,
        tile_options=TileOptions(tile=tile),
        engine_factory=Small(side, free),
    )


@pytest.fixture(scope="module")
def clip(pyav: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "clip.mkv"
    pyav(
        *("-f", "lavfi", "-i", "testsrc2=size=200x120:rate=25:duration=0.32"),
        *("-c:v", "libx264", "-preset", "ultrafast", path),
    )
    return path


class Heard(Silent):
    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.told: list[str] = []

    def started(self, facts: Any) -> None:
        self.begun.append(facts.tile)

    def note(self, text: str) -> None:
        self.told.append(text)


def test_the_whole_job_is_done_again_with_one_smaller_tile(clip: Path, tmp_path: Path) -> None:
    """A part of the frames with one tiling and the rest with another would show."""
    heard = Heard()
    output = tmp_path / "large.mkv"
    receipt = hatvid.upscale(
        clip, output, upscaler=upscaler(100, free=3), lossless=True, progress=heard
    )
    assert isinstance(receipt, Receipt)
    assert receipt.frames == 8
    assert receipt.verification is not None
    assert receipt.verification.ok
    assert len(heard.begun) == 2
    assert max(heard.begun[1]) <= 100 < max(heard.begun[0])
    (said,) = [note for note in receipt.notes if "memory" in note]
    assert "after 3 frames" in said
    assert "208x128" in said
    assert len(heard.told) == len(set(heard.told)), "said twice"
    assert [path.name for path in tmp_path.iterdir()] == ["large.mkv"]


def test_numbered_pictures_are_written_again(clip: Path, tmp_path: Path) -> None:
    receipt = hatvid.upscale(clip, tmp_path / "f_%03d.png", upscaler=upscaler(100, free=3))
    assert receipt.frames == 8
    assert len(list(tmp_path.iterdir())) == 8


def test_pictures_of_others_are_not_overwritten_the_second_time(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "f_00007.png").write_bytes(b"mine")
    with pytest.raises(hatvid.HatvidError, match="exist"):
        hatvid.upscale(clip, tmp_path / "f_%05d.png", upscaler=upscaler(100, free=3))
    assert (tmp_path / "f_00007.png").read_bytes() == b"mine"


@pytest.mark.parametrize(("side", "tile"), [(32, 256), (100, 0)])
def test_when_nothing_is_small_enough_the_job_fails(
    clip: Path, tmp_path: Path, side: int, tile: int
) -> None:
    with pytest.raises(OutOfMemoryError):
        hatvid.upscale(clip, tmp_path / "large.mkv", upscaler=upscaler(side, tile=tile))
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_done_once_more(tmp_path: Path) -> None:
    picture = Image.effect_noise((200, 120), 40).convert("RGB")
    picture.save(tmp_path / "small.png")
    receipt = hatvid.upscale(tmp_path / "small.png", tmp_path / "large.png", upscaler=upscaler(100))
    assert isinstance(receipt, PictureReceipt)
    assert any("memory ran out" in note for note in receipt.notes)
    with Image.open(tmp_path / "large.png") as large:
        assert large.resize(picture.size, Image.Resampling.NEAREST).tobytes() == picture.tobytes()


class Overflowing:
    """In bf16 a tile with a white pixel is lost."""

    def __call__(
        self, module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        class Lossy(EagerEngine):
            def run(self, tiles: Tensor) -> Tensor:
                larger = super().run(tiles).clone()
                if self.precision != "fp32":
                    larger[tiles.amax((1, 2, 3)) > 0.9] = float("nan")
                return larger

        return Lossy(module, spec, precision=resolved.precision)


def test_a_tile_that_ran_out_of_range_is_in_the_receipt(
    tmp_path: Path, pyav: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clip.mkv"
    # Gray, and in the third of five frames a white square at the lower right.
    pyav(
        *("-f", "lavfi", "-i", "color=gray:size=128x64:rate=25:duration=0.2,format=gray"),
        *("-vf", "drawbox=x=112:y=48:w=8:h=8:color=white:t=fill:enable='eq(n,2)'"),
        *("-c:v", "ffv1", clip),
    )
    resolved = ResolvedEngine(
        engine="openvino", precision="bf16", device=torch.device("cpu"), threads=1
    )
    monkeypatch.setattr(hatvid.upscaler, "resolve_engine", lambda options: resolved)
    own = Upscaler(
        RepeatPixels(),
        scale=2,
        tile_options=TileOptions(tile=80, overlap=16),
        engine_factory=Overflowing(),
    )
    receipt = hatvid.upscale(clip, tmp_path / "large.mkv", upscaler=own, lossless=True)
    assert isinstance(receipt, Receipt)
    facts = own.describe(64, 128)
    place = MendedPlace(
        seconds=0.08,
        left=128 - facts.tile_width,
        top=0,
        width=facts.tile_width,
        height=facts.tile_height,
    )
    assert receipt.mended == (place,)
    assert receipt.as_dict()["mended"][0]["left"] == place.left
    assert any("1 tile of 1 frame ran out of range" in note for note in receipt.notes)
