"""A training of some minutes that shows whether training works on a machine.

Pictures are made up, so that nothing needs to be fetched and nobody's rights are touched:
dead leaves for training, and others, from other numbers, held out. The network is the
embedded hat-nano-x4's body with a new tail for x2, trained as ``recipes/smoke.toml`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hatvid.errors import OutputError, TrainingError
from hatvid.research.dead_leaves import dead_leaves
from hatvid.research.recipe_file import read_recipe, shipped_recipes
from hatvid.research.train import train
from hatvid.research.train_log import read_rows
from hatvid.video.png import encode_png

__all__ = ["PROMISED", "SmokeResult", "smoke"]

PROMISED = 9.0
"""dB on held-out pictures above where it started."""

_PICTURES, _HELD_OUT, _SIDE = 24, 4, 192


@dataclass(frozen=True, kw_only=True)
class SmokeResult:
    """PSNR-Y of the held-out pictures, dB."""

    start: float
    end: float
    bicubic: float

    @property
    def gained(self) -> float:
        """dB."""
        return self.end - self.start


def smoke(
    folder: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda line: None,
) -> SmokeResult | None:
    """Run it.

    Args:
        folder: where pictures, logs and checkpoints go.
        device: as for :func:`~hatvid.research.train.train`; so are the others.

    Returns:
        What was reached; None if it was asked to stop.

    Raises:
        TrainingError: less was gained than :data:`PROMISED`, or the training could not go on;
            the message names what is in the folder.
        OutputError: the disk refuses.
    """
    try:
        for name, count, seed in (("training", _PICTURES, 1), ("held_out", _HELD_OUT, 2)):
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = dead_leaves(_SIDE, _SIDE, np.random.default_rng([seed, number]))
                (place / f"leaves_{number:02d}.png").write_bytes(encode_png(pixels))
        recipe = folder / "smoke.toml"
        recipe.write_bytes(shipped_recipes()["smoke"].read_bytes())
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror})") from error
    tell(f"{_PICTURES} pictures to learn from and {_HELD_OUT} held out are made")
    done = train(
        read_recipe(recipe), device=device, threads=threads, overwrite=True, stop=stop, tell=tell
    )
    if not done.finished:
        return None
    rows = read_rows(folder / "run" / "validation.csv")
    result = SmokeResult(
        start=float(rows[0]["psnr"]),
        end=float(rows[-1]["psnr"]),
        bicubic=float(rows[0]["bicubic"]),
    )
    if result.gained < PROMISED:
        raise TrainingError(
            f"the trial gained {result.gained:.2f} dB, less than {PROMISED:g}: training does not "
            f"work here; try --device cpu, and report it with the log in {folder / 'run'}"
        )
    return result
