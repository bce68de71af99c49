"""The options of reuse, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

Hatvid = Callable[..., Any]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames: one picture, then another that is a step brighter."""
    path = tmp_path_factory.mktemp("held") / "held.mkv"
    picture = np.random.default_rng(3).integers(0, 200, (24, 32), np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 32, 24, "gray"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(picture + np.uint8(number >= 4), "gray")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize(
    ("options", "hits"),
    [
        ([], 6),
        (["--reuse", "on"], 6),
        (["--reuse", "off"], 0),
        (["--reuse-memory", "1"], 6),
    ],
)
def test_it_is_on_unless_it_is_turned_off(
    hatvid: Hatvid,
    cheap: list[str],
    held: Path,
    tmp_path: Path,
    options: list[str],
    hits: int,
) -> None:
    done = hatvid(
        "upscale", *cheap, "--progress", "json", *options, held, "-o", tmp_path / "out.mkv"
    )
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    counted = {"tiles": 8, "hits": hits}
    assert events[-1]["reused"] == counted
    progress = [event["reused"] for event in events if event["event"] == "progress"]
    assert [event["tiles"] for event in progress] == list(range(1, 9))
    assert progress[-1] == counted


@pytest.mark.parametrize(("options", "text"), [([], "75% of the tiles reused"), (["off"], "")])
def test_the_summary_tells(
    hatvid: Hatvid, cheap: list[str], held: Path, tmp_path: Path, options: list[str], text: str
) -> None:
    given = ["--reuse", *options] if options else []
    done = hatvid("upscale", *cheap, *given, held, "-o", tmp_path / "out.mkv")
    assert done.code == 0
    assert text in done.err
    assert ("reused" in done.err) == bool(text)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--reuse-memory", "0"], "at least 1"),
        (["--reuse", "sometimes"], "sometimes"),
    ],
)
def test_what_is_refused(
    hatvid: Hatvid, cheap: list[str], held: Path, tmp_path: Path, options: list[str], text: str
) -> None:
    done = hatvid("upscale", *cheap, *options, held, "-o", tmp_path / "out.mkv")
    assert done.code == 2
    assert text in done.err
    assert not (tmp_path / "out.mkv").exists()
