"""How long PyTorch's threads look for work: libgomp itself tells what it was set to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hatvid.cli.waiting import SPINS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PyTorch comes with libgomp there")


def _spins(*arguments: str | Path, env: dict[str, str], **chosen: str) -> list[str]:
    """Of each process of a command that loaded libgomp."""
    done = subprocess.run(
        [sys.executable, "-m", "hatvid", *map(os.fspath, arguments)],
        env=env | {"OMP_DISPLAY_ENV": "VERBOSE"} | chosen,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)


@pytest.fixture(scope="module")
def environment(program_environment: dict[str, str]) -> dict[str, str]:
    chosen = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    return {name: value for name, value in program_environment.items() if name not in chosen}


@pytest.fixture(scope="module")
def given(
    make_clip: Callable[..., Path],
    checkpoints: dict[int, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str | Path]:
    clip = make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=2)
    return [clip, "--model", checkpoints[2], "--engine", "eager", "--progress", "none"]


def test_beside_an_encoder_they_sleep_soon(
    given: list[str | Path], environment: dict[str, str], tmp_path: Path
) -> None:
    asked = ["upscale", *given, "-o", tmp_path / "out.mkv"]
    assert set(_spins(*asked, env=environment)) == {SPINS}


def test_so_do_those_of_many_jobs(
    given: list[str | Path], environment: dict[str, str], tmp_path: Path
) -> None:
    asked = ["batch", *given, "-o", tmp_path / "{stem}.mkv"]
    assert set(_spins(*asked, env=environment)) == {SPINS}


@pytest.mark.parametrize(
    ("name", "value"), [("GOMP_SPINCOUNT", "77"), ("OMP_WAIT_POLICY", "ACTIVE")]
)
def test_an_environment_that_chooses_is_left_alone(
    name: str, value: str, given: list[str | Path], environment: dict[str, str], tmp_path: Path
) -> None:
    asked = ["upscale", *given, "-o", tmp_path / "out.mkv"]
    found = set(_spins(*asked, env=environment, **{name: value}))
    assert found
    assert SPINS not in found


def test_where_nothing_is_encoded_they_are_left_alone(
    checkpoints: dict[int, Path], environment: dict[str, str]
) -> None:
    found = set(_spins("models", "check", checkpoints[2], env=environment))
    assert found
    assert SPINS not in found
