"""Programs that pip does not bring: Debian's ffmpeg and ffprobe share no code path with PyAV's
wheel, a browser opens a page, a compiler builds what PyTorch writes.

Only a test that is marked ``media`` may start one, and a test is marked by a fixture that it uses:
``ffmpeg``, ``ffprobe``, ``chromium`` or ``compiler`` (see tests/conftest.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FIXTURES", "allowed", "ffmpeg", "ffprobe", "need"]

FIXTURES = frozenset({"chromium", "compiler", "ffmpeg", "ffprobe"})
"""The fixtures that mark a test with ``media``."""

_PACKAGES = {
    "ffmpeg": "ffmpeg",
    "ffprobe": "ffmpeg",
    "chromium-headless-shell": "chromium-headless-shell",
    "g++": "g++",
}
_allowed = False


@contextmanager
def allowed(path: str) -> Iterator[None]:
    """Within, ``path`` is the PATH, and :func:`need` finds what is in it."""
    global _allowed
    before = os.environ["PATH"], _allowed
    os.environ["PATH"], _allowed = path, True
    try:
        yield
    finally:
        os.environ["PATH"], _allowed = before


def need(*names: str) -> str:
    """Where the first of these programs is that there is.

    The test is skipped where there is none, and fails where it is not marked ``media``.
    """
    if not _allowed:
        pytest.fail(f"a test that starts {names[0]} uses a fixture of {sorted(FIXTURES)}")
    for name in names:
        if (program := shutil.which(name)) is not None:
            return program
    pytest.skip(f"{names[0]} is not installed (Debian: apt install {_PACKAGES[names[0]]})")


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
