"""SIGKILL at any moment of segment, journal and join: the same command ends as if nothing had
been, and computes at most one segment again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import packets

from hatvid.jobs.enlarge import WRITE_BEHIND

FRAMES, SEGMENT = 60, 12

# Starts jobs by fork: importing torch takes longer than they do. PyTorch has computed nothing
# before a fork, and has one thread.
PROGRAM = """
import json, os, pathlib, signal, sys, threading, time
import torch
from torch import nn
import hatvid
from hatvid.jobs.progress import Silent
from hatvid.options import EngineOptions
import hatvid.jobs.run, hatvid.jobs.verify
torch.set_num_threads(1)

class RepeatPixels(nn.Module):
    def forward(self, x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

class Counted(Silent):
    def advanced(self, frames):
        with open(sys.argv[3], "a") as file:
            file.write("x")

def dying(owner, name, left):
    whole = getattr(owner, name)
    def call(*given, **named):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*given, **named)
    setattr(owner, name, call)

def job(order):
    left = [order.get("call", 0)]
    for owner, name in ((os, "fsync"), (os, "link"), (pathlib.Path, "replace"),
                        (pathlib.Path, "rename"), (pathlib.Path, "unlink")):
        dying(owner, name, left)
    if "after" in order:
        def die():
            time.sleep(order["after"])
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=die, daemon=True).start()
    begun = time.monotonic()
    upscaler = hatvid.Upscaler(RepeatPixels(), scale=2, fingerprint="repeats pixels",
                               engine_options=EngineOptions(engine="eager", threads=1))
    hatvid.upscale(sys.argv[1], sys.argv[2], upscaler=upscaler, segment=0.5, progress=Counted())
    return {"calls": -left[0], "seconds": time.monotonic() - begun}

for line in sys.stdin:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        result = {}
        try:
            result = job(json.loads(line))
        except BaseException as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    told = os.read(reader, 65536)
    os.close(reader)
    print(json.dumps(json.loads(told) if told else {"killed": os.WTERMSIG(status)}), flush=True)
"""


@pytest.fixture(scope="module")
def clip(pyav: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "clip.mkv"
    pyav(
        *("-f", "lavfi", "-i", f"testsrc2=size=64x48:rate=24:duration={FRAMES / 24}"),
        *("-f", "lavfi", "-i", f"sine=duration={FRAMES / 24}", "-c:a", "aac"),
        *("-c:v", "libx264", "-g", "12", "-bf", "2", "-pix_fmt", "yuv420p"),
        *("-color_range", "tv", "-colorspace", "smpte170m", path),
    )
    return path


class Jobs:
    """Runs the same job again and again, killed or not."""

    def __init__(self, clip: Path, folder: Path) -> None:
        self.output, self._count = folder / "out.mkv", folder.parent / f"{folder.name}.count"
        self._program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, clip, self.output, self._count],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, **order: Any) -> dict[str, Any]:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(order) + "\n")
        self._program.stdin.flush()
        answer: dict[str, Any] = json.loads(self._program.stdout.readline())
        assert "error" not in answer, answer
        return answer

    def computed(self) -> int:
        """Frames since it was last asked."""
        count = self._count.stat().st_size if self._count.exists() else 0
        self._count.unlink(missing_ok=True)
        return count

    def packets(self) -> list[Any]:
        return packets(self.output)

    def close(self) -> None:
        self._program.kill()
        self._program.communicate()


@pytest.fixture
def jobs(clip: Path, tmp_path: Path) -> Iterator[Jobs]:
    folder = tmp_path / "outputs"
    folder.mkdir()
    started = Jobs(clip, folder)
    yield started
    started.close()


def survives(jobs: Jobs, whole: list[Any], **order: Any) -> None:
    """Kill it so, and run it again."""
    dead = jobs.run(**order)
    lost = jobs.computed()
    if "killed" in dead:
        assert dead == {"killed": 9}
        published = jobs.output.exists()
        assert not published or jobs.packets() == whole, "half an output has the name"
        if not published:
            jobs.run()
            again = lost + jobs.computed() - FRAMES
            # What is enlarged already waits for the encoder, a few frames at most.
            assert 0 <= again <= SEGMENT + WRITE_BEHIND + 2, order
    assert jobs.packets() == whole
    left = [path.name for path in jobs.output.parent.iterdir() if path != jobs.output]
    assert len(left) <= ("killed" in dead)
    for path in jobs.output.parent.iterdir():
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()


@pytest.mark.long
def test_killed_at_three_steps(jobs: Jobs) -> None:
    calls = jobs.run()["calls"]
    assert jobs.computed() == FRAMES
    whole = jobs.packets()
    jobs.output.unlink()
    # Before anything is stored, amid the segments, and when the output gets its name.
    for call in (1, random.Random(8).randrange(2, calls - 8), calls - 3):
        survives(jobs, whole, call=call)


@pytest.mark.long
def test_killed_at_each_single_step(jobs: Jobs) -> None:
    calls = jobs.run()["calls"]
    whole = jobs.packets()
    jobs.output.unlink()
    jobs.computed()
    for call in range(1, calls + 1):
        survives(jobs, whole, call=call)


@pytest.mark.long
def test_killed_at_twenty_random_moments(jobs: Jobs) -> None:
    seconds = jobs.run()["seconds"]
    whole = jobs.packets()
    jobs.output.unlink()
    jobs.computed()
    moments = random.Random()
    for _ in range(20):
        survives(jobs, whole, after=moments.uniform(0, seconds))
