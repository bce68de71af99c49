"""The process of one contestant: ``python -m hatvid.bench.child PARENT``.

It reads one JSON object a line from standard input and answers each with one on what was
its standard output; whatever libraries print goes to standard error.

``{"do": "build", "build": "module:function", "task": ..., "settings": ..., "started": ...,
"output": FILE}``
    calls the function with task and settings, and writes what the
    :class:`~hatvid.bench.runner.Runner` makes of the task's frames to a file.
``{"do": "turn", "seconds": ...}``
    runs about that long.
``{"do": "call", "call": "module:function", "task": ...}``
    calls the function with the task.

It ends with its parent, however that ends, and even while it is stopped.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hatvid.bench.runner import Runner, Task

__all__ = ["main"]

SHORT = 0.5
"""Seconds. A turn begins with a run that is not counted, which brings code and weights
back into the caches, if it is shorter than this: in a longer one that is lost."""

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer until standard input ends."""
    end_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    contestant = _Contestant()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = contestant.answer(request)
        except BaseException as error:
            answer = {"reason": _reason(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def end_with(parent: int) -> None:
    """Be killed when the parent ends.

    A process that waits for input sees its parent end by the end of that input, but one that
    is stopped sees nothing. On Linux the kernel is asked to kill it. On other POSIX systems
    it is woken by SIGHUP and SIGCONT, as it is in a process group of its own that nobody in
    its session looks after any more.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)


def take_turn(runner: Runner, seconds: float) -> tuple[float, int]:
    """Seconds a frame over a turn of about that many seconds, and how many frames."""
    first = runner.run(runner.step)
    if first >= max(SHORT, seconds):
        return first / runner.step, runner.step
    steps = max(1, round(seconds / max(first, 1e-6)))
    count = steps * runner.step
    took, done = runner.run(count), count
    if first >= SHORT:
        took, done = took + first, done + runner.step
    return took / done, done


class _Contestant:
    def __init__(self) -> None:
        self._runner: Runner | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["do"] == "build":
            return self._build(request)
        if request["do"] == "call":
            _named(request["call"])(Task.from_dict(request["task"]))
            return {}
        assert self._runner is not None
        seconds, frames = take_turn(self._runner, request["seconds"])
        return {"seconds": seconds, "frames": frames, "memory": peak_memory()}

    def _build(self, request: Mapping[str, Any]) -> dict[str, Any]:
        build = _named(request["build"])
        runner: Runner = build(Task.from_dict(request["task"]), request["settings"])
        ready = time.time() - request["started"]
        self._runner = runner
        output = runner.output()
        if output is not None:
            np.save(request["output"], output)
        return {
            "start_seconds": ready,
            "precision": runner.precision,
            "settings": dict(runner.settings),
            "work": runner.work,
            "output": output is not None,
        }


def peak_memory() -> int:
    """The most bytes of memory that this process has had at once."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which a process of Linux takes over from the one that started it.
        lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _named(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    kind = type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; run: pip install 'hatvid[bench]'"
    if type(error).__module__.startswith("hatvid."):
        return first
    return f"{kind}: {first}"[:300] if first else kind


if __name__ == "__main__":
    main()
