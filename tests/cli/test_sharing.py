"""Segments shared out among processes and shards, and what is told of those that are kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import Start, packets, programs, records, until

Hatvid = Callable[..., Any]


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> Path:
    """48 frames, a key frame every fourth."""
    return make_clip(tmp_path_factory.mktemp("parted") / "clip.mkv", frames=48, audio="flac")


@pytest.fixture
def start(
    program_environment: dict[str, str], cheap: list[str], parted: Path, tmp_path: Path
) -> Iterator[Start]:
    common = [*cheap, "--progress", "json", "--segment", "0.5", "-o", tmp_path / "out.mkv"]
    with programs(program_environment) as begin:
        yield lambda *arguments, clip=parted: begin(*arguments, *common, clip)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def whole(hatvid: Hatvid, cheap: list[str], parted: Path, path: Path) -> list[Any]:
    done = hatvid("upscale", *cheap, "--progress", "none", "--segment", "0.5", parted, "-o", path)
    assert (done.code, done.err) == (0, "")
    return packets(path)


@pytest.mark.long
def test_two_workers_of_which_one_dies_make_the_same_packets(
    start: Callable[..., subprocess.Popen[str]],
    hatvid: Hatvid,
    cheap: list[str],
    parted: Path,
    tmp_path: Path,
) -> None:
    process = start("upscale", "--workers", "2")
    until(process, "progress")
    victim, other = workers_of(process)
    os.kill(victim.pid, signal.SIGKILL)
    finished = until(process, "finished")
    assert process.wait() == 0
    assert not other.is_running()
    assert any("died (exit code -9); another one takes its place" in n for n in finished["notes"])
    assert finished["frames"] == 48
    assert packets(tmp_path / "out.mkv") == whole(hatvid, cheap, parted, tmp_path / "once.mkv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once.mkv", "out.mkv"]


@pytest.mark.long
def test_a_dead_driver_takes_its_workers_along_and_its_work_goes_on(
    start: Callable[..., subprocess.Popen[str]],
    hatvid: Hatvid,
    cheap: list[str],
    parted: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out.mkv"
    process = start("upscale", "--workers", "2")
    while len(records(output)) < 2:
        until(process, "progress")
    workers = workers_of(process)
    process.kill()
    process.wait()
    psutil.wait_procs(workers, timeout=60)
    assert not any(worker.is_running() for worker in workers)
    kept = records(output)
    assert 2 <= len(kept) < 4
    assert {record["worker"].rpartition(":")[2] for record in kept} <= {
        str(worker.pid) for worker in workers
    }
    again = start("upscale", "--workers", "2")
    finished = until(again, "finished")
    assert again.wait() == 0
    assert any(f"{len(kept)} of 4 segments" in note for note in finished["notes"])
    assert packets(output) == whole(hatvid, cheap, parted, tmp_path / "once.mkv")


@pytest.mark.long
def test_every_worker_does_a_segment(
    start: Callable[..., subprocess.Popen[str]], make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    # Work enough for a worker that starts seconds after the other, on a machine that is busy.
    clip = make_clip(tmp_path / "clip.mkv", frames=720)
    process = start("upscale", "--workers", "2", "--shard", "1/1", clip=clip)
    until(process, "finished")
    assert len({record["worker"] for record in records(tmp_path / "out.mkv")}) == 2


def test_shards_are_joined(hatvid: Hatvid, cheap: list[str], parted: Path, tmp_path: Path) -> None:
    common = [*cheap, "--segment", "0.5", parted, "-o", tmp_path / "out.mkv"]
    done = hatvid("upscale", "--shard", "2/2", *common)
    assert done.code == 0
    assert "of the whole, 2 of 4 segments are done" in done.err
    early = hatvid("join", *common)
    assert early.code == 1
    assert "2 of 4 segments are not done yet (0, 1); run the shards" in early.err
    assert hatvid("upscale", "--shard", "1/2", *common).code == 0
    assert hatvid("join", *common).code == 0
    assert packets(tmp_path / "out.mkv") == whole(hatvid, cheap, parted, tmp_path / "once.mkv")


def test_what_is_kept_is_listed_shown_and_cleaned(
    hatvid: Hatvid, cheap: list[str], parted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mkv"
    assert hatvid("jobs", "list", tmp_path).out == ""
    common = [*cheap, "--segment", "0.5", parted, "-o", output]
    assert hatvid("upscale", "--shard", "1/2", *common).code == 0
    assert f"{output}: 2 of 4 segments, 0.0 MB, stopped" in hatvid("jobs", "list", tmp_path).out
    (line,) = hatvid("jobs", "list", tmp_path, "--json").out.splitlines()
    assert json.loads(line) | {"bytes": 0} == {
        "output": str(output),
        "input": str(parted),
        "done": 2,
        "segments": 4,
        "bytes": 0,
        "working": False,
    }
    shown = hatvid("jobs", "show", output)
    assert "segments: 2 of 4 are done" in shown.out
    assert "engine: eager" in shown.out
    assert (
        json.loads(hatvid("jobs", "show", output, "--json").out)["settings"]["codec"] == "libx264"
    )
    done = hatvid("jobs", "clean", output)
    assert done.code == 0
    assert "freed" in done.out
    assert list(tmp_path.iterdir()) == []
    for command in ("show", "clean"):
        gone = hatvid("jobs", command, output)
        assert gone.code == 1
        assert "nothing is kept of" in gone.err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--shard", "3/2"], "write 1/N to N/N"),
        (["--shard", "half"], "is no part"),
        (["--shard", "1/2", "--restart"], "throw away what other shards did"),
        (["--workers", "0"], "at least 1, or auto"),
        (["--workers", "tpu:1"], "name devices as cuda:0,cuda:1"),
        (["--segment", "-1"], "0 or more seconds"),
        (["--segment", "0", "--workers", "2"], "no segments to share out"),
    ],
)
def test_what_makes_no_sense_is_refused(
    refused: Hatvid, parted: Path, tmp_path: Path, given: list[str], says: str
) -> None:
    refused(parted, "-o", tmp_path / "out.mkv", *given, code=2, says=says)


def test_a_stop_says_what_is_kept(
    hatvid: Hatvid, cheap: list[str], parted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatvid.jobs import whole as whole_module

    def interrupted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(whole_module, "join", interrupted)
    common = [*cheap, "--progress", "none", "--segment", "0.5", parted, "-o", tmp_path / "out.mkv"]
    stopped = hatvid("upscale", *common)
    assert stopped.code == 130
    assert "nothing was written under the output's name; 4 of 4 segments are kept" in stopped.err
    assert "the same command goes on from there" in stopped.err
