"""A folder with tiny pictures, and recipes that train the smallest network on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
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
