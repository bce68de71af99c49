"""Compile the Triton kernels for GPUs that are not there, and look at what comes out.

Triton makes PTX, and the assembler that comes with it makes the GPU's own code and tells
how many registers and how much shared memory a program takes, and what did not fit.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hatvid.errors import EngineError

__all__ = ["CompiledKernel", "TARGETS", "compiled_kernels", "kernel_table"]

TARGETS = {80: "A100", 89: "RTX 4090", 90: "H100"}
"""Compute capability without its dot, and a GPU that has it."""

HEAD_DIMS = {16: 3, 24: 6, 30: 6, 32: 6}
"""Head sizes of hat-nano, HAT-S, HAT, and HAT padded, with their number of heads."""

WINDOW, OVERLAP, WARPS = 16, 24, 4

DTYPES = {torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True, kw_only=True)
class CompiledKernel:
    """One kernel for one GPU."""

    name: str
    target: int
    """Compute capability without its dot."""
    head_dim: int
    precision: str
    registers: int
    """Of one thread; 255 is the most there is."""
    spilled: int
    """Bytes of one thread that did not fit into registers."""
    shared: int
    """Bytes of one program; with the most stages that Triton loads ahead."""
    cubin: bytes


def compiled_kernels(
    *,
    targets: Sequence[int] = tuple(TARGETS),
    head_dims: Sequence[int] = tuple(HEAD_DIMS),
    dtypes: Sequence[torch.dtype] = (torch.float16,),
) -> list[CompiledKernel]:
    """Compile both kernels for each target, head size and dtype.

    Raises:
        EngineError: Triton is not installed, or refuses.
    """
    try:
        return list(_compiled(targets, head_dims, dtypes))
    except ImportError as error:
        raise EngineError(f"Triton cannot be imported ({error}); install triton") from error


def kernel_table(kernels: Sequence[CompiledKernel]) -> str:
    """The kernels as a table in Markdown."""
    lines = [
        "| kernel | precision | head | GPU | registers | spilled bytes | shared KiB | cubin KiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {kernel.name} | {kernel.precision} | {kernel.head_dim} | sm_{kernel.target} | "
        f"{kernel.registers} | {kernel.spilled} | {kernel.shared / 1024:.1f} | "
        f"{len(kernel.cubin) / 1024:.1f} |"
        for kernel in kernels
    ]
    return "\n".join(lines)


def _compiled(
    targets: Sequence[int], head_dims: Sequence[int], dtypes: Sequence[torch.dtype]
) -> Iterator[CompiledKernel]:
    from hatvid.model.window_kernels import overlap_kernel, window_kernel  # needs Triton

    for dtype in dtypes:
        for kernel, fixed in (
            (window_kernel, {"SHIFT": WINDOW // 2}),
            (overlap_kernel, {"OVERLAP": OVERLAP, "ABOVE": 0, "BELOW": 0}),
        ):
            for head_dim in head_dims:
                for target in targets:
                    yield _compile(kernel, fixed, head_dim, dtype, target)


def _compile(
    kernel: Any, fixed: dict[str, int], head_dim: int, dtype: torch.dtype, target: int
) -> CompiledKernel:
    import triton  # type: ignore[import-untyped]
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
    from triton.compiler import ASTSource  # type: ignore[import-untyped]

    from hatvid.model.window_kernels import blocks_for

    pointer = f"*{DTYPES[dtype]}"
    constants = {
        "HEADS": HEAD_DIMS.get(head_dim, 6),
        "HEAD_DIM": head_dim,
        "WINDOW": WINDOW,
        **fixed,
        **blocks_for(head_dim, dtype.itemsize),
    }
    signature = {
        **dict.fromkeys(("qkv", "bias", "out"), pointer),
        **dict.fromkeys(("height", "width"), "i32"),
        "scale": "fp32",
        **dict.fromkeys(constants, "constexpr"),
    }
    # As at a launch: addresses, height and width are multiples of 16.
    aligned = {(place,): [["tt.divisibility", 16]] for place in range(5)}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    made = triton.compile(
        source, target=GPUTarget("cuda", target, 32), options={"num_warps": WARPS}
    )
    said = _assembled(made.asm["ptx"], target)
    used = re.search(r"Used (\d+) registers", said)
    if used is None:
        raise EngineError(f"the assembler says nothing of registers: {said.strip()}; report it")
    return CompiledKernel(
        name=kernel.__name__.removesuffix("_kernel"),
        target=target,
        head_dim=head_dim,
        precision=DTYPES[dtype],
        registers=int(used[1]),
        spilled=sum(map(int, re.findall(r"(\d+) bytes spill stores", said))),
        shared=made.metadata.shared,
        cubin=made.asm["cubin"],
    )


def _assembled(ptx: str, target: int) -> str:
    """What the assembler tells of a program."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx, encoding="utf-8")
        suffix = "a" if target == 90 else ""  # Triton's own choice
        command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name=sm_{target}{suffix}"]
        command += [str(source), "-o", str(source.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineError(f"the assembler refuses a kernel: {done.stderr.strip()}; report it")
        return done.stderr + done.stdout
