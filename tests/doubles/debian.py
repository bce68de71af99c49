"""Debian's ffmpeg and ffprobe, which share no code path with PyAV's wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

__all__ = ["ffmpeg", "ffprobe", "need"]


def need(name: str) -> str:
    """Where a program is; the test is skipped where it is not."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed (Debian: apt install ffmpeg)")
    return program


def ffmpeg(*arguments: str | Path, given: bytes = b"") -> bytes:
    """What ffmpeg writes to standard output; it must not complain of anything."""
    return _run("ffmpeg", "-y", *arguments, given=given)


def ffprobe(*arguments: str | Path) -> dict[str, Any]:
    """What ``ffprobe("-show_streams", path)`` tells; it must not complain of anything."""
    answer: dict[str, Any] = json.loads(_run("ffprobe", "-of", "json", *arguments))
    return answer


def _run(name: str, *arguments: str | Path, given: bytes = b"") -> bytes:
    done = subprocess.run(
        [need(name), "-v", "error", *map(os.fspath, arguments)],
        input=given,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout
