"""Which of several ways to run one network is the fastest here: measured once, then kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hatvid.engine.base import Engine
from hatvid.engine.cache import ModelCache
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = ["cuda_seconds", "fastest"]

ROUNDS = 5
"""Runs that are timed, after one that is not; the least counts, as everything that
disturbs a run makes it longer."""

_log = logging.getLogger(__name__)


def cuda_seconds(engine: Engine, tiles: Tensor) -> float:
    """How long one run takes on the engine's GPU, by its own clock."""
    times: list[float] = []
    # Events belong to the current device's stream; with several GPUs that is another one.
    with torch.cuda.device(engine.spec.device):
        engine.run(tiles)
        for _ in range(ROUNDS):
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()
            engine.run(tiles)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1000)
    return min(times)


def fastest[Name: str](
    candidates: Mapping[Name, Callable[[], Engine]],
    tiles: Tensor,
    *,
    identity: Mapping[str, str],
    cache: ModelCache | None,
    seconds: Callable[[Engine, Tensor], float] = cuda_seconds,
    margin: float = 1.0,
    measure: bool = True,
) -> Name:
    """Choose by measurement.

    Args:
        candidates: build an engine each, the preferred one first. They are built one after
            the other, and closed.
        tiles: to run.
        identity: all that the answer depends on.
        cache: remembers the answer for this identity; not one that memory was short for.
        seconds: measures.
        margin: another than the first has to take less than this share of its time.
        measure: False takes what was measured before, or else the first.

    Returns:
        The name of the fastest of those that can be built.

    Raises:
        EngineError: none can be built; the first one's error.
    """
    first = next(iter(candidates))
    about = json.dumps([sorted(identity.items()), sorted(candidates)])
    key = hashlib.sha256(about.encode()).hexdigest()
    kept = None if cache is None else cache.read(key)
    before = None if kept is None else kept.decode(errors="replace")
    for name in candidates:
        if name == before:
            return name
    if not measure:
        return first
    times = {}
    failures: list[EngineError] = []
    lasting = True
    for name, build in candidates.items():
        try:
            engine = build()
            try:
                times[name] = seconds(engine, tiles) * (margin if name == first else 1)
            finally:
                engine.close()
        except EngineError as error:
            failures.append(error)
            lasting = lasting and not isinstance(error, OutOfMemoryError)
            _log.warning("%s cannot be used here (%s)", name, error)
    if not times:
        raise failures[0]
    chosen = min(times, key=lambda name: times[name])
    _log.info("measured %s s (the first by %s); taking %s", times, margin, chosen)
    if cache is not None and lasting:
        cache.write(key, chosen.encode())
    return chosen
