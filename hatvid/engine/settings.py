"""PyTorch's settings of the process, changed while an engine runs and put back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["cpu_threads", "full_precision", "ran_out"]


def ran_out(error: RuntimeError) -> bool:
    """Whether an error of PyTorch's says that there was no memory left."""
    first = str(error).strip().partition("\n")[0]
    return isinstance(error, torch.OutOfMemoryError) or bool(
        re.search("not enough memory|allocate memory|out of memory|STATUS_ALLOC_FAILED", first)
    )


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32, which cuDNN takes for convolutions unless it is told not to, and no sums
    in fp16 or bf16."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches: tuple[tuple[Any, str], ...] = (
        (cudnn, "allow_tf32"),
        (matmul, "allow_tf32"),
        (matmul, "allow_fp16_reduced_precision_reduction"),
        (matmul, "allow_bf16_reduced_precision_reduction"),
    )
    before = [getattr(place, name) for place, name in switches]
    for place, name in switches:
        setattr(place, name, False)
    try:
        yield
    finally:
        for (place, name), value in zip(switches, before, strict=True):
            setattr(place, name, value)
