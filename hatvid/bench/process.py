"""The process of a contestant, seen from the race: asked, stopped, ended.

While others run it is stopped (SIGSTOP, with all that it may have started): thread pools
spin for a while when there is nothing left to do, some for ever. Windows has no such
signal. There idle contestants wait for input, and only spin as long as their libraries
let them.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hatvid.errors import EngineError

__all__ = ["CAN_STOP", "ContestantProcess"]

CAN_STOP = hasattr(signal, "SIGSTOP")


class ContestantProcess:
    """Runs :mod:`hatvid.bench.child`. Use it as a context manager, or call :meth:`close`.

    Args:
        folder: where it may leave files; private to the race.
        cpus: that it may run on; None leaves that to the system.
        threads: that libraries are told to take.
    """

    def __init__(self, folder: Path, *, cpus: Sequence[int] | None, threads: int) -> None:
        self._said = folder / f"said-{time.monotonic_ns()}.txt"
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.started = time.time()
        with self._said.open("wb") as said, _pinned(cpus):
            self._popen = subprocess.Popen(
                # -P: what lies in the working folder is no module of the contestant's.
                [sys.executable, "-P", "-m", "hatvid.bench.child", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=_environment(folder, threads),
                encoding="utf-8",
                # Ctrl-C reaches the race alone, and a signal to the group all that a
                # contestant starts.
                process_group=0 if CAN_STOP else None,
            )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ask(self, request: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            request: see :mod:`hatvid.bench.child`.
            seconds: to wait at most.

        Raises:
            EngineError: the contestant cannot do it, has ended, or takes too long; the text
                is the reason, and no more.
        """
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(json.dumps(request) + "\n")
            self._popen.stdin.flush()
        except (OSError, ValueError) as error:  # it has ended; or was closed, here
            raise EngineError(self._ending()) from error
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise EngineError(f"it gave no answer within {seconds:.0f} s") from None
        if line is None:
            raise EngineError(self._ending())
        answer: dict[str, Any] = json.loads(line)
        if "reason" in answer:
            raise EngineError(answer["reason"])
        return answer

    def stop(self) -> None:
        """Let it have no time of the CPU, and return when that is so."""
        if not CAN_STOP or self._popen.returncode is not None:
            return
        self._signal(signal.SIGSTOP)
        with suppress(ChildProcessError):
            _, status = os.waitpid(self.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                self._popen.returncode = os.waitstatus_to_exitcode(status)

    def resume(self) -> None:
        """Let it run again."""
        if CAN_STOP and self._popen.returncode is None:
            self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, stopped or not."""
        if self._popen.returncode is None:
            if CAN_STOP:
                self._signal(signal.SIGKILL)
            else:
                self._popen.kill()
            self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with suppress(ValueError, OSError):  # closed
            for line in self._popen.stdout:
                self._answers.put(line)
        self._answers.put(None)

    def _ending(self) -> str:
        """Why there is no answer."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=10)
        code = self._popen.returncode
        self.close()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = "; did memory run out?" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        said = self._said.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "nothing was said")
        return f"its process ended with code {code}: {last[:200]}"


@contextmanager
def _pinned(cpus: Sequence[int] | None) -> Iterator[None]:
    """What is started meanwhile runs on these CPUs from its first instruction on."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _environment(folder: Path, threads: int) -> dict[str, str]:
    count = str(threads)
    return os.environ | {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        # What is compiled or measured is so anew, and for this race alone.
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        # With the modules of this process, wherever they were found.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONUTF8": "1",
    }
