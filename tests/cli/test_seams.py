"""``hatvid seams`` on a tiny clip and on a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seams") / "noise.png"
    Image.effect_noise((80, 60), 60).convert("RGB").save(path)
    return path


def test_a_table(hatvid: Callable[..., Any], picture: Path, checkpoints: dict[int, Path]) -> None:
    arguments = ("--model", checkpoints[2], "--tile", "32,48", "--overlap", "0,16")
    done = hatvid("seams", picture, *arguments)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["32", "0"],
        ["32", "16"],
        ["48", "0"],
        ["48", "16"],
    ]
    rows = json.loads(hatvid("seams", picture, *arguments, "--json").out)
    assert [(row["tile"], row["overlap"]) for row in rows] == [(32, 0), (32, 16), (48, 0), (48, 16)]
    assert all(row["psnr"] > 20 for row in rows)


def test_a_video(hatvid: Callable[..., Any], clip: Path, checkpoints: dict[int, Path]) -> None:
    done = hatvid(
        *("seams", clip, "--model", checkpoints[2], "--tile", "16", "--overlap", "0"),
        *("--at", "0", "--json"),
    )
    assert done.code == 0, done.err
    assert len(json.loads(done.out)) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--tile", "17", "--overlap", "0"], 2, "multiple of 16"),
        (["--tile", "64", "--overlap", "40"], 2, "twice as large"),
        (["--tile", "x"], 2, "whole numbers"),
        (["--tile", "640", "--overlap", "0"], 2, "take a smaller one"),
        (["--model", "zebra"], 2, "no model is called"),
    ],
)
def test_what_is_refused(
    hatvid: Callable[..., Any], picture: Path, arguments: list[str], code: int, text: str
) -> None:
    done = hatvid("seams", picture, *arguments)
    assert done.code == code
    assert text in done.err
    assert len(done.err.splitlines()) == 1


def test_nothing_there(hatvid: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("gone.mp4", "gone.png"):
        done = hatvid("seams", tmp_path / name)
        assert done.code == 1
        assert "no such file" in done.err.lower()
