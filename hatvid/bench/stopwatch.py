"""How long functions take inside of a program that knows nothing of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up seconds by name, from several threads.

    They are seconds of a clock on the wall: what waits for a core takes longer.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> float:
        with self._lock:
            return self._seconds.get(name, 0.0)

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """What is done within it counts."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @contextmanager
    def on(self, functions: Mapping[tuple[Any, str], str]) -> Iterator[None]:
        """Time every call of some functions while the block runs.

        Args:
            functions: what each counts as, by the module or class that holds it and its name
                there. Of one that gives an iterator the steps count.
        """
        with ExitStack() as stack:
            for (owner, name), counted in functions.items():
                timed = self._timed(getattr(owner, name), counted)
                stack.enter_context(patch.object(owner, name, timed))
            yield

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            with self.running(name):
                result = function(*given, **named)
            return self._steps(result, name) if isinstance(result, Iterator) else result

        return timed

    def _steps(self, steps: Iterator[Any], name: str) -> Iterator[Any]:
        nothing = object()
        try:
            while True:
                with self.running(name):
                    step = next(steps, nothing)
                if step is nothing:
                    return
                yield step
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()
