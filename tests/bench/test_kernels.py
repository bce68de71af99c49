from __future__ import annotations

import pytest

from hatvid.bench.kernels import HEAD_DIMS, TARGETS, CompiledKernel, compiled_kernels, kernel_table

SHARED = {80: 163, 89: 99, 90: 227}
"""KiB that one program may have (CUDA C++ programming guide, technical specifications)."""


@pytest.fixture(scope="module", params=[(30,), pytest.param((16, 32), marks=pytest.mark.long)])
def head_dims(request: pytest.FixtureRequest) -> tuple[int, ...]:
    """30 is no power of two."""
    dims: tuple[int, ...] = request.param
    return dims


@pytest.fixture(scope="module")
def kernels(
    tmp_path_factory: pytest.TempPathFactory, head_dims: tuple[int, ...]
) -> list[CompiledKernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        return compiled_kernels(head_dims=head_dims)


def test_there_is_code_for_each_gpu(
    kernels: list[CompiledKernel], head_dims: tuple[int, ...]
) -> None:
    names = {(kernel.name, kernel.head_dim, kernel.target) for kernel in kernels}
    assert names == {
        (name, head_dim, target)
        for name in ("window", "overlap")
        for head_dim in head_dims
        for target in TARGETS
    }
    assert set(head_dims) <= set(HEAD_DIMS)
    for kernel in kernels:
        assert kernel.cubin.startswith(b"\x7fELF")
        # e_machine of a cubin: EM_CUDA
        assert int.from_bytes(kernel.cubin[18:20], "little") == 190
    assert len({kernel.cubin for kernel in kernels}) == len(kernels)


def test_they_fit(kernels: list[CompiledKernel]) -> None:
    for kernel in kernels:
        assert kernel.spilled == 0, kernel.name
        assert 32 < kernel.registers < 255
        # Two programs of 128 threads at once at least, out of 65,536 registers.
        assert kernel.registers * 128 * 2 <= 65_536
        assert 2 * kernel.shared <= SHARED[kernel.target] * 1024


def test_the_table_has_a_line_for_each(
    kernels: list[CompiledKernel], head_dims: tuple[int, ...]
) -> None:
    lines = kernel_table(kernels).splitlines()
    assert len(lines) == len(kernels) + 2
    assert lines[2].startswith(f"| window | fp16 | {head_dims[0]} | sm_80 |")
