"""Small videos without loss, of frames that a test chooses; recipes of tiny trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

NETWORK = """
[network]
name = "hat-nano"
scale = {scale}
embed_dim = 12
depths = [2]
num_heads = [2]
num_feat = 8
compress_ratio = 3
squeeze_factor = 12
{network}

[run]
folder = "{folder}"
seed = 5
log_every = 2
save_every = {save_every}
{run}
{more}
"""

STAGE = """
[[stage]]
iterations = {iterations}
batch = {batch}
patch = 16
learning_rate = {rate}
ema = 0.9
{stage}
[stage.data]
sources = [{{ pictures = "pictures" }}]
"""

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """``make_video(path, lumas)``: FFV1 of (H, W) lumas, chroma gray, limited range, BT.601."""

    def make(
        path: Path, lumas: Sequence[NDArray[Any]], *, pix_fmt: str = "yuv420p", rate: int = 25
    ) -> Path:
        height, width = lumas[0].shape
        deep = "10" in pix_fmt
        with av.open(f"file:{path}", "w") as container:
            video = container.add_stream("ffv1", rate=rate)
            video.width, video.height, video.pix_fmt = width, height, pix_fmt
            video.codec_context.color_range, video.codec_context.colorspace = 1, 6
            for number, luma in enumerate(lumas):
                frame = av.VideoFrame(width, height, pix_fmt)
                for at, plane in enumerate(frame.planes):
                    kind = np.uint16 if deep else np.uint8
                    rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
                    rows[:] = 512 if deep else 128
                    if not at:
                        rows[:, :width] = luma
                frame.pts, frame.time_base = number, Fraction(1, rate)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        return path

    return make


@pytest.fixture(scope="session")
def lumas() -> Callable[..., list[NDArray[np.uint8]]]:
    """``lumas(count, height, width)``: a picture that moves, 16 to 235."""

    def draw(count: int, height: int = 48, width: int = 64) -> list[NDArray[np.uint8]]:
        random = np.random.default_rng(5)
        coarse = random.integers(30, 220, (height // 4 + 1, width // 4 + 1))
        whole = coarse.repeat(4, 0).repeat(4, 1)[:height, :width].astype(np.uint8)
        return [np.roll(whole, 2 * number, axis=1) for number in range(count)]

    return draw


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Bits depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write_recipe(tmp_path: Path) -> Write:
    """Pictures beside a recipe, which is filled in from what is given."""
    random = np.random.default_rng(3)
    (tmp_path / "pictures" / "inner").mkdir(parents=True)
    for name, height, width in (("a", 64, 80), ("b", 66, 65), ("inner/c", 90, 64)):
        coarse = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(tmp_path / "pictures" / f"{name}.png")

    def write(name: str = "recipe.toml", *stages: dict[str, object], **given: object) -> Path:
        network = {"scale": 2, "network": "", "folder": "run", "save_every": 100, "run": ""}
        usual = {"iterations": 4, "batch": 2, "rate": 1e-3, "stage": ""}
        text = NETWORK.format(**{"more": "", **network, **given})
        text += "".join(STAGE.format(**usual | stage) for stage in stages or ({},))
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
