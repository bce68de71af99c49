"""What running a module costs in memory, what there is, and which tile fits.

The cost is counted, not guessed: the module runs once on tensors that have shapes
but no contents, and every storage that is alive at the same time is added up.
What an engine's own planning makes of that differs by a factor, measured for each.
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hatvid.engine.base import TileSpec
from hatvid.engine.gpu_attention import GpuAttention
from hatvid.engine.prepare import Preparable
from hatvid.engine.settings import ran_out
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = [
    "Counted",
    "ENGINE_FACTORS",
    "MEMORY_SHARE",
    "MIN_TILE",
    "available_memory",
    "bytes_per_pixel",
    "choose_tile",
    "count_prepared",
    "count_run",
]

MEMORY_SHARE = 0.6
"""Share of the free memory that a tile may take; the rest is for decoding, encoding
and everyone else."""

MIN_TILE = 64
"""Side in pixels below which no tile is chosen: four attention windows, and the patch
size that the published networks were trained on (paper, section 4.1)."""

ENGINE_FACTORS = {"eager": 2, "openvino": 6}
"""What each engine takes for a counted byte, rounded up. Measured as the growth of
resident memory with the tile, from 128x128 to 256x256 pixels, for a small network with its
tail collapsed: 1.7 and 5.5. A recorded network is counted as it runs, see
:func:`count_run`."""

SMALL_BLOCK, LARGE_BLOCK = 512, 2**21
"""Bytes in whose multiples PyTorch's CUDA allocator gives out memory, and takes it from the
driver for blocks of more than 1 MiB (``CUDACachingAllocator``)."""

FALLBACK_BYTES_PER_PIXEL = 32 * 1024
"""For modules that cannot be counted: about what the largest in use here takes."""

_PROBE = 128

_log = logging.getLogger(__name__)


@runtime_checkable
class _KnowsItsCost(Protocol):
    def activation_bytes_per_pixel(self) -> int: ...


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages alive, those that were there before left out.

    Args:
        in_blocks: each takes whole blocks of PyTorch's CUDA allocator.
    """

    def __init__(self, in_blocks: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._in_blocks = in_blocks
        self.now: int = 0
        self.peak: int = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if self._in_blocks:
            block = SMALL_BLOCK if size <= 2**20 else LARGE_BLOCK
            size = -(-size // block) * block
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Counted:
    """What one run of a module takes in memory, its weights left out."""

    prepared: int
    """Bytes of what ``prepare`` builds."""

    maps: int
    """Bytes of all other tensors alive at the peak, input and result included."""


def count_run(module: nn.Module, spec: TileSpec, *, on_gpu: bool = False) -> Counted:
    """Count what a module takes when it runs, without running it.

    It runs on tensors that have shapes but no contents. Not counted is what a library takes
    inside one operation (a convolution's workspace).

    Args:
        module: on any device, as an engine is given it. It is not changed.
        spec: the shape; its device does not matter.
        on_gpu: count what the private pool of a CUDA graph holds: whole blocks of PyTorch's
            allocator, attention as one kernel where a GPU has one. By arithmetic: gaps that
            blocks of other sizes leave are not in it.

    Raises:
        Exception: whatever the module raises on tensors without contents.
    """
    return _counted_run(module, spec, on_gpu, run=True)


def count_prepared(module: nn.Module, spec: TileSpec, *, on_gpu: bool = False) -> int:
    """As :func:`count_run`, what ``prepare`` builds alone."""
    return _counted_run(module, spec, on_gpu, run=False).prepared


def _counted_run(module: nn.Module, spec: TileSpec, on_gpu: bool, *, run: bool) -> Counted:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    ready = _without_contents(module, fake)
    live = _LiveBytes(on_gpu)
    with ExitStack() as stack:
        for context in (torch.no_grad(), fake, live):
            stack.enter_context(context)
        if on_gpu:
            stack.enter_context(GpuAttention())
        if isinstance(ready, Preparable):
            ready.prepare(spec.height, spec.width)
        prepared = live.peak = live.now
        if run:
            ready(torch.empty(spec.input_shape, dtype=spec.dtype))
    return Counted(prepared, live.peak - prepared)


def _without_contents(module: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """A copy in eval mode whose parameters and buffers have shapes alone, on the CPU."""
    memo: dict[int, Any] = {}
    attributes = [value for part in module.modules() for value in vars(part).values()]
    tensors = [value for value in attributes if isinstance(value, Tensor)]
    for tensor in (*tensors, *module.parameters(), *module.buffers()):
        with fake:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
    return copy.deepcopy(module, memo).eval()


def bytes_per_pixel(module: nn.Module, *, scale: int, engine: str, channels: int = 3) -> int:
    """Bytes that an engine takes for each input pixel of a batch of one.

    What the module itself says (``activation_bytes_per_pixel()``) if it says
    anything, else counted over one pass without computing, else a figure that is
    enough for any in use here; times the factor of the engine.

    Args:
        module: maps (1, C, H, W) to (1, C, sH, sW).
        scale: s.
        engine: its name.
        channels: C.
    """
    return _counted(module, scale, channels) * ENGINE_FACTORS.get(engine, 2)


def _counted(module: nn.Module, scale: int, channels: int) -> int:
    if isinstance(module, _KnowsItsCost):
        return module.activation_bytes_per_pixel()
    spec = TileSpec(batch=1, channels=channels, height=_PROBE, width=_PROBE, scale=scale)
    try:
        counted = count_run(module, spec)
    except Exception as error:  # a module of the user's own may raise anything
        _log.info("memory of the network is assumed, not counted (%s)", error)
        return FALLBACK_BYTES_PER_PIXEL
    return max(counted.maps // _PROBE**2, 1)


def choose_tile(height: int, width: int, bytes_per_pixel: int, available: int, overlap: int) -> int:
    """The largest tile that fits in memory.

    Larger is better throughout: channel attention pools over the whole
    tile, so the nearer the tile comes to the frame, the nearer its result comes to
    the published network's; and less is computed twice.

    Args:
        height: of the frame in pixels.
        width: of the frame in pixels.
        bytes_per_pixel: of one tile, for each of its input pixels.
        available: bytes of free memory, of which ``MEMORY_SHARE`` is used.
        overlap: pixels that tiles share, at most half a tile.

    Returns:
        0 for the whole frame, else a multiple of 16: the largest that fits, but
        never below ``MIN_TILE`` and never below twice the overlap.
    """
    pixels = int(available * MEMORY_SHARE) // bytes_per_pixel
    if (-(-height // 16) * 16) * (-(-width // 16) * 16) <= pixels:
        return 0
    least = max(MIN_TILE, -(-2 * overlap // 16) * 16)
    tile = least
    while (tile + 16) ** 2 <= pixels:
        tile += 16
    return tile


def available_memory(device: torch.device, *, root: Path = Path("/")) -> int:
    """Bytes free on a device; on a CPU no more than the control group leaves, on a GPU
    together with what PyTorch keeps of it for tensors to come.

    Args:
        device: ``cpu``, ``cuda`` (the current one) or ``cuda:N``.
        root: of the file tree in which the control group's limits are looked up.

    Raises:
        OutOfMemoryError: the GPU has not even the memory to be asked.
        EngineError: the GPU does not answer.
    """
    if device.type == "cuda":
        try:
            return int(torch.cuda.mem_get_info(device)[0]) + _cached_blocks(device)
        except RuntimeError as error:  # the first call that needs memory of the GPU itself
            first = str(error).strip().partition("\n")[0]
            if ran_out(error):
                raise OutOfMemoryError(
                    f"{device} has no memory left ({first}); end what fills it, or choose another "
                    "device, or device cpu"
                ) from error
            raise EngineError(
                f"{device} cannot be used ({first}); choose another device, or device cpu"
            ) from error
    free = int(psutil.virtual_memory().available)
    limits = [left for folder in _cgroups(root) if (left := _cgroup_left(folder)) is not None]
    return max(min([free, *limits]), 0)


_DEFAULT_POOL = (0, 0)
"""``segment_pool_id`` of memory that any tensor may be given. Every captured graph has a
pool of its own, whose unused blocks are for that graph's replays alone: reserved minus
allocated bytes would count them as free."""


def _cached_blocks(device: torch.device) -> int:
    """Bytes that PyTorch has from the driver, and that no tensor uses."""
    if torch.cuda.get_allocator_backend() != "native":
        return 0  # CUDA's own allocator has no snapshot
    index = torch.cuda.current_device() if device.index is None else device.index
    # A block that awaits the end of another stream's work is not allocated any more, but not
    # free either: hence active, which counts it.
    return sum(
        segment["total_size"] - segment["active_size"]
        for segment in torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        if segment["device"] == index and tuple(segment["segment_pool_id"]) == _DEFAULT_POOL
    )


def _cgroups(root: Path) -> list[Path]:
    """Folders of this process's memory control groups (v2 and v1), inner to outer."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        inner = top / path.lstrip("/")
        folders += [inner, *(p for p in inner.parents if p.is_relative_to(top))]
    return folders


def _cgroup_left(folder: Path) -> int | None:
    """Bytes a control group may still take, None without a limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        # The page cache counts as used, but gives way.
        return left + _inactive_file(folder)
    return None


def _inactive_file(folder: Path) -> int:
    try:
        words = (folder / "memory.stat").read_text().split()
    except OSError:
        return 0
    figures = dict(zip(words[::2], words[1::2], strict=False))
    return int(figures.get("inactive_file", 0))
