"""What a command tells malloc: page faults are counted by the system, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is meant")

# Frame after frame, each with two large tensors and one beyond what the heap keeps.
PROGRAM = """
import resource, statistics, sys
import torch
from hatvid.cli.heap import KEPT, LARGEST, keep_freed_memory

told = keep_freed_memory() if sys.argv[1] == "told" else None

def frame(size):
    first = torch.ones(size, dtype=torch.uint8)
    second = first + 1
    del first, second

def faults(size):
    frame(size)
    found = []
    for _ in range(40):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        frame(size)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return found

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

found = faults(48 << 20)
before = resident()
frame(LARGEST + (64 << 20))
grown = resident() - before
frame(KEPT)
faults_of = (statistics.median(found), sum(found), sum(found[20:]))
print(told, *faults_of, grown < 32 << 20, resident() - before < KEPT)
"""


def _run(word: str, **environment: str) -> list[str]:
    chosen = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    chosen.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, word],
        env=chosen | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.split()


def test_a_frame_takes_the_memory_of_the_one_before() -> None:
    told, few, few_in_all, late, grown, kept = _run("told")
    assert (told, grown, kept) == ("True", "True", "True")
    _, many, many_in_all, *_ = _run("untold")
    assert float(few) < 100
    # Two tensors of 48 MiB: malloc as it comes takes none of them into its heap.
    assert float(many) > 50 * float(few) + 1000
    # Some frames find no gap that is large enough, as malloc looks for more than it then takes
    # for aligned memory, and the heap grows; after some frames there are gaps enough.
    assert int(few_in_all) < int(many_in_all) / 4
    assert int(late) < int(many_in_all) / 40  # of twenty frames, what one takes


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_an_environment_that_chooses_is_left_alone(name: str) -> None:
    told, *_ = _run("told", **{name: "65536"})
    assert told == "False"
