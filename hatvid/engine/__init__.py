"""Ways to run one module on one fixed shape.

Engines are imported when they are built: ``import hatvid.engine`` loads none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from hatvid.engine.base import Engine, TileSpec
from hatvid.engine.devices import ON_CUDA, resolve_device
from hatvid.engine.runtime import HostRuntime, Runtime
from hatvid.errors import OptionError
from hatvid.options import EngineOptions, Kernel

__all__ = [
    "COMPILERS",
    "Engine",
    "KERNELS",
    "ON_CUDA",
    "ResolvedEngine",
    "TileSpec",
    "build_engine",
    "build_runtime",
    "resolve_engine",
]

COMPILERS = ("openvino", "tensorrt")
"""Engines that take the network as a whole, and not in chunks."""

RECORDING = ("cudagraph", "replay")

KERNELS: tuple[Kernel, ...] = ("efficient", "cudnn", "triton")
"""Attention kernels of a GPU that ``auto`` tries: PyTorch's memory-efficient one, cuDNN's (on
recent GPUs PyTorch's own first choice, which can fail to build), and this project's."""

SIDE_BY_SIDE = 2
"""Tiles that OpenVINO is given at once if that is left to us: measured on two cores, where
two frames one after the other took 8 % longer. More take more memory."""


@dataclass(frozen=True, kw_only=True)
class ResolvedEngine:
    """Engine options with every ``auto`` decided for this machine."""

    engine: Literal["eager", "openvino", "cudagraph", "tensorrt", "replay"]
    precision: Literal["fp32", "bf16", "fp16"]

    tentative: bool = False
    """The precision was not asked for by name: keep it only if the network's output
    stays near enough to fp32 (:mod:`hatvid.engine.fidelity`), else take fp32."""

    device: torch.device
    threads: int
    """Of the CPU."""

    layout: Literal["cpu", "gpu"] = "cpu"
    """``gpu``: channels padded to what a GPU's kernels take, weights of convolutions in
    channels-last order. What is built depends on this and never on the device, so that a CPU
    can build and check what a GPU runs."""

    kernel: Kernel | Literal["auto"] = "default"
    """Which kernel computes attention. ``default``: PyTorch's choice. ``auto`` is not decided
    yet: each of :data:`KERNELS` is checked, then the fastest is taken."""

    streams: int = 1
    """See :class:`~hatvid.options.EngineOptions`, as ``compiled``."""

    compiled: bool = False
    sharers: int = 1

    @property
    def records(self) -> bool:
        """Whether a recording of the network is replayed."""
        return self.engine in RECORDING

    @property
    def fp32(self) -> ResolvedEngine:
        """The same in fp32. cuDNN's attention does not compute in it."""
        kernel = "efficient" if self.kernel == "cudnn" else self.kernel
        return replace(self.settled("fp32"), kernel=kernel)

    @property
    def streamed(self) -> bool:
        """Whether several frames are kept on their way, see :func:`build_runtime`."""
        return self.records or self.engine in ON_CUDA

    def slots(self, batch: int) -> int:
        """Places in a batch at which a tile may get bits of its own: one, if each tile is a
        call of its own."""
        separate = self.engine == "openvino" and min(self.streams, batch) > 1
        return 1 if separate else batch

    def settled(self, precision: Literal["fp32", "bf16", "fp16"]) -> ResolvedEngine:
        """The same with a precision that is final."""
        return replace(self, precision=precision, tentative=False)


def resolve_engine(options: EngineOptions) -> ResolvedEngine:
    """Decide what ``auto`` means on this machine.

    Device: CUDA if there is one, else the CPU. Engine: ``cudagraph`` on CUDA; on a CPU
    ``openvino`` if it can be imported and computes in what was asked for, else ``eager``.
    Precision: fp16 tentatively on CUDA, bf16 tentatively where openvino runs on a CPU
    that computes in it, else fp32. Threads: PyTorch's number, which follows the cores
    this run may use and ``OMP_NUM_THREADS``, divided among those who share them.

    Raises:
        OptionError: the choices do not fit each other or this machine.
        EngineError: a GPU is there, but its driver or PyTorch does not run it.
    """
    device = resolve_device(options)
    engine, asked = options.engine, options.precision
    if engine == "auto" and device.type == "cuda":
        engine = "cudagraph"
    if engine == "auto":
        fits = _openvino_runs() and asked != "fp16"
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
    if options.compiled and engine != "cudagraph":
        raise OptionError(
            f"engine {engine} does not run what torch.compile makes; choose engine cudagraph, "
            "or leave --compile out"
        )
    layout = options.layout
    if layout == "auto":
        layout = "gpu" if device.type == "cuda" else "cpu"
    kernel = options.kernel
    if kernel == "auto" and (layout == "cpu" or engine not in RECORDING):
        kernel = "default"
    threads = options.threads or max(1, torch.get_num_threads() // options.sharers)
    if options.streams != "auto":
        streams = options.streams
    else:
        streams = min(SIDE_BY_SIDE, threads) if engine == "openvino" else 1
    if streams > 1 and engine == "eager":
        raise OptionError(
            f"engine {engine} has no streams; choose engine auto, or leave --streams out"
        )
    return ResolvedEngine(
        engine=engine,
        precision=_fastest(engine, device) if asked == "auto" else asked,
        tentative=asked == "auto" and _fastest(engine, device) != "fp32",
        device=device,
        threads=threads,
        layout=layout,
        kernel=kernel,
        streams=streams,
        compiled=options.compiled,
        sharers=options.sharers,
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
            all engines but openvino it already computes in the precision decided on.
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
    if resolved.records:
        from hatvid.engine.recorded import RecordedEngine

        runtime = build_runtime(resolved)
        assert runtime is not None
        return RecordedEngine(
            module,
            spec,
            runtime=runtime,
            name=resolved.engine,
            precision=resolved.precision,
            kernel=resolved.kernel,
            threads=resolved.threads,
            compiled=resolved.compiled,
        )
    from hatvid.engine.cache import default_cache_dir

    cache_dir = default_cache_dir(resolved.engine) if fingerprint else None
    if resolved.engine == "tensorrt":
        from hatvid.engine.tensorrt import TensorRTEngine

        return TensorRTEngine(
            module,
            spec,
            precision=resolved.precision,
            fingerprint=fingerprint or "",
            cache_dir=cache_dir,
        )
    from hatvid.engine.openvino import OpenVINOEngine

    assert resolved.precision != "fp16"  # see resolve_engine
    return OpenVINOEngine(
        module,
        spec,
        precision=resolved.precision,
        fingerprint=fingerprint or "",
        cache_dir=cache_dir,
        threads=resolved.threads,
        streams=resolved.streams,
    )


def build_runtime(resolved: ResolvedEngine) -> Runtime | None:
    """What keeps several frames on their way, where there is something to gain by it."""
    if not resolved.streamed:
        return None
    if resolved.engine not in ON_CUDA:
        return HostRuntime()
    from hatvid.engine.cudagraph import CudaRuntime

    return CudaRuntime(resolved.device)


def _openvino_runs() -> bool:
    try:
        import hatvid.engine.openvino  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def _native_bf16() -> bool:
    from hatvid.engine.openvino import native_bf16

    return native_bf16()
