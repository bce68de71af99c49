"""Packets are the same whatever lay in memory before: malloc is told to fill what it gives."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import packets


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is meant")
@pytest.mark.parametrize(("width", "height"), [(48, 32), (160, 90)])
def test_packets_do_not_hang_on_what_lay_in_memory(
    width: int,
    height: int,
    make_clip: Callable[..., Path],
    cheap: list[str],
    hatvid_program: Callable[..., Any],
    tmp_path: Path,
) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=24, width=width, height=height)
    made = []
    for filled in ("85", "170"):
        out = tmp_path / f"{filled}.mkv"
        arguments = ("upscale", *cheap, clip, "-o", out)
        done = hatvid_program(*arguments, environment={"MALLOC_PERTURB_": filled})
        assert done.code == 0, done.err
        made.append(packets(out))
    assert made[0] == made[1]
