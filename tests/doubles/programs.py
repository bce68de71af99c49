"""hatvid as a program of its own, and what it leaves of a job in segments."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

__all__ = ["Start", "packets", "programs", "records", "until"]

Start = Callable[..., subprocess.Popen[str]]


@contextmanager
def programs(environment: Mapping[str, str]) -> Iterator[Start]:
    """Start hatvid with arguments, its three streams apart; all are killed in the end."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "hatvid", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """Read a program's ``--progress json`` as far as an event."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def packets(path: Path) -> list[Any]:
    """Stream, times and hash of every packet."""
    with av.open(path) as container:
        return [
            (p.stream.index, p.pts, p.dts, hashlib.sha256(bytes(p)).hexdigest())
            for p in container.demux()
            if p.size
        ]


def records(output: Path) -> list[dict[str, Any]]:
    """Of the segments that are kept of an output."""
    folder = output.with_name(f".{output.name}.hatvid")
    return [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9]*.json"))]
