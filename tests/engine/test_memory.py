from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hatvid.engine import TileSpec
from hatvid.engine.memory import (
    ENGINE_FACTORS,
    FALLBACK_BYTES_PER_PIXEL,
    MEMORY_SHARE,
    MIN_TILE,
    available_memory,
    bytes_per_pixel,
    choose_tile,
)
from hatvid.tiling import TilePlan

CPU = torch.device("cpu")
GIB = 1024**3


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 10**5), st.integers(0, 10**11),
    st.integers(0, 200),
)  # fmt: skip
def test_the_tile_is_the_largest_that_fits(
    height: int, width: int, cost: int, available: int, overlap: int
) -> None:
    tile = choose_tile(height, width, cost, available, overlap)
    plan = TilePlan.make(height, width, tile=tile, overlap=overlap)
    fits = plan.tile_height * plan.tile_width * cost <= available * MEMORY_SHARE

    whole = TilePlan.make(height, width, tile=0, overlap=overlap)
    whole_fits = whole.tile_height * whole.tile_width * cost <= available * MEMORY_SHARE
    assert (tile == 0) is whole_fits
    if tile:
        assert tile % 16 == 0
        assert tile >= max(MIN_TILE, 2 * overlap)
        least = tile == max(MIN_TILE, -(-2 * overlap // 16) * 16)
        assert fits or least
        assert (tile + 16) ** 2 * cost > available * MEMORY_SHARE


def test_counting_by_hand() -> None:
    """At the second convolution its input (8 channels) and output (12) are alive."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.last = nn.Conv2d(8, 12, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = self.last(x)
            x = x * 1.0  # the 8 channels are gone here: 12 + 12
            return nn.functional.pixel_shuffle(x, 2)

    # The caller's input (3 channels) is alive all the time; the shuffle copies 12 to 12.
    counted = bytes_per_pixel(Net(), scale=2, engine="eager")
    assert counted == (3 + 12 + 12) * 4 * ENGINE_FACTORS["eager"]


def test_views_and_writes_in_place_cost_nothing() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([x] * 4, dim=1)
            x.add_(1).mul_(2)
            return x.reshape(1, 4, 3, *x.shape[2:]).transpose(1, 2)

    assert bytes_per_pixel(Net(), scale=1, engine="eager") == (3 + 12) * 4 * 2


def test_the_word_of_the_module_counts_first() -> None:
    class Net(nn.Module):
        def activation_bytes_per_pixel(self) -> int:
            return 1234

    factor = ENGINE_FACTORS["openvino"]
    assert bytes_per_pixel(Net(), scale=2, engine="openvino") == 1234 * factor


def test_a_module_that_cannot_be_counted_is_assumed_large() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.mean()) > 0 else x + 1

    assert bytes_per_pixel(Net(), scale=1, engine="eager") == FALLBACK_BYTES_PER_PIXEL * 2


def test_counting_leaves_the_module_alone(net: nn.Module, spec: TileSpec, tiles: Tensor) -> None:
    with torch.no_grad():
        before = net(tiles)
        bytes_per_pixel(net, scale=spec.scale, engine="eager")
        assert torch.equal(net(tiles), before)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> int:
    size = 50 * GIB
    memory = psutil.virtual_memory()._replace(available=size)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    return size


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_without_control_groups_free_memory_counts(tmp_path: Path, free: int) -> None:
    assert available_memory(CPU, root=tmp_path) == free


def test_the_narrowest_control_group_counts(tmp_path: Path, free: int) -> None:
    top = "sys/fs/cgroup"
    _write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner",
            f"{top}/outer/memory.max": str(8 * GIB),
            f"{top}/outer/memory.current": str(5 * GIB),
            f"{top}/outer/memory.stat": f"anon {4 * GIB}\ninactive_file {GIB}",
            f"{top}/outer/inner/memory.max": "max",
            f"{top}/outer/inner/memory.current": str(5 * GIB),
        },
    )
    assert available_memory(CPU, root=tmp_path) == 4 * GIB


def test_the_limit_of_a_container_counts(tmp_path: Path, free: int) -> None:
    """Inside a container the group's own folder is mounted as the root."""
    _write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": str(2 * GIB),
            "sys/fs/cgroup/memory.current": str(3 * GIB),
        },
    )
    assert available_memory(CPU, root=tmp_path) == 0


def test_control_groups_of_version_1_count(tmp_path: Path, free: int) -> None:
    _write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/b",
            "sys/fs/cgroup/memory/b/memory.limit_in_bytes": str(3 * GIB),
            "sys/fs/cgroup/memory/b/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "0",
            "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "0",
        },
    )
    assert available_memory(CPU, root=tmp_path) == 2 * GIB


def _segment(device: int, pool: tuple[int, int], blocks: dict[str, int]) -> dict[str, object]:
    """As PyTorch writes one into a snapshot."""
    allocated = blocks.get("active_allocated", 0)
    return {
        "device": device,
        "segment_pool_id": pool,
        "total_size": sum(blocks.values()),
        "allocated_size": allocated,
        "active_size": allocated + blocks.get("active_pending_free", 0),
        "blocks": [{"state": state, "size": size} for state, size in blocks.items()],
    }


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two: 10 and 20 GiB free; graphs with pools of their own, one of them replaying."""
    default, graph, other = (0, 0), (0, 1), (7, 0)
    segments = [
        _segment(0, default, {"active_allocated": 3 * GIB, "inactive": GIB}),
        _segment(0, default, {"inactive": 2 * GIB}),
        _segment(0, default, {"active_pending_free": 5 * GIB}),  # another stream reads it
        _segment(0, graph, {"inactive": 50 * GIB}),
        _segment(0, other, {"active_allocated": GIB, "inactive": 60 * GIB}),
        _segment(1, default, {"active_allocated": GIB, "inactive": 4 * GIB}),
        _segment(1, graph, {"inactive": 70 * GIB}),
    ]
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: ((device.index or 0) * 10 * GIB + 10 * GIB, 0)
    )
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    return monkeypatch


@pytest.mark.usefixtures("gpus")
def test_what_pytorch_keeps_for_tensors_to_come_is_free() -> None:
    """But not the pools of graphs, what a stream still reads, or another GPU's."""
    assert available_memory(torch.device("cuda:0")) == (10 + 3) * GIB
    assert available_memory(torch.device("cuda")) == (10 + 3) * GIB
    assert available_memory(torch.device("cuda:1")) == (20 + 4) * GIB


def test_an_allocator_without_a_snapshot_is_not_asked_for_one(gpus: pytest.MonkeyPatch) -> None:
    def refused() -> object:
        raise RuntimeError("cudaMallocAsync does not yet support snapshot")

    gpus.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    gpus.setattr(torch.cuda, "memory_snapshot", refused)
    assert available_memory(torch.device("cuda:1")) == 20 * GIB


@pytest.mark.needs_cuda
def test_freed_memory_of_a_gpu_is_still_available() -> None:
    device = torch.device("cuda:0")
    before = available_memory(device)
    block = torch.empty(GIB, dtype=torch.uint8, device=device)
    assert available_memory(device) < before - GIB / 2
    del block
    assert available_memory(device) > before - GIB / 2
