"""Segments shared out among the actors of a Ray cluster, of this machine alone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import Start, packets, programs, records, until

SEGMENTS = 20

Hatvid = Callable[..., Any]


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> Path:
    """Long enough for a second actor to come in time; a key frame every fourth frame."""
    path = tmp_path_factory.mktemp("parted") / "clip.mkv"
    return make_clip(path, frames=12 * SEGMENTS, audio="flac")


@pytest.fixture
def start(
    program_environment: dict[str, str], cheap: list[str], parted: Path, tmp_path: Path
) -> Iterator[Start]:
    common = [*cheap, "--progress", "json", "--segment", "0.5"]
    # Ray's own programs warn.
    environment = {k: v for k, v in program_environment.items() if k != "PYTHONWARNINGS"}
    with programs(environment) as begin:
        yield lambda *more: begin("upscale", *common, *more, parted, "-o", tmp_path / "out.mkv")


def actors_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "ray::Actor" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def workers_of(output: Path) -> set[str]:
    """Names of those who have done a segment."""
    return {record["worker"] for record in records(output)}


def first_of_two(process: subprocess.Popen[str], output: Path) -> int:
    """The pid of one of two actors, once both have done a segment; it is held from then on.

    Left alone, the first would often have done all before the other has started.
    """
    while not (workers := workers_of(output)):
        until(process, "progress")
    first = int(min(workers).rpartition(":")[2])
    os.kill(first, signal.SIGSTOP)
    while len(workers_of(output)) < 2:
        until(process, "progress")
    return first


def once(hatvid: Hatvid, cheap: list[str], parted: Path, path: Path) -> list[Any]:
    done = hatvid("upscale", *cheap, "--progress", "none", "--segment", "0.5", parted, "-o", path)
    assert (done.code, done.err) == (0, "")
    return packets(path)


@pytest.mark.long
def test_two_actors_of_which_one_dies_make_the_same_packets(
    start: Start, hatvid: Hatvid, cheap: list[str], parted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mkv"
    # A shard leaves the records, in which each worker's name stands.
    process = start("--cluster", "local", "--workers", "2", "--shard", "1/1")
    first = first_of_two(process, output)
    os.kill(first, signal.SIGKILL)
    finished = until(process, "finished")
    assert process.wait() == 0
    assert any("of the cluster died; another one takes its place" in n for n in finished["notes"])
    assert len(records(output)) == SEGMENTS
    common = [*cheap, "--segment", "0.5", parted, "-o", output]
    assert hatvid("join", *common).code == 0
    assert packets(output) == once(hatvid, cheap, parted, tmp_path / "once.mkv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once.mkv", "out.mkv"]


@pytest.mark.long
def test_a_dead_driver_goes_on_from_the_journal(
    start: Start, hatvid: Hatvid, cheap: list[str], parted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mkv"
    process = start("--cluster", "local", "--workers", "2")
    first = first_of_two(process, output)
    while len(records(output)) < 3:
        until(process, "progress")
    actors = actors_of(process)
    assert len(actors) == 2
    os.kill(first, signal.SIGCONT)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(actors, timeout=60)
    assert alive == [], "nothing goes on without its driver"
    kept = records(output)
    assert 3 <= len(kept) < SEGMENTS
    again = start("--cluster", "local", "--workers", "2")
    finished = until(again, "finished")
    assert again.wait() == 0
    assert any(f"{len(kept)} of {SEGMENTS} segments" in note for note in finished["notes"])
    assert packets(output) == once(hatvid, cheap, parted, tmp_path / "once.mkv")


def test_no_cluster_is_said(refused: Hatvid, parted: Path, tmp_path: Path) -> None:
    refused(
        *(parted, "-o", tmp_path / "out.mkv", "--segment", "0.5", "--cluster", "127.0.0.1:1"),
        code=1,
        says="there is no cluster at 127.0.0.1:1",
    )
