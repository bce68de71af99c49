"""TensorRT on NVIDIA GPUs, by way of Torch-TensorRT.

The module is exported (torch.export), converted as a whole by Torch-TensorRT's dynamo
path, and built by TensorRT into a plan for this GPU. Plans are kept on disk
(:mod:`hatvid.engine.cache`) and found again by a key over all that goes into them.

What is kept is TensorRT's own plan, which is data. ``torch_tensorrt.save`` is not used:
what it writes is unpickled when it is loaded, and a pickle can run anything. A plan is run
by TensorRT's own calls rather than by Torch-TensorRT's module, which does not look whether
the work could be queued, and passes on addresses that TensorRT may not be given (they must
be multiples of 256).
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hatvid.engine.base import TileSpec
from hatvid.engine.cache import ModelCache, code_hash, hatvid_version
from hatvid.engine.prepare import check_input, check_output, prepared
from hatvid.engine.tensorrt_graph import exported, output_shape
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = ["TensorRTEngine"]

CACHE_FORMAT = 1
"""Counts up when what is stored, or how it is made, changes."""

RELEASE = "2.14"
"""Of Torch-TensorRT. Others are refused: it ignores options that it does not know."""

INPUT, OUTPUT = "tiles", "upscaled"
"""Names of a plan's tensors."""

DEVICE = "cuda"

TENSORRT_LOG = "torch_tensorrt [TensorRT Conversion Context]"
"""Where Torch-TensorRT sends what TensorRT says."""

_log = logging.getLogger(__name__)


