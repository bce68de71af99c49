"""The least time that a GPU could take, from its datasheet: arithmetic, nothing measured.

The roofline of one operator (Williams, Waterman, Patterson: "Roofline: an insightful visual
performance model", 2009) is the longer of two times: its FLOPs at the GPU's peak, and its
bytes at the bandwidth of the GPU's memory. Operators run one after another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hatvid.bench.costs import Operator

__all__ = ["GPU", "GPUS", "LAUNCH", "roofline"]

LAUNCH = 4e-6
"""Seconds that the CPU takes to start a kernel from eager PyTorch: an assumption, not a
measurement. A frame takes no less than its launches, however fast the GPU is."""


@dataclass(frozen=True, kw_only=True)
class GPU:
    """What a datasheet says of a GPU."""

    name: str

    tensor: float
    """FLOP/s of matrix products in fp16 and bf16: dense, and added up in fp32."""

    fp32: float
    """FLOP/s in fp32, without TF32: what hatvid asks for."""

    bandwidth: float
    """Bytes per second of its memory."""

    def peak(self, dtype: torch.dtype) -> float:
        """FLOP/s of matrix products in a dtype."""
        return self.tensor if dtype in (torch.float16, torch.bfloat16) else self.fp32


GPUS = (
    # NVIDIA H100 Tensor Core GPU datasheet, column SXM: 1,979 TFLOP/s "with sparsity", twice
    # the dense figure; fp32 67 TFLOP/s; 3.35 TB/s.
    GPU(name="H100 SXM", tensor=989e12, fp32=67e12, bandwidth=3.35e12),
    # NVIDIA Ada GPU architecture whitepaper, appendix A: "Peak FP16 Tensor TFLOPS with FP32
    # accumulate" 165.2 dense; fp32 82.6; 1008 GB/s.
    GPU(name="RTX 4090", tensor=165.2e12, fp32=82.6e12, bandwidth=1008e9),
    # GeForce RTX 3060 (12 GB) specifications: 28 SMs, 3584 CUDA cores, 1.777 GHz boost, 360 GB/s.
    # NVIDIA Ampere GA102 whitepaper, table of the SM: 512 dense fp16 FMA a clock, at half that
    # rate when added up in fp32: 28 x 256 x 2 x 1.777 GHz. fp32: 3584 x 2 x 1.777 GHz.
    GPU(name="RTX 3060", tensor=25.5e12, fp32=12.7e12, bandwidth=360e9),
)


def roofline(operators: Iterable[Operator], gpu: GPU) -> float:
    """Seconds that a GPU needs at least, without the time to launch kernels."""
    return sum(
        max(
            operator.flops / gpu.peak(operator.dtype),
            (operator.read + operator.written) / gpu.bandwidth,
        )
        for operator in operators
    )
