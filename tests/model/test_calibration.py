"""The embedded picture is a real one, and damage to it is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hatvid.errors import CheckpointError
from hatvid.model import calibration
from hatvid.model.calibration import calibration_picture


def test_it_shows_dark_and_bright_and_detail_in_colour() -> None:
    picture = calibration_picture()
    assert (picture.shape, picture.dtype) == ((1, 3, 128, 128), torch.float32)
    assert torch.equal((picture * 255).round() / 255, picture)
    assert 0 <= picture.min() < 0.05 < 0.95 < picture.max() <= 1
    assert picture.std() > 0.2
    assert (picture.amax(1) - picture.amin(1)).max() > 0.5
    detail = picture.diff(dim=3).abs().mean()
    assert 0.01 < detail < 0.1  # noise would have far more


def test_it_is_its_own_each_time() -> None:
    calibration_picture().zero_()
    assert calibration_picture().max() > 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: save_file({"other": torch.zeros(1)}, path),
        lambda path: save_file({"picture": torch.zeros(1, 3, 128, 128)}, path),
        lambda path: save_file({"picture": torch.zeros(3, 8, 8, dtype=torch.uint8)}, path),
    ],
    ids=["missing", "truncated", "another name", "another dtype", "another shape"],
)
def test_damage_is_told(damage: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(damage)
    real = calibration.importlib.resources.files("hatvid.model")
    path = tmp_path / "weights" / "calibration.safetensors"
    path.parent.mkdir()
    path.write_bytes((Path(str(real)) / "weights" / "calibration.safetensors").read_bytes())
    monkeypatch.setattr(calibration.importlib.resources, "files", lambda _: tmp_path)
    assert calibration_picture().max() > 0
    damage(path)
    with pytest.raises(CheckpointError, match="install hatvid again"):
        calibration_picture()
