"""Ways to run one module on one fixed shape.

Engines are imported when they are built: ``import hatvid.engine`` loads none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from hatvid.engine.base import Engine, TileSpec
from hatvid.errors import OptionError
from hatvid.options import EngineOptions

__all__ = ["Engine", "ResolvedEngine", "TileSpec", "build_engine", "resolve_engine"]


@dataclass(frozen=True, kw_only=True)
class ResolvedEngine:
    """Engine options with every ``auto`` decided for this machine."""

    engine: Literal["eager", "openvino"]
    precision: Literal["fp32", "bf16", "fp16"]

    tentative: bool = False
    """The precision was not asked for by name: keep it only if the network's output
    stays near enough to fp32 (:mod:`hatvid.engine.fidelity`), else take fp32."""

    device: torch.device
    threads: int
    """Of the CPU."""

    def settled(self, precision: Literal["fp32", "bf16", "fp16"]) -> ResolvedEngine:
        """The same with a precision that is final."""
        return replace(self, precision=precision, tentative=False)


def resolve_engine(options: EngineOptions) -> ResolvedEngine:
    """Decide what ``auto`` means on this machine.

    Device: CUDA if there is one, else the CPU. Engine: ``openvino`` on a CPU if it
    can be imported and computes in what was asked for, else ``eager``. Precision: fp16
    tentatively on CUDA, bf16 tentatively where openvino runs on a CPU that computes in
    it, else fp32. Threads: PyTorch's number, which follows the cores this run may use
    and ``OMP_NUM_THREADS``.

    Raises:
        OptionError: the choices do not fit each other or this machine.
    """
    device = _resolve_device(options)
    engine, asked = options.engine, options.precision
    if engine == "auto":
        fits = device.type == "cpu" and _openvino_runs() and asked != "fp16"
        engine = "openvino" if fits and (asked != "bf16" or _native_bf16()) else "eager"
    if engine == "openvino":
        if not _openvino_runs():
            raise OptionError(
                "engine openvino cannot be imported; install openvino (in VapourSynth beside "
                "vs-mlrt: import hatvid_vs before vs.core is used), or choose engine eager"
            )
        if asked == "fp16":
            raise OptionError(
                "engine openvino does not compute in fp16; choose precision bf16, or engine eager"
            )
        if asked == "bf16" and not _native_bf16():
            raise OptionError(
                "this CPU does not compute in bf16; choose precision fp32, which is no slower here"
            )
    return ResolvedEngine(
        engine=engine,
        precision=_fastest(engine, device) if asked == "auto" else asked,
        tentative=asked == "auto" and _fastest(engine, device) != "fp32",
        device=device,
        threads=options.threads or torch.get_num_threads(),
    )


def _fastest(engine: str, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The precision that is worth a try."""
    if engine == "openvino":
        return "bf16" if _native_bf16() else "fp32"
    return "fp16" if device.type == "cuda" else "fp32"


def build_engine(
    module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None = None
) -> Engine:
    """Build the engine that was decided on.

    Args:
        module: maps ``spec.input_shape`` to ``spec.output_shape``; left unchanged. For
            engine eager it already computes in the precision decided on.
        spec: the one shape to run.
        resolved: from :func:`resolve_engine`.
        fingerprint: names the module's weights and configuration exactly; None
            keeps nothing of the engine on disk.

    Raises:
        EngineError: the engine cannot be built.
    """
    if resolved.engine == "eager":
        from hatvid.engine.eager import EagerEngine

        return EagerEngine(module, spec, precision=resolved.precision, threads=resolved.threads)
    from hatvid.engine.cache import default_cache_dir
    from hatvid.engine.openvino import OpenVINOEngine

    assert resolved.precision != "fp16"  # see resolve_engine
    return OpenVINOEngine(
        module,
        spec,
        precision=resolved.precision,
        fingerprint=fingerprint or "",
        cache_dir=default_cache_dir("openvino") if fingerprint else None,
        threads=resolved.threads,
    )


def _resolve_device(options: EngineOptions) -> torch.device:
    name = options.device
    if name.startswith("cuda"):
        if options.engine == "openvino":
            raise OptionError(
                "engine openvino does not run on CUDA; choose engine eager or device cpu"
            )
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise OptionError("no CUDA device can be used here; choose device cpu")
        device = torch.device("cuda:0" if name == "cuda" else name)
        if (device.index or 0) >= count:
            raise OptionError(f"device {name} is not there; the last one is cuda:{count - 1}")
        return device
    if name == "auto" and options.engine != "openvino" and torch.cuda.is_available():
        return torch.device("cuda:0")
    return torch.device("cpu")


def _openvino_runs() -> bool:
    try:
        import hatvid.engine.openvino  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def _native_bf16() -> bool:
    from hatvid.engine.openvino import native_bf16

    return native_bf16()
