"""FLOPs, bytes and kernel launches of a frame, and the least time they take: arithmetic.

Nothing here is measured. What is counted, and by which rules, stands in
:mod:`hatvid.bench.costs`; docs/performance.md tells it with figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hatvid.bench.networks import NetworkForm, network_forms
from hatvid.bench.roofline import GPUS, LAUNCH, roofline
from hatvid.bench.trace import trace_engine, trace_network
from hatvid.engine import TileSpec
from hatvid.model.hat import HATConfig

__all__ = ["Traffic", "frame_traffic", "measure_form"]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one frame costs in one form of a network."""

    form: str

    attention: str
    """How its scores travel: ``explicit`` (written out in Python), ``MATH`` (PyTorch's
    unfused path), ``fused`` (one kernel each), or how many of each."""

    flops: int
    """Of matrix products, convolutions and attention: two for each multiply-add."""

    elements: int
    """Elements that other operators compute or reduce."""

    read: int
    """Bytes read from the GPU's memory, weights included."""

    written: int
    """Bytes written to the GPU's memory."""

    uploaded: int
    """Bytes that the network itself copies from the CPU; the frame is not among them."""

    launches: int
    """Kernels and copies that are started; one in all when a CUDA graph is replayed."""

    launch_seconds: float
    """What starting them one by one takes the CPU, by assumption."""

    roofline_seconds: dict[str, float]
    """By GPU, what it takes at least, launches apart."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def frame_traffic(
    config: HATConfig, width: int, height: int, precision: str = "fp16"
) -> list[Traffic]:
    """What a frame costs in each form of a network.

    Args:
        config: of the network.
        width: of the frame before it is upscaled.
        height: of the frame before it is upscaled.
        precision: ``fp32`` or ``fp16``.

    Raises:
        EngineError: spandrel is not installed, or an operator is not known.
    """
    shape = (1, config.num_in_ch, height, width)
    return [measure_form(form, shape) for form in network_forms(config, precision)]


def measure_form(form: NetworkForm, shape: Sequence[int]) -> Traffic:
    """What a run of one form costs; (N, C, H, W) is the shape of its input."""
    if form.recorded:
        batch, channels, height, width = shape
        spec = TileSpec(
            batch=batch, channels=channels, height=height, width=width, scale=form.scale
        )
        trace = trace_engine(form.network, spec, form.precision, keep_scores=form.keep_scores)
    else:
        trace = trace_network(form.network, shape, form.dtype, keep_scores=form.keep_scores)
    operators = trace.operators
    launches = sum(operator.launches for operator in operators)
    return Traffic(
        form=form.name,
        attention=_attention(trace.fused, trace.unfused),
        flops=sum(operator.flops for operator in operators),
        elements=sum(operator.elements for operator in operators),
        read=sum(operator.read for operator in operators),
        written=sum(operator.written for operator in operators),
        uploaded=sum(operator.uploaded for operator in operators),
        launches=launches,
        launch_seconds=launches * LAUNCH,
        roofline_seconds={gpu.name: roofline(operators, gpu) for gpu in GPUS},
    )


def _attention(fused: int, unfused: int) -> str:
    if fused and unfused:
        return f"{fused} fused, {unfused} MATH"
    return "fused" if fused else "MATH" if unfused else "explicit"
