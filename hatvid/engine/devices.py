"""Which device is computed on, and what to do where a GPU cannot be."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from hatvid.errors import EngineError, HatvidError, OptionError
from hatvid.options import EngineOptions

__all__ = ["ON_CUDA", "gpu_count", "resolve_device"]

ON_CUDA = ("cudagraph", "tensorrt")
"""Engines that run on an NVIDIA GPU and nowhere else."""

_ON_CPU = ("openvino", "replay")

_log = logging.getLogger(__name__)


def gpu_count() -> int:
    """How many GPUs PyTorch finds; it warns of nothing on the way."""
    with _quiet():
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def resolve_device(options: EngineOptions) -> torch.device:
    """The device that is asked for; ``auto`` is the first GPU that PyTorch can use and the
    engine runs on, else the CPU.

    Returns:
        ``cpu`` or ``cuda:N``.

    Raises:
        OptionError: there is no such device, or the engine does not run on it.
        EngineError: the GPU is there, but its driver or PyTorch does not run it.
    """
    name, engine = options.device, options.engine
    if name.startswith("cuda"):
        if engine in _ON_CPU:
            raise OptionError(
                f"engine {engine} does not run on CUDA; choose engine cudagraph, or device cpu"
            )
        device = torch.device("cuda:0" if name == "cuda" else name)
        count = gpu_count()
        if count == 0:
            raise _no_gpu()
        if (device.index or 0) >= count:
            raise OptionError(f"device {name} is not there; the last one is cuda:{count - 1}")
        if problem := _problem(device):
            raise EngineError(problem)
        return device
    if name == "auto" and engine not in _ON_CPU:
        problems = []
        for number in range(gpu_count()):
            device = torch.device("cuda", number)
            problem = _problem(device)
            if not problem:
                return device
            problems.append(problem)
        if not problems and isinstance(missing := _no_gpu(), EngineError):
            problems.append(str(missing))
        if engine in ON_CUDA and problems:
            raise EngineError(problems[0])
        for problem in problems:
            _warn_once(problem)
    if engine in ON_CUDA:
        raise OptionError(
            f"engine {engine} runs on an NVIDIA GPU, and there is none here or the CPU "
            "was asked for; choose engine auto"
        )
    return torch.device("cpu")


@cache
def _warn_once(problem: str) -> None:
    """A job asks for its device more than once."""
    _log.warning("computing on the CPU: %s", problem)


def _no_gpu() -> HatvidError:
    """Why PyTorch finds no GPU at all."""
    try:
        with _quiet():
            torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        reason = str(error)
    else:
        reason = ""
    if "not compiled with CUDA" in reason:
        return OptionError(
            "this PyTorch is built without CUDA; install one that is built with it, or choose "
            "device cpu"
        )
    if old := re.search(r"driver on your system is too old \(found version (\d+)\)", reason):
        version = int(old[1])  # 12040 is 12.4
        has = f"{version // 1000}.{version % 1000 // 10}"
        return EngineError(
            f"the NVIDIA driver is too old for this PyTorch: it runs CUDA {has}, PyTorch is built "
            f"for {torch.version.cuda}; update the driver, install a PyTorch that is built for "
            f"CUDA {has} or older, or choose device cpu"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "Found no NVIDIA driver" not in reason:
        return OptionError(
            f"no CUDA device can be used here (CUDA_VISIBLE_DEVICES is {visible!r}); change that, "
            "or choose device cpu"
        )
    return OptionError("no CUDA device can be used here; choose device cpu")


def _problem(device: torch.device) -> str:
    """Why PyTorch cannot compute on a GPU that it finds, and what to do; empty where it can."""
    try:
        with _quiet():
            major, minor = torch.cuda.get_device_capability(device)
            name = torch.cuda.get_device_name(device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().partition("\n")[0]
        return f"{device} cannot be used ({first}); choose another device, or device cpu"
    built = torch.cuda.get_arch_list()
    if _runs(built, major, minor):
        return ""
    versions = sorted(_versions(built))
    newer = (major, minor) > versions[-1]
    return (
        f"{device} ({name}) has compute capability {major}.{minor}, and this PyTorch is built for "
        f"{', '.join(f'{one}.{other}' for one, other in versions)}; install a "
        f"{'newer PyTorch' if newer else 'PyTorch that is built for an older CUDA'}, or choose "
        "another device, or device cpu"
    )


def _runs(built: list[str], major: int, minor: int) -> bool:
    """Whether any code that PyTorch was built with runs on a GPU.

    Code of a version runs on later minor versions of the same major one, PTX on all later
    versions, what ends with an ``a`` on its own version only.
    """
    if not _versions(built):  # nothing is known of it
        return True
    for code in built:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", code)
        if found is None:
            continue
        for_major, for_minor = int(found[2]), int(found[3])
        if (for_major, for_minor) == (major, minor):
            return True
        if found[4] == "a" or (for_major, for_minor) > (major, minor):
            continue
        if for_major == major or (found[1] == "compute" and not found[4]):
            return True
    return False


def _versions(built: list[str]) -> set[tuple[int, int]]:
    found = (re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[af]?", code) for code in built)
    return {(int(one[1]), int(one[2])) for one in found if one}


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch warns of a GPU or a driver that is too old where it first looks; what it would
    say is raised here as an error, in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
