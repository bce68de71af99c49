"""``hatvid verify``: a line for each check, or one JSON object; the exit code says it all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hatvid.cli.verify import verify


@pytest.fixture
def run() -> Callable[..., Result]:
    def invoke(*arguments: str | Path) -> Result:
        return CliRunner().invoke(verify, [str(a) for a in arguments], standalone_mode=False)

    return invoke


def test_a_right_pair_exits_0(run: Callable[..., Result], clip: Path) -> None:
    done = run(clip, clip)
    assert done.return_value == 0, done.output
    lines = done.output.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["ok", "frames"],
        ["ok", "times"],
        ["ok", "durations"],
    ]
    assert all(line.startswith("ok") for line in lines)


def test_a_broken_pair_exits_1_and_says_where(
    run: Callable[..., Result], clip: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    short = make_clip(tmp_path / "short.mp4", frames=5)
    done = run(clip, short)
    assert done.return_value == 1
    assert done.exception is None
    assert "FAILED  frames" in done.output


def test_json_is_one_object(run: Callable[..., Result], clip: Path, tmp_path: Path) -> None:
    done = run("--json", "--quick", clip, clip)
    assert done.return_value == 0
    (line,) = done.output.splitlines()
    record = json.loads(line)
    assert record["ok"] is True
    assert record["input"] == str(clip)
    names = [check["name"] for check in record["checks"]]
    assert "frames" in names
    assert "pictures" not in names
    (tmp_path / "none.mp4").write_bytes(b"nothing")
    done = run("--json", clip, tmp_path / "none.mp4")
    assert done.return_value == 1
    assert json.loads(done.output)["ok"] is False


@pytest.mark.parametrize("name", ["bad\nname.mp4", "bad\x1b[31mname.mp4"])
def test_names_move_no_cursor(
    run: Callable[..., Result], clip: Path, tmp_path: Path, name: str
) -> None:
    done = run(clip, tmp_path / name)
    assert done.return_value == 1
    assert len(done.output.splitlines()) == 1
    assert "\x1b[31m" not in done.output


def test_wrong_usage_is_told_apart(run: Callable[..., Result], clip: Path) -> None:
    for arguments in (("--start", "noon", clip, clip), (clip,), ("--deinterlace", "x", clip, clip)):
        done = run(*arguments)
        assert isinstance(done.exception, click.UsageError), done.output
        assert done.exception.exit_code == 2
    done = run("-", clip)
    assert done.exception is not None
    assert getattr(done.exception, "exit_code", 1) == 2
