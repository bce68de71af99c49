"""Contestants that compute nothing and take as long as they are told to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from hatvid.bench.runner import Array, Frames, Runner, Task
from hatvid.errors import EngineError


class Pretender:
    """Repeats pixels; settings: ``seconds`` of a frame, ``error`` added to every sample,
    ``work``, ``dies`` (in which turn)."""

    step = 1

    def __init__(self, task: Task, settings: Mapping[str, Any]) -> None:
        self.precision = settings.get("precision", "fp32")
        self.settings = settings
        self.work: float | None = settings.get("work")
        self._scale = task.scale
        self._base = Frames.of(task).base
        self._runs = 0

    def run(self, count: int) -> float:
        self._runs += 1
        if self._runs == self.settings.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._runs == self.settings.get("fails"):
            raise EngineError("it is out of breath")
        return float(self.settings["seconds"]) * count

    def output(self) -> Array | None:
        if self.work is not None:
            return None
        larger = self._base.repeat(self._scale, axis=2).repeat(self._scale, axis=3)
        return larger + np.float32(self.settings.get("error", 0))


def pretend(task: Task, settings: Mapping[str, Any]) -> Runner:
    return Pretender(task, settings)


def refuse(task: Task, settings: Mapping[str, Any]) -> Runner:
    raise EngineError("no such engine; install it")


def end(task: Task, settings: Mapping[str, Any]) -> Runner:
    print("what a library prints")  # noqa: T201 - must not be taken for an answer
    os._exit(3)


def hang(task: Task, settings: Mapping[str, Any]) -> Runner:
    threading.Event().wait()
    raise AssertionError


def spin(task: Task, settings: Mapping[str, Any]) -> Runner:
    """With a thread that never rests, as those of a pool."""

    def forever() -> None:
        while True:
            pass

    threading.Thread(target=forever, daemon=True).start()
    return Pretender(task, {"seconds": 1})


def environment(task: Task, settings: Mapping[str, Any]) -> Runner:
    """Told as settings: what the process was given."""
    pretender = Pretender(task, {"seconds": 1})
    pretender.settings = {
        "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
        "group": os.getpgrp() if hasattr(os, "getpgrp") else None,
    }
    return pretender


def hang_call(task: Task) -> None:
    threading.Event().wait()


def missing(task: Task, settings: Mapping[str, Any]) -> Runner:
    import a_package_that_nobody_has  # noqa: F401

    raise AssertionError