class TensorRTEngine:
    """Runs a module that TensorRT has built for this GPU.

    The tiles are copied into a static input, and the result is one static output. Work is
    queued on the caller's current stream, so that a CUDA graph can capture a run; for the
    default stream, on which TensorRT would wait for the whole device, there is a stream
    beside it.

    Args:
        module: maps ``spec.input_shape`` to ``spec.output_shape``, can be exported, and
            computes in the precision already. It is not changed.
        spec: the one shape to run, float32 on CUDA.
        precision: what the module computes in. TensorRT keeps to the module's dtypes.
        fingerprint: names the module's weights and configuration exactly.
        cache_dir: folder of plans; None keeps none.

    Raises:
        EngineError: Torch-TensorRT cannot be loaded, an operator has no converter, or
            the plan cannot be built.
        OutOfMemoryError: there is not enough GPU memory to build the plan, or to run it.
    """

    name = "tensorrt"

    def __init__(
        self,
        module: nn.Module,
        spec: TileSpec,
        *,
        precision: Literal["fp32", "bf16", "fp16"],
        fingerprint: str,
        cache_dir: Path | None,
    ) -> None:
        if spec.device.type != DEVICE or spec.dtype != torch.float32:
            raise EngineError(
                f"engine tensorrt takes float32 on CUDA, not {spec.dtype} on {spec.device}; "
                "choose engine eager"
            )
        self.precision: str = precision
        self.spec = spec
        self._torch_tensorrt, self._tensorrt = _load()
        cache = None if cache_dir is None else ModelCache(cache_dir)
        with torch.cuda.device(spec.device), _listening() as heard:
            try:
                self._plan: _Plan | None = self._ready(module, fingerprint, cache)
            except EngineError:
                raise
            except Exception as error:
                raise _explained(error, heard) from error

    def run(self, tiles: Tensor) -> Tensor:
        """See :meth:`hatvid.engine.base.Engine.run`. The result is the engine's own buffer."""
        if self._plan is None:
            raise EngineError("the engine was closed; build a new one")
        check_input(self.spec, tiles)
        with torch.cuda.device(self.spec.device), torch.no_grad():
            self._plan.input.copy_(tiles, non_blocking=True)
            self._plan.run()
        return self._plan.output

    def close(self) -> None:
        """Free the plan and its buffers."""
        self._plan = None

    def _ready(self, module: nn.Module, fingerprint: str, cache: ModelCache | None) -> _Plan:
        """The plan from disk, or a new one."""
        identity = self._identity(module, fingerprint)
        plan = None if cache is None else self._stored(cache, identity)
        if plan is None:
            data = self._built(module)
            plan = self._loaded(data)
            if cache is not None:
                cache.write(_key(identity), identity + data)
        return plan

    def _identity(self, module: nn.Module, fingerprint: str) -> bytes:
        """All that a plan depends on, as one line of JSON. It is hashed to the key of the
        cache, and stands before the plan in its file."""
        gpu = torch.cuda.get_device_properties(self.spec.device)
        parts = {
            "format": CACHE_FORMAT,
            "weights": fingerprint,
            "code": code_hash(module),
            "layout": _layout(module),
            # Equal GPUs of one machine share plans.
            "spec": repr(replace(self.spec, device=torch.device(DEVICE))),
            "precision": self.precision,
            "options": _options(self.precision),
            "torch": torch.__version__,
            "torch_tensorrt": self._torch_tensorrt.__version__,
            "tensorrt": self._tensorrt.__version__,
            "hatvid": hatvid_version(),
            "gpu": [gpu.name, gpu.major, gpu.minor, gpu.multi_processor_count, gpu.total_memory],
            "driver": _driver(),
        }
        return json.dumps(parts, sort_keys=True).encode() + b"\n"

    def _stored(self, cache: ModelCache, identity: bytes) -> _Plan | None:
        """The plan from disk, if it is there and can be used."""
        key = _key(identity)
        content = cache.read(key)
        if content is None:
            return None
        try:
            # A file that was given another's name is whole, and yet another network.
            if not content.startswith(identity):
                raise RuntimeError("it was built for something else")
            return self._loaded(content.removeprefix(identity))
        except torch.OutOfMemoryError:
            raise  # and a new one would not fit either
        except (EngineError, RuntimeError) as error:
            _log.warning("compiled model cannot be loaded (%s); building it", _first_line(error))
            cache.drop(key)
            return None

    def _built(self, module: nn.Module) -> bytes:
        """Export the module and let TensorRT build a plan of it."""
        spec = self.spec
        example = torch.zeros(spec.input_shape, device=spec.device)
        program = exported(prepared(module, spec, self.precision), example)
        check_output(spec, output_shape(program))
        # By default timings lie in a folder that every user of the machine may write to.
        with tempfile.TemporaryDirectory(prefix="hatvid-") as scratch:
            convert = self._torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
            plan: bytes = convert(
                program,
                arg_inputs=(example,),
                device=torch.device(DEVICE, torch.cuda.current_device()),
                timing_cache_path=str(Path(scratch, "timing")),
                **_options(self.precision),
            )
        return plan

    def _loaded(self, plan: bytes) -> _Plan:
        runtime = self._tensorrt.Runtime(self._torch_tensorrt.logging.TRT_LOGGER)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise RuntimeError("TensorRT does not accept the plan")
        float32 = self._tensorrt.DataType.FLOAT
        found = {
            name: (tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name))
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }
        # The buffers are made to the spec, and TensorRT does not know their size.
        if found != {
            INPUT: (self.spec.input_shape, float32),
            OUTPUT: (self.spec.output_shape, float32),
        }:
            raise RuntimeError(f"the plan has tensors {found}")
        static = self._tensorrt.ExecutionContextAllocationStrategy.STATIC
        context = engine.create_execution_context(static)
        if context is None:
            raise torch.OutOfMemoryError("TensorRT made no execution context")
        return _Plan(context, (runtime, engine), self.spec)


class _Plan:
    """A plan with its buffers, ready to run.

    Args:
        context: TensorRT's execution context.
        owners: what must live as long as the context.
        spec: as the engine's.
    """

    def __init__(self, context: Any, owners: object, spec: TileSpec) -> None:
        self._context, self._owners = context, owners
        # Memory of PyTorch's allocator begins at multiples of 512; a tile of a batch may not.
        self.input = torch.zeros(spec.input_shape, device=spec.device)
        self.output = torch.empty(spec.output_shape, device=spec.device)
        for name, tensor in ((INPUT, self.input), (OUTPUT, self.output)):
            if not context.set_tensor_address(name, tensor.data_ptr()):
                raise RuntimeError(f"TensorRT does not accept the buffer of {name}")
        self._beside = torch.cuda.Stream(spec.device)  # type: ignore[no-untyped-call]
        # Kernels are loaded when they first run, and that may not be while a graph is captured.
        self.run()
        torch.cuda.synchronize(spec.device)

    def run(self) -> None:
        """Queue one run, from the static input to the static output."""
        current = torch.cuda.current_stream(self.input.device)
        stream = current
        if current == torch.cuda.default_stream(self.input.device):
            stream = self._beside
            stream.wait_stream(current)
        queued = self._context.execute_async_v3(stream.cuda_stream)
        if stream is not current:
            current.wait_stream(stream)
        if not queued:
            raise EngineError("TensorRT could not start the network; choose engine eager")


