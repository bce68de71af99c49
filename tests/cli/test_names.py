"""File names that shells, FFmpeg or printf would read as something else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest


def frames_of(path: Path) -> int:
    # Opened as a file object: the name is not FFmpeg's business here.
    with path.open("rb") as file, av.open(file) as container:
        return sum(1 for _ in container.decode(video=0))


NAMES = [
    "two words.mp4",
    " leading space.mp4",
    'it\'s "quoted".mp4',
    "two\nlines.mp4",
    "tab\there.mp4",
    "back\\slash.mp4",
    "http:colon.mp4",
    "a:b.mp4",
    "concat:x|y.mp4",
    "100%.mp4",
    "frame%03d.mp4",
    "[bold]markup[nothing].mp4",
    ":smile:.mp4",
    "red\x1b[31m.mp4",
    "star*?.mp4",
    "$HOME.mp4",
    "ünïcödé-日本語-🎬.mp4",
    "e\u0301 decomposed.mp4",
    ".hidden.mp4",
    "many.dots.in.it.mp4",
    "UPPER.MP4",
    "a" * 240 + ".mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_works(
    hatvid: Callable[..., Any],
    cheap: list[str],
    clip: Path,
    tmp_path: Path,
    name: str,
) -> None:
    source = tmp_path / name
    source.write_bytes(clip.read_bytes())
    done = hatvid("upscale", *cheap, source)
    assert done.code == 0, done.err
    output = tmp_path / f"{source.stem}_x2{source.suffix}"
    assert sorted(tmp_path.iterdir()) == sorted([source, output])
    assert frames_of(output) == 6
    # One line to announce it and one to sum up, whatever the names hold.
    assert len(done.err.splitlines()) == 2
    assert "\x1b" not in done.err
    assert name not in (":smile:.mp4", "100%.mp4") or done.err.count(name) == 1


@pytest.mark.parametrize("name", ["two\nlines.mp4", 'it\'s "quoted".mp4', "日本語\x1b.mp4"])
def test_any_name_works_in_json(
    hatvid: Callable[..., Any], cheap: list[str], clip: Path, tmp_path: Path, name: str
) -> None:
    source = tmp_path / name
    source.write_bytes(clip.read_bytes())
    done = hatvid("upscale", *cheap, "--progress", "json", source)
    assert (done.code, done.err) == (0, "")
    events = [json.loads(line) for line in done.out.split("\n")[:-1]]
    output = tmp_path / f"{source.stem}_x2{source.suffix}"
    assert events[-1]["output"] == str(output)
    assert output.exists()


def test_a_name_that_is_not_utf_8(
    hatvid: Callable[..., Any], cheap: list[str], clip: Path, tmp_path: Path
) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    try:
        source.write_bytes(clip.read_bytes())
    except OSError:
        return  # macOS refuses such names itself
    for progress in ("bar", "json"):
        done = hatvid("upscale", *cheap, "--overwrite", "--progress", progress, source)
        assert done.code == 0, done.err
    names = sorted(os.fsencode(path.name) for path in tmp_path.iterdir())
    assert names == [b"caf\xe9.mp4", b"caf\xe9_x2.mp4"]


def test_a_leading_dash_after_two_dashes(
    hatvid: Callable[..., Any],
    cheap: list[str],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-o.mp4").write_bytes(clip.read_bytes())
    done = hatvid("upscale", *cheap, "--progress", "none", "--", "-o.mp4")
    assert (done.code, done.err) == (0, "")
    assert frames_of(tmp_path / "-o_x2.mp4") == 6


def test_outputs_of_such_names(
    hatvid: Callable[..., Any],
    cheap: list[str],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pipe:1.mp4", "out%d.mp4", "-out.mp4", "~.mp4", "new\nline.mp4"):
        done = hatvid("upscale", *cheap, "--progress", "none", clip, "-o", name)
        assert (done.code, done.err, done.out) == (0, "", "")
        assert frames_of(tmp_path / name) == 6
