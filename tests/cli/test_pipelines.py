"""hatvid pipelines: what is there, and copies that overwrite nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).parents[2] / "pipelines"


def test_list_tells_what_each_is_for(hatvid: Callable[..., Any]) -> None:
    done = hatvid("pipelines", "list")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[::3] == sorted(path.name for path in RECIPES.iterdir() if path.is_file())
    at = lines.index("batch_folder.toml")
    assert lines[at + 1].startswith("    Upscale the videos of a folder into another folder, and")
    assert lines[at + 2].startswith("    hatvid batch batch_folder.toml --skip-existing ")


def test_copies_are_equal_and_overwrite_nothing(
    hatvid: Callable[..., Any],
    refusal: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hatvid("pipelines", "copy", "slurm_array.sh").out == "slurm_array.sh\n"
    assert hatvid("pipelines", "copy", "dvd_film.vpy", "mine.vpy").code == 0
    (tmp_path / "sub").mkdir()
    assert hatvid("pipelines", "copy", "dvd_film.vpy", "sub").code == 0
    for name, copy in (
        ("slurm_array.sh",) * 2,
        ("dvd_film.vpy", "mine.vpy"),
        ("dvd_film.vpy",) * 2,
    ):
        place = tmp_path / "sub" / copy if copy == "dvd_film.vpy" else tmp_path / copy
        assert place.read_bytes() == (RECIPES / name).read_bytes()
    assert os.access("slurm_array.sh", os.X_OK)
    assert not os.access("mine.vpy", os.X_OK)
    (tmp_path / "mine.vpy").write_text("mine")
    done = hatvid("pipelines", "copy", "dvd_film.vpy", "mine.vpy")
    refusal(done, code=2, says="mine.vpy exists; remove it")
    assert (tmp_path / "mine.vpy").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.sh"], 2, "there are anime_1080p.vpy, "),
        (["../README.md"], 2, "no pipeline is called"),
        (["slurm_array.sh", "no/such/place"], 1, "cannot be written"),
    ],
)
def test_copies_that_cannot_be(
    hatvid: Callable[..., Any],
    refusal: Callable[..., None],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    refusal(hatvid("pipelines", "copy", *arguments), code=code, says=says)