def _layout(module: nn.Module) -> str:
    """SHA-256 over names, shapes and dtypes of all that a module holds: two forms of the same
    weights, one padded, are two plans."""
    digest = hashlib.sha256()
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
    return digest.hexdigest()


def _options(precision: str) -> dict[str, Any]:
    """What Torch-TensorRT is told, beside module, shape and device."""
    return {
        # One plan, or an error: no parts that run in PyTorch.
        "require_full_compilation": True,
        # By default the bias of square attention is taken for a causal mask.
        "attn_bias_is_causal": False,
        # As with the other engines, fp32 is fp32, and fp16 is summed up in fp32.
        "disable_tf32": True,
        "use_fp32_acc": precision == "fp16",
        "arg_input_binding_names": (INPUT,),
        "output_binding_names": OUTPUT,
    }


def _load() -> tuple[Any, Any]:
    """The modules torch_tensorrt and tensorrt.

    Raises:
        EngineError: they are not there, do not load, or are of another release.
    """
    try:
        # It prints why it fails, and standard output may be a video.
        with redirect_stdout(io.StringIO()):
            torch_tensorrt = import_module("torch_tensorrt")
            # Only now: it chooses which TensorRT goes by that name.
            tensorrt = import_module("tensorrt")
    except Exception as error:  # it raises plain Exception, too
        raise EngineError(
            f"engine tensorrt cannot be loaded ({_first_line(error)}); "
            "run pip install 'hatvid[tensorrt]', or choose engine eager"
        ) from error
    found = torch_tensorrt.__version__
    if not found.startswith(f"{RELEASE}."):
        raise EngineError(
            f"engine tensorrt is made for torch-tensorrt {RELEASE}, not {found}; "
            "run pip install 'hatvid[tensorrt]', or choose engine eager"
        )
    return torch_tensorrt, tensorrt


def _key(identity: bytes) -> str:
    return hashlib.sha256(identity).hexdigest()


def _driver() -> str:
    """Version of the NVIDIA driver by NVML; empty where there is no NVML."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return ""
    text = ctypes.create_string_buffer(80)  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
    if nvml.nvmlInit_v2() != 0:
        return ""
    nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text)))
    nvml.nvmlShutdown()
    return text.value.decode(errors="replace")


class _Ear(logging.Handler):
    """Keeps the first line of each error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage().strip().partition("\n")[0])


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Keep what Torch-TensorRT logs and warns off the terminal, and give TensorRT's errors.

    A failed conversion is logged with the whole network and a traceback; what the user gets
    is one line, made of the exception and of what was heard.
    """
    ear, deaf = _Ear(), logging.NullHandler()
    loggers: tuple[tuple[logging.Logger, logging.Handler], ...] = (
        (logging.getLogger(TENSORRT_LOG), ear),
        (logging.getLogger("torch_tensorrt"), deaf),
    )
    before = [logger.propagate for logger, _ in loggers]
    for logger, handler in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield ear.heard
    finally:
        for (logger, handler), propagate in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagate


def _explained(error: Exception, heard: list[str]) -> EngineError:
    """An error of torch.export, Torch-TensorRT or TensorRT as one of ours."""
    # The outer ones quote the whole network; the one inside says what was wrong.
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    reason = "; ".join(filter(None, (_first_line(inner), *heard[-1:])))
    if isinstance(inner, torch.OutOfMemoryError) or re.search(
        r"out.?of.?memory|allocat(e|ing)\b", reason, re.IGNORECASE
    ):
        return OutOfMemoryError(f"memory ran out in TensorRT ({reason}); choose a smaller tile")
    return EngineError(f"TensorRT cannot run this network: {reason}; choose engine eager")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]
