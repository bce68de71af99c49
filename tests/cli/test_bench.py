"""``hatvid bench``: a table, JSON, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ASKED = ("bench", "--traffic", "--size", "48x32")


def test_a_table(hatvid: Callable[..., Any], checkpoints: dict[int, Path]) -> None:
    done = hatvid(*ASKED, "--model", checkpoints[2])
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].endswith("x2, 48x32, fp16")
    assert "launches" in lines[1]
    assert lines[2].split()[:2] == ["published", "explicit"]
    assert "nothing measured" in lines[-2]


def test_markdown(hatvid: Callable[..., Any], checkpoints: dict[int, Path]) -> None:
    done = hatvid(*ASKED, "--model", checkpoints[2], "--markdown")
    table = [line for line in done.out.splitlines() if line.startswith("|")]
    assert len(table) > 4
    assert set(table[1]) == {"|", "-"}
    assert len({line.count("|") for line in table}) == 1


def test_json(hatvid: Callable[..., Any], checkpoints: dict[int, Path], tmp_path: Path) -> None:
    file = tmp_path / "traffic.json"
    arguments = (*ASKED, "--model", checkpoints[2], "--precision", "fp32", "--json")
    done = hatvid(*arguments, file)
    assert done.code == 0
    assert "published" in done.out
    found = json.loads(file.read_text())
    assert (found["width"], found["height"], found["scale"]) == (48, 32, 2)
    assert (found["precision"], found["measured"]) == ("fp32", False)
    first = found["forms"][0]
    assert first["flops"] > 0
    assert set(first["roofline_seconds"]) == {"H100 SXM", "RTX 4090", "RTX 3060"}
    alone = hatvid(*arguments, "-")
    assert json.loads(alone.out) == found


@pytest.mark.long  # the compiler takes its time
def test_kernels(hatvid: Callable[..., Any]) -> None:
    done = hatvid("bench", "--kernels")
    assert (done.code, done.err) == (0, "")
    rows = [line.split("|")[1:-1] for line in done.out.splitlines()]
    assert len(rows) > 2
    assert {row[3].strip() for row in rows[2:]} == {"sm_80", "sm_89", "sm_90"}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--traffic", "--size", "720p"], 2, "1280x720"),
        (["--traffic", "--size", "8x8"], 2, "16 to 16384"),
        (["--traffic", "--size", "99999x99999"], 2, "16 to 16384"),
        (["--traffic", "--model", "zebra"], 2, "no model is called"),
        (["--traffic", "--model", "gone.safetensors"], 1, "no checkpoint"),
        (["--traffic", "--model", "hat-s", "--scale", "5"], 2, "power of two"),
        (["--traffic", "--precision", "bf16"], 2, "--traffic counts fp32 or fp16"),
        (["--traffic", "--json", "/nowhere/x.json", "--model", "hat-nano"], 1, "/nowhere"),
    ],
)
def test_what_is_refused(
    hatvid: Callable[..., Any], arguments: list[str], code: int, text: str
) -> None:
    done = hatvid("bench", *arguments)
    assert done.code == code
    assert text in done.err
    assert len(done.err.splitlines()) == 1
