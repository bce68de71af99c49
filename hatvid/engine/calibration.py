"""OpenVINO or PyTorch on this CPU, whose attention on this GPU, for one network and shape:
measured, then kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hatvid.engine import ResolvedEngine
from hatvid.engine.base import Engine, TileSpec
from hatvid.engine.cache import ModelCache, hatvid_version, library_version
from hatvid.engine.choice import ROUNDS, fastest
from hatvid.engine.fidelity import probe

__all__ = ["WORTH_RUNS", "faster_on_cpu", "fused_is_faster", "wall_seconds"]

WORTH_RUNS = 200
"""Runs that have to lie ahead: about ten are spent on measuring, and an engine is built
that may not be needed."""

MARGIN = 0.95
"""PyTorch is taken if it needs less than this share of OpenVINO's time: less may be noise,
and the choice should be the same the next time."""

LONG = 2.0
"""Seconds. What takes longer is not run again and again to be timed."""


def wall_seconds(engine: Engine, tiles: Tensor) -> float:
    """How long one run takes on a CPU: the least of some, after one that is not counted."""
    times: list[float] = []
    while len(times) < 2 or (len(times) <= ROUNDS and sum(times) < LONG):
        start = time.perf_counter()
        engine.run(tiles)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def faster_on_cpu(
    resolved: ResolvedEngine,
    spec: TileSpec,
    build: Callable[[ResolvedEngine], Engine],
    *,
    fingerprint: str | None,
    code: str,
    eager_precision: Literal["fp32", "bf16", "fp16"],
    cache: ModelCache | None,
    runs: int,
    seconds: Callable[[Engine, Tensor], float] = wall_seconds,
) -> ResolvedEngine:
    """Choose between OpenVINO and PyTorch.

    Args:
        resolved: OpenVINO, as :func:`~hatvid.engine.resolve_engine` decided.
        spec: of the tiles.
        build: makes an engine.
        fingerprint: names the network's weights and configuration; None remembers nothing.
        code: names the network's source, see :func:`~hatvid.engine.cache.code_hash`.
        eager_precision: what PyTorch would compute in.
        cache: remembers what was measured.
        runs: that lie ahead. Fewer than :data:`WORTH_RUNS` are not worth measuring: then the
            answer is what was measured before, or OpenVINO.
        seconds: measures.

    Raises:
        EngineError: the engine of OpenVINO cannot be built, or failed.
    """
    from hatvid.engine.openvino import cpu_facts

    eager = replace(resolved, engine="eager", precision=eager_precision, streams=1)
    candidates = {"openvino": resolved, "eager": eager}
    identity = {
        "network": fingerprint or "",
        "code": code,
        "shape": str(spec.input_shape),
        "precisions": f"{resolved.precision} {eager_precision}",
        "threads": str(resolved.threads),
        "streams": str(resolved.streams),
        "hatvid": hatvid_version(),
        "torch": torch.__version__,
        "openvino": library_version("openvino"),
        "cpu": " ".join(cpu_facts()),
    }
    name = fastest(
        {name: partial(build, each) for name, each in candidates.items()},
        probe(spec),
        identity=identity,
        cache=cache if fingerprint else None,
        seconds=seconds,
        margin=MARGIN,
        measure=runs >= WORTH_RUNS,
    )
    return candidates[name]


def fused_is_faster(
    resolved: ResolvedEngine,
    spec: TileSpec,
    build: Callable[[bool], Engine],
    *,
    network: str,
    cache: ModelCache | None,
) -> bool:
    """Choose between this project's attention and PyTorch's on a GPU.

    Args:
        resolved: the engine that runs both.
        spec: of the tiles.
        build: makes an engine, with this project's attention or without.
        network: its configuration; weights do not matter.
        cache: remembers what was measured.

    Raises:
        EngineError: the engine with PyTorch's cannot be built, or failed.
    """
    identity = {
        "gpu": torch.cuda.get_device_name(resolved.device),
        "hatvid": hatvid_version(),
        "torch": torch.__version__,
        "network": network,
        "precision": resolved.precision,
        "compiled": str(resolved.compiled),
        "shape": str(spec.input_shape),
    }
    candidates = {"sdpa": partial(build, False), "triton": partial(build, True)}
    return fastest(candidates, probe(spec), identity=identity, cache=cache) == "triton"
