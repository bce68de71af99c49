"""One process that trains, or several that share a batch (DistributedDataParallel)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from hatvid.errors import OptionError

__all__ = ["World", "join_world"]

_PATIENCE = timedelta(hours=2)
"""That processes wait for the one which validates."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Which of how many processes this is, and on what it computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process validates, writes and tells."""
        return self.rank == 0

    def mean(self, *values: float) -> list[float]:
        """Means over all processes."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(shared)
        return [float(value) / self.size for value in shared]

    def any(self, answer: bool) -> bool:
        """Whether it is so in any of the processes."""
        return self.mean(float(answer))[0] > 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes; ``values`` are overwritten by it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the other processes that torchrun started, if it did.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; of several processes on GPUs each
            takes its own.

    Raises:
        OptionError: there is no such device.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise OptionError(f"device {device!r} is not known; give cpu, cuda or cuda:N") from None
    if found.type not in ("cpu", "cuda"):
        raise OptionError(f"device {device!r} cannot train; give cpu, cuda or cuda:N")
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise OptionError("there is no NVIDIA GPU here; give --device cpu")
        if size > 1:
            found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(found)
    if size == 1:
        yield World(rank=0, size=1, device=found)
        return
    backend = "nccl" if found.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield World(rank=rank, size=size, device=found)
    finally:
        dist.destroy_process_group()
