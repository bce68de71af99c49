"""Scales that a model does not have, and models whose scale nobody named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def upscaled(hatvid: Callable[..., Any], clip: Path, folder: Path, *options: str | Path) -> Any:
    """The events of a job, by name; notes as a list."""
    done = hatvid(
        *("upscale", clip, "-o", folder / "large.mkv", "--progress", "json", "--engine", "eager"),
        *("--end", "2f", "--threads", "1", *options),
    )
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    return {event["event"]: event for event in events} | {
        "notes": [event["text"] for event in events if event["event"] == "note"]
    }


@pytest.mark.parametrize("scale", ["2", "3"])
def test_a_larger_model_is_reduced_and_that_is_said_once(
    hatvid: Callable[..., Any],
    clip: Path,
    tmp_path: Path,
    checkpoints: dict[int, Path],
    scale: str,
) -> None:
    told = upscaled(hatvid, clip, tmp_path, "--model", checkpoints[4], "--scale", scale)
    width = told["finished"]["width"]
    small = upscaled(
        hatvid, clip, tmp_path, "--model", checkpoints[2], "--scale", "2", "--overwrite"
    )
    assert width * 2 == small["finished"]["width"] * int(scale)
    said = [note for note in told["notes"] if "reduced" in note]
    assert said == [
        f"{checkpoints[4].stem} upscales by 4: its output is reduced to {scale} times, bicubic"
    ]
    assert told["finished"]["verification"]["ok"]
    assert not any("reduced" in note for note in small["notes"])


def test_what_is_to_be_larger_than_the_model_makes_is_refused(
    hatvid: Callable[..., Any], clip: Path, tmp_path: Path, checkpoints: dict[int, Path]
) -> None:
    done = hatvid(
        *("upscale", clip, "-o", tmp_path / "large.mkv"),
        *("--model", checkpoints[2], "--scale", "4"),
    )
    assert done.code == 2
    assert "upscales by 2, not by 4" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_used_at_its_own_scale(
    hatvid: Callable[..., Any], clip: Path, tmp_path: Path, checkpoints: dict[int, Path]
) -> None:
    told = upscaled(hatvid, clip, tmp_path, "--model", checkpoints[2])
    assert told["started"]["scale"] == 2
    assert not any("reduced" in note for note in told["notes"])


def test_a_size_is_made_of_all_that_the_model_gives(
    hatvid: Callable[..., Any], clip: Path, tmp_path: Path, checkpoints: dict[int, Path]
) -> None:
    """Resampled once: not to a scale first, and to the size from there."""
    told = upscaled(hatvid, clip, tmp_path, "--model", checkpoints[4], "--height", "100")
    assert told["finished"]["height"] == 100
    assert told["started"]["scale"] == 4
    assert not any("reduced" in note for note in told["notes"])
