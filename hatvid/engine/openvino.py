"""OpenVINO on the CPU.

The module is traced on the spec's shape, translated, and compiled once; compiled
models are kept on disk (:mod:`hatvid.engine.cache`) and found again by a key over
all that goes into them.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import platform
import re
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from hatvid.engine.base import TileSpec
from hatvid.engine.cache import ModelCache, code_hash, hatvid_version
from hatvid.engine.openvino_precision import keep_stream_in_fp32
from hatvid.engine.prepare import check_input, check_output, prepared
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = ["OpenVINOEngine", "Operator", "cpu_facts", "native_bf16"]

CACHE_FORMAT = 3
"""Counts up when what is stored, or how it is made, changes."""

_HINTS = {"fp32": "f32", "bf16": "bf16"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of a compiled model, as it ran."""

    type: str
    """OpenVINO's."""

    name: str
    """With the module that it comes from, where it comes from one."""

    seconds: float
    """0 where nothing is computed, as the operator is part of another or only names memory."""


class OpenVINOEngine:
    """Runs a module compiled by OpenVINO for the CPU.

    Args:
        module: maps ``spec.input_shape`` to ``spec.output_shape`` and can be traced.
            It is not changed.
        spec: the one shape to run, float32 on the CPU.
        precision: what is computed in; ``fp32`` is true float32. In ``bf16`` sums of features
            and LayerNorms stay in fp32 (:mod:`hatvid.engine.openvino_precision`).
        fingerprint: names the module's weights and configuration exactly.
        cache_dir: folder of compiled models; None keeps none.
        threads: of the CPU; None takes OpenVINO's choice.
        streams: tiles of a batch that are computed at the same time, each by its share of
            the threads. Two threads on one tile wait for each other at the end of every
            operator; on two tiles they do not. With streams, what a tile becomes hangs
            on nothing else in its batch, as each is a call of its own.
        clocked: keep what each operator took, for :meth:`operators`.

    Raises:
        EngineError: the module cannot be traced, translated or compiled.
    """

    name = "openvino"

    def __init__(
        self,
        module: nn.Module,
        spec: TileSpec,
        *,
        precision: Literal["fp32", "bf16"],
        fingerprint: str,
        cache_dir: Path | None,
        threads: int | None = None,
        streams: int = 1,
        clocked: bool = False,
    ) -> None:
        if spec.device.type != "cpu" or spec.dtype != torch.float32:
            raise EngineError(
                f"engine openvino takes float32 on the CPU, not {spec.dtype} on {spec.device}; "
                "choose engine eager"
            )
        self.precision: str = precision
        self.spec = spec
        streams = min(streams, spec.batch)
        alone = spec if streams == 1 else replace(spec, batch=1)
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": streams,
            # Pinned threads of two runs, or of decoding beside, would share a core
            # while others are idle.
            "ENABLE_CPU_PINNING": False,
        }
        if clocked:
            config["PERF_COUNT"] = True
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = self._compiled(module, alone, config, fingerprint, cache_dir)
            actual = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
            if actual != _HINTS[precision]:
                raise EngineError(
                    f"OpenVINO computes in {actual} here, not {precision}; choose precision fp32"
                )
            check_output(alone, tuple(compiled.output(0).shape))
            # OpenVINO writes straight into this, and reads straight from the caller's.
            self._output = torch.empty(spec.output_shape)
            requests = []
            for part in torch.split(self._output, alone.batch):
                request = compiled.create_infer_request()
                request.set_output_tensor(openvino.Tensor(part.numpy(), shared_memory=True))
                requests.append(request)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot run this network: {_reason(error)}") from error
        self._requests: list[openvino.InferRequest] = requests

    def run(self, tiles: Tensor) -> Tensor:
        """See :meth:`hatvid.engine.base.Engine.run`. The result is the engine's own buffer."""
        if not self._requests:
            raise EngineError("the engine was closed; build a new one")
        check_input(self.spec, tiles)
        parts = tiles.detach().contiguous().chunk(len(self._requests))
        try:
            try:
                for request, part in zip(self._requests, parts, strict=True):
                    request.set_input_tensor(openvino.Tensor(part.numpy(), shared_memory=True))
                    request.start_async()
            finally:
                self._wait()  # for those that were started, if one could not be
        except RuntimeError as error:
            if re.search("bad_alloc|allocate", _reason(error)):
                raise OutOfMemoryError(
                    f"memory ran out in OpenVINO ({_reason(error)}); choose a smaller tile"
                ) from error
            raise EngineError(
                f"OpenVINO failed: {_reason(error)}; if memory ran out choose a smaller tile"
            ) from error
        return self._output

    def operators(self) -> list[Operator]:
        """What the last run's operators took; empty if the engine was not built ``clocked``."""
        return [
            Operator(type=one.node_type, name=one.node_name, seconds=one.real_time.total_seconds())
            for request in self._requests
            for one in request.get_profiling_info()
        ]

    def close(self) -> None:
        """Free the compiled model and its buffers."""
        self._requests = []

    def _wait(self) -> None:
        """Until no request runs, so that none reads or writes what is given back."""
        failed = None
        for request in self._requests:
            try:
                request.wait()
            except RuntimeError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _compiled(
        self,
        module: nn.Module,
        spec: TileSpec,
        config: dict[str, Any],
        fingerprint: str,
        cache_dir: Path | None,
    ) -> openvino.CompiledModel:
        def build() -> openvino.CompiledModel:
            model = _translate(module, spec)
            if self.precision != "fp32":
                model = keep_stream_in_fp32(model)
            return _core().compile_model(model, "CPU", config)

        if cache_dir is None:
            return build()
        cache = ModelCache(cache_dir)
        key = _cache_key(module, spec, config, fingerprint)
        data = cache.read(key)
        if data is not None:
            try:
                return _core().import_model(io.BytesIO(data), "CPU", config)
            except RuntimeError as error:
                _log.warning("compiled model cannot be loaded (%s); building it", _reason(error))
                cache.drop(key)
        compiled = build()
        cache.write(key, compiled.export_model().getvalue())
        return compiled


