"""Packets are the same whatever lay in memory before: malloc is told to fill what it gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import packets


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is meant")
@pytest.mark.parametrize(("width", "height"), [(48, 32), (160, 90)])
def test_packets_do_not_hang_on_what_lay_in_memory(
    width: int,
    height: int,
    make_clip: Callable[..., Path],
    cheap: list[str],
    program_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=24, width=width, height=height)
    made = []
    for filled in ("85", "170"):
        out = tmp_path / f"{filled}.mkv"
        subprocess.run(
            [sys.executable, "-m", "hatvid", "upscale", *cheap, clip, "-o", out],
            env=program_environment | {"MALLOC_PERTURB_": filled},
            check=True,
            capture_output=True,
            timeout=120,
        )
        made.append(packets(out))
    assert made[0] == made[1]
