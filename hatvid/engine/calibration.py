"""OpenVINO or PyTorch on this CPU, which attention kernel on this GPU: measured, then kept."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hatvid.engine import ResolvedEngine
from hatvid.engine.base import Engine, TileSpec
from hatvid.engine.cache import ModelCache, hatvid_version, library_version
from hatvid.engine.choice import ROUNDS, cuda_seconds, fastest
from hatvid.engine.fidelity import probe

__all__ = ["WORTH_RUNS", "device_facts", "faster_on_cpu", "fastest_kernel", "wall_seconds"]

WORTH_RUNS = 200
"""Runs that have to lie ahead: about ten are spent on measuring, and an engine is built
that may not be needed."""

MARGIN = 0.95
"""PyTorch is taken if it needs less than this share of OpenVINO's time: less may be noise,
and the choice should be the same the next time."""

TRIAL_SIDE = 256
"""Height and width of the tile on which kernels are timed: enough windows to fill a GPU, and a
start of seconds whatever the frame."""

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
        "cpu": device_facts(resolved.device),
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


def fastest_kernel[Name: str](
    candidates: Mapping[Name, ResolvedEngine],
    build: Callable[[TileSpec, ResolvedEngine], Engine],
    *,
    scale: int,
    network: str,
    cache: ModelCache | None,
) -> Name:
    """Choose between attention kernels by measurement, on one tile of 256x256.

    Args:
        candidates: by the name of the kernel, alike in all else.
        build: makes an engine for a shape.
        scale: of the network.
        network: its configuration; weights do not matter.
        cache: remembers what was measured.

    Returns:
        The name of the fastest.

    Raises:
        EngineError: none can be built.
    """
    resolved = next(iter(candidates.values()))
    spec = TileSpec(
        batch=1, height=TRIAL_SIDE, width=TRIAL_SIDE, scale=scale, device=resolved.device
    )
    identity = {
        "device": device_facts(resolved.device),
        "hatvid": hatvid_version(),
        "torch": torch.__version__,
        "network": network,
        "engine": resolved.engine,
        "precision": resolved.precision,
        "compiled": str(resolved.compiled),
        "shape": str(spec.input_shape),
    }
    return fastest(
        {name: partial(build, spec, candidate) for name, candidate in candidates.items()},
        probe(spec),
        identity=identity,
        cache=cache,
        seconds=cuda_seconds if resolved.device.type == "cuda" else wall_seconds,
    )


def device_facts(device: torch.device) -> str:
    """What results and times of a device depend on beside the work: model and driver of a GPU,
    model and features of a CPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{name}, CUDA {torch.version.cuda}, driver {_nvidia_driver()}"
    try:
        from hatvid.engine.openvino import cpu_facts
    except (ImportError, OSError):
        return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return " ".join(cpu_facts())


def _nvidia_driver() -> str:
    """The version of the kernel's driver; empty where the system does not say (not on Linux)."""
    try:
        return Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]
    except OSError:
        return ""