@lru_cache(maxsize=1)
def native_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware, by OpenVINO's word."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@lru_cache(maxsize=1)
def _core() -> openvino.Core:
    return openvino.Core()


def _translate(module: nn.Module, spec: TileSpec) -> openvino.Model:
    """Trace the module on the spec's shape and translate it to an OpenVINO model."""
    ready = prepared(module, spec)
    example = torch.zeros(spec.input_shape)
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing is deprecated in favour of torch.export, whose graphs OpenVINO
        # translates to models of dynamic shape. Traced constants are intended.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(ready, example, check_trace=False)  # type: ignore[no-untyped-call]
        # Not by openvino.convert_model, which tells its maker of each use, over the
        # network, from a forked process.
        decoder = TorchScriptPythonDecoder(traced, example_input=example)  # kept until the end
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.load(decoder)
        for place in model.get_inputs():
            model.set_element_type(place, openvino.Type.f32)
            model.set_partial_shape(place, openvino.PartialShape(list(spec.input_shape)))
        return frontend.convert(model)


def _cache_key(module: nn.Module, spec: TileSpec, config: dict[str, Any], fingerprint: str) -> str:
    """SHA-256 over everything that a compiled model depends on."""
    parts = {
        "format": CACHE_FORMAT,
        "weights": fingerprint,
        "code": code_hash(module),
        "spec": repr(spec),
        "config": config,
        "openvino": openvino.get_version(),
        "torch": torch.__version__,
        "hatvid": hatvid_version(),
        "cpu": cpu_facts(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def cpu_facts() -> list[str]:
    """Model and features of the CPU: what compiled code, and its speed, hang on."""
    core = _core()
    facts = [
        platform.machine(),
        core.get_property("CPU", "FULL_DEVICE_NAME"),
        *sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
    ]
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return facts
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", info, re.MULTILINE)
    return [*facts, *sorted(found[1].split() if found else [])]


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's message; those before say where in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
