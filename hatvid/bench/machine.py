"""What a race ran on."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

__all__ = ["allowed_cpus", "default_threads", "machine_facts", "native_bf16", "pinned_cpus"]

FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "sve",
    "bf16",
)
"""Of /proc/cpuinfo, on x86 and ARM: what decides how fast matrices are multiplied."""

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}

PACKAGES = (
    "hatvid",
    "torch",
    "openvino",
    "spandrel",
    "onnx",
    "onnxruntime",
    "vapoursynth",
    "vapoursynth-mlrt-ov",
    "numpy",
)


def allowed_cpus() -> list[int]:
    """The CPUs that this process may run on: first one of each core, then their siblings."""
    if hasattr(os, "sched_getaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
    else:
        cpus = list(range(os.cpu_count() or 1))
    seen: set[str] = set()
    first: list[int] = []
    rest: list[int] = []
    for cpu in cpus:
        core = _core(cpu)
        (rest if core in seen else first).append(cpu)
        seen.add(core)
    return first + rest


def default_threads() -> int:
    """One for each core that may be used."""
    cpus = allowed_cpus()
    return len({_core(cpu) for cpu in cpus})


def pinned_cpus(threads: int) -> list[int] | None:
    """As many CPUs as threads, of as many cores as there are; None where nothing can be pinned."""
    return allowed_cpus()[:threads] if hasattr(os, "sched_setaffinity") else None


def native_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware."""
    flags = _cpuinfo()[1]
    if flags:
        return bool(BF16_FLAGS & flags)
    with suppress(ImportError, OSError):
        from hatvid.engine import openvino

        return openvino.native_bf16()
    return False


def machine_facts(threads: int) -> dict[str, Any]:
    """Plain values, for JSON and for a line above the table."""
    model, flags = _cpuinfo()
    facts: dict[str, Any] = {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "cpus": psutil.cpu_count(),
        "threads": threads,
        "pinned_to": pinned_cpus(threads),
        "memory": psutil.virtual_memory().total,
        "flags": [flag for flag in FLAGS if flag in flags],
        "native_bf16": native_bf16(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": dict(_versions(PACKAGES)),
    }
    with suppress(OSError, AttributeError):
        facts["load_before"] = os.getloadavg()[0]
    return facts


def _core(cpu: int) -> str:
    """Which core a CPU belongs to; by itself where the system does not tell."""
    try:
        folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        return (folder / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _cpuinfo() -> tuple[str, set[str]]:
    """Model and flags; empty where there is no /proc/cpuinfo."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "", set()
    model = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", info, re.MULTILINE)
    return model[1].strip() if model else "", set(flags[1].split()) if flags else set()


def _versions(names: Iterable[str]) -> Iterable[tuple[str, str | None]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            if name == "hatvid" and (package := sys.modules.get("hatvid")) is not None:
                yield name, getattr(package, "__version__", None)
            else:
                yield name, None
