"""A disk that is full before a job is done, a tmpfs in a mount namespace of its own (Linux)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import packets

SCRIPT = """
set -eu
mount -t tmpfs -o size=$ROOM tmpfs "$DISK"
code=0
"$@" || code=$?
echo "first $code"
ls "$DISK"
ls "$DISK/.out.mkv.hatvid" | grep '^[0-9].*json'
mount -o remount,size=64m "$DISK"
"$@"
cp "$DISK/out.mkv" "$KEPT"
ls -A "$DISK"
"""
NAMESPACE = ("unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh")


def can_mount() -> bool:
    """Whether this user may have a mount namespace: some containers forbid it."""
    if shutil.which("unshare") is None:
        return False
    asked = ("unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


@pytest.mark.long
# Full while segments are made, and when they are joined.
@pytest.mark.xfail(not can_mount(), reason="no mount namespaces here", run=False)
@pytest.mark.parametrize(
    ("room", "segments"), [("96k", {1, 2, 3, 4}), ("400k", {5})], ids=["a segment", "the join"]
)
def test_what_is_done_stays_and_the_same_command_goes_on(
    hatvid: Callable[..., Any],
    program_environment: dict[str, str],
    cheap: list[str],
    make_clip: Callable[..., Path],
    tmp_path: Path,
    room: str,
    segments: set[int],
) -> None:
    source = make_clip(tmp_path / "clip.mkv", frames=60, audio="flac")
    options = [*cheap, "--progress", "none", "--segment", "0.5", "--codec", "ffv1", source, "-o"]
    disk = tmp_path / "disk"
    disk.mkdir()
    program = [sys.executable, "-m", "hatvid", "upscale", *options, disk / "out.mkv"]
    kept = tmp_path / "kept.mkv"
    more = {"ROOM": room, "DISK": str(disk), "KEPT": str(kept)}
    done = subprocess.run(
        [*NAMESPACE, *map(str, program)],
        capture_output=True,
        text=True,
        env=program_environment | more,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *names, last = done.stdout.splitlines()
    assert first == "first 1"
    assert len(names) in segments, names
    assert last == "out.mkv"
    *_, failed, going_on = done.stderr.splitlines()
    assert "no space left" in failed.lower()
    assert f"{len(names)} of 5 segments" in failed
    assert f"going on: {len(names)} of 5 segments" in going_on
    straight = tmp_path / "straight.mkv"
    assert hatvid("upscale", *options, straight).code == 0
    assert packets(kept) == packets(straight)
