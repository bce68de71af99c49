"""A contestant's process: what it is given, that it really stops, and that it never stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hatvid.bench.process import CAN_STOP, ContestantProcess
from hatvid.bench.runner import Task
from hatvid.errors import EngineError

PATIENCE = 60.0
"""Seconds until something that must happen has not happened."""

posix = pytest.mark.xfail(not CAN_STOP, reason="there is no SIGSTOP here", strict=True)


def until(condition: Callable[[], bool]) -> bool:
    """Look again and again, but give others the CPU."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        os.sched_yield() if hasattr(os, "sched_yield") else None
    return condition()


def gone(pid: int) -> bool:
    """Ended; one that nobody has asked about yet has ended too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def busy(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def built(process: ContestantProcess, task: Task, build: str, **settings: Any) -> dict[str, Any]:
    request = {
        "do": "build",
        "build": f"racers:{build}",
        "task": task.as_dict(),
        "settings": settings,
        "started": process.started,
        "output": str(Path(task.frames).with_name("output.npy")),
    }
    return process.ask(request, seconds=PATIENCE)


@pytest.fixture
def process(folder: Path) -> Iterator[ContestantProcess]:
    with ContestantProcess(folder, cpus=None, threads=1) as started:
        yield started


def test_answers_are_told_from_what_libraries_print(
    process: ContestantProcess, given: Task
) -> None:
    told = built(process, given, "pretend", seconds=0.125)
    assert told["settings"] == {"seconds": 0.125}
    assert 0 < told["start_seconds"] < PATIENCE
    turn = process.ask({"do": "turn", "seconds": 1}, seconds=PATIENCE)
    assert (turn["seconds"], turn["frames"]) == (0.125, 8)
    assert turn["memory"] > 10_000_000


@pytest.mark.parametrize(
    ("build", "says"),
    [
        ("refuse", "^no such engine; install it$"),
        ("end", "^its process ended with code 3: what a library prints$"),
        (
            "missing",
            r"^a_package_that_nobody_has is not installed; run: pip install 'hatvid\[bench",
        ),
        ("nothing_of_that_name", "AttributeError"),
    ],
)
def test_why_it_cannot_be_built(
    process: ContestantProcess, given: Task, build: str, says: str
) -> None:
    with pytest.raises(EngineError, match=says):
        built(process, given, build)


@posix
def test_killed_from_outside(process: ContestantProcess, given: Task) -> None:
    built(process, given, "pretend", seconds=1, dies=1)
    with pytest.raises(EngineError, match="ended by SIGKILL; did memory run out"):
        process.ask({"do": "turn", "seconds": 1}, seconds=PATIENCE)
    process.stop()  # none of this does harm afterwards
    process.resume()
    with pytest.raises(EngineError, match="SIGKILL"):
        process.ask({"do": "turn", "seconds": 1}, seconds=PATIENCE)


def test_no_answer_is_a_failure(process: ContestantProcess, given: Task) -> None:
    request = {"do": "call", "call": "racers:pretend", "task": given.as_dict()}
    with pytest.raises(EngineError):
        process.ask(request, seconds=PATIENCE)
    hanging = {"do": "call", "call": "racers:hang_call", "task": given.as_dict()}
    with pytest.raises(EngineError, match="no answer within 0 s"):
        process.ask(hanging, seconds=0.01)
    assert gone(process.pid)


@posix
def test_threads_of_a_stopped_process_get_no_time(process: ContestantProcess, given: Task) -> None:
    built(process, given, "spin")
    start = busy(process.pid)
    assert until(lambda: busy(process.pid) > start)
    process.stop()
    before, own = busy(process.pid), time.process_time()
    assert until(lambda: time.process_time() > own + 0.5)
    assert busy(process.pid) == before
    process.resume()
    assert until(lambda: busy(process.pid) > before)
    process.stop()
    process.close()
    assert gone(process.pid)


@posix
def test_it_runs_where_and_as_it_is_told(folder: Path, given: Task) -> None:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    cpus = None if before is None else sorted(before)[-1:]
    with ContestantProcess(folder, cpus=cpus, threads=3) as process:
        told = built(process, given, "environment")["settings"]
        assert told == {"cpus": cpus, "OMP_NUM_THREADS": "3", "group": process.pid}
    if before is not None:
        assert os.sched_getaffinity(0) == before


PARENT = """
import sys
from pathlib import Path
from hatvid.bench.process import ContestantProcess
from hatvid.bench.runner import Task
import json
task = Task.from_dict(json.loads(sys.argv[1]))
process = ContestantProcess(Path(sys.argv[2]), cpus=None, threads=1)
process.ask({"do": "build", "build": "racers:spin", "task": task.as_dict(), "settings": {},
             "started": 0, "output": sys.argv[2] + "/output.npy"}, seconds=60)
if sys.argv[3] == "stopped":
    process.stop()
print(process.pid, flush=True)
sys.stdin.read()
"""


@posix
@pytest.mark.parametrize("state", ["stopped", "running"])
def test_it_ends_with_a_parent_that_is_killed(folder: Path, given: Task, state: str) -> None:
    import json

    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, json.dumps(given.as_dict()), str(folder), state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        stopped = psutil.Process(pid).status() == psutil.STATUS_STOPPED
        assert stopped == (state == "stopped")
        parent.send_signal(signal.SIGKILL)
    assert until(lambda: gone(pid))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not inherit it")
def test_memory_is_the_contestant_s_own() -> None:
    held = bytearray(os.urandom(1 << 20)) * 600  # as a race holds outputs
    program = "from hatvid.bench.child import peak_memory; print(peak_memory())"
    before = int(subprocess.check_output([sys.executable, "-c", program]))
    more = f"kept = b'1' * (200 << 20); {program}"
    after = int(subprocess.check_output([sys.executable, "-c", more]))
    assert before < len(held) / 2
    assert 190 << 20 < after - before < 210 << 20
