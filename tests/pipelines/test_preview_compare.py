"""The comparing recipe, run by vspipe as its header says."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "pipelines/preview_compare.vpy"
CLIP = Path(__file__).parents[1] / "data/bunny_320x180.mp4"


def _vspipe(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["vspipe", "-c", "y4m", *arguments, str(RECIPE), "-"],
        capture_output=True,
        env=environment,
        timeout=240,
        check=False,
    )


def test_writes_both_side_by_side() -> None:
    done = _vspipe("-a", f"input={CLIP}", "-a", "end=1", "-a", "scale=2")
    assert done.returncode == 0, done.stderr.decode()
    header, _, frame = done.stdout.partition(b"\n")
    assert b" W1280 H360 " in header  # two pictures of 640x360
    assert len(frame) == len(b"FRAME\n") + 3 * 1280 * 360


def test_without_an_input_it_says_what_to_give() -> None:
    done = _vspipe()
    assert done.returncode != 0
    assert b"-a input=" in done.stderr
