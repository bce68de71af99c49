"""What this CPU reaches in products of matrices: the ceiling of any network.

A contestant like the others, so that it is measured in the same minutes. Of several
libraries and sizes the fastest counts: that a library is slow here must not make the others
look good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hatvid.bench.runner import Array, Runner, Task
from hatvid.errors import EngineError

__all__ = ["product"]

SIZES = (1024, 1536, 2048)
"""Sides of the square matrices."""

TRIES = 3


def product(task: Task, settings: Mapping[str, Any]) -> Runner:
    """Settings: ``precision``, fp32 or bf16."""
    torch.set_num_threads(task.threads)
    best, most = None, 0.0
    for one in _products(settings["precision"]):
        one.run(1)
        speed = one.flops / min(one.run(1) for _ in range(TRIES))
        if speed > most:
            best, most = one, speed
    if best is None:
        raise EngineError(f"no library multiplies matrices in {settings['precision']}")
    return best


def _products(precision: str) -> Iterator[_Product]:
    random = np.random.default_rng(0)
    for size in SIZES:
        left, right = (random.standard_normal((size, size), np.float32) for _ in range(2))
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        a, b = (torch.from_numpy(x).to(dtype) for x in (left, right))
        out = torch.empty_like(a)
        yield _Product(size, precision, "torch.mm", partial(torch.mm, a, b, out=out))
        # oneDNN, with the pixels of an image as rows.
        image = a.reshape(1, size, size, 1).contiguous(memory_format=torch.channels_last)
        kernel = b.reshape(size, size, 1, 1)
        yield _Product(size, precision, "conv2d 1x1", partial(F.conv2d, image, kernel))
        if precision == "fp32":
            multiply = partial(np.matmul, left, right, out=np.empty_like(left))
            yield _Product(size, precision, "numpy.matmul", multiply)


class _Product:
    """A :class:`~hatvid.bench.runner.Runner` of which a frame is one product."""

    step = 1

    def __init__(
        self, size: int, precision: str, library: str, multiply: Callable[[], object]
    ) -> None:
        self.precision = precision
        self.settings: Mapping[str, Any] = {"library": library, "size": size}
        self.flops = 2.0 * size**3
        self.work: float | None = self.flops
        self._multiply = multiply

    def run(self, count: int) -> float:
        """See :class:`~hatvid.bench.runner.Runner`."""
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(count):
                self._multiply()
        return time.perf_counter() - start

    def output(self) -> Array | None:
        """None: there is no picture."""
        return None
