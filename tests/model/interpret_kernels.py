"""Run the Triton kernels in Triton's interpreter and print how far they are from float64.

A program of its own: Triton looks at TRITON_INTERPRET when it is imported. Prints one JSON
object, errors by case, as shares of the largest value of the exact result. With the argument
``band``: of a band of rows, against the same rows of the whole map. With the argument
``scrambled``: of a channels-last bias, and how far from what the operators compute on a CPU,
and from the right result, all in fp32.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.nn.functional as F

import hatvid.model.window_ops as window_ops
from hatvid.model.attention import (
    OverlapAttention,
    WindowAttention,
    WindowTables,
)
from hatvid.model.window_kernels import run_overlap, run_window

NETWORKS = {"nano": (3, 16), "HAT-S": (6, 24), "HAT": (6, 30), "HAT padded": (6, 32)}
QUICK = {"HAT": [(1, 16, 16)]}
WHOLE = {network: [(1, 32, 48)] for network in NETWORKS} | {"nano": [(2, 16, 32), (1, 32, 48)]}
# Triton's interpreter reckons with bf16 as if it were whole numbers.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
KINDS = {"windows": (0, 16), "shifted windows": (8, 16), "overlapping windows": (0, 24)}


def main() -> None:
    errors = {}
    torch.manual_seed(4)
    if "band" in sys.argv:
        print(json.dumps(_band()))  # noqa: T201
        return
    if "scrambled" in sys.argv:
        print(json.dumps(_scrambled()))  # noqa: T201
        return
    for network, sizes in (WHOLE if "whole" in sys.argv else QUICK).items():
        for size in sizes:
            for kind, (shift, overlap) in KINDS.items():
                for name, dtype in DTYPES.items():
                    case = f"{network} {size}: {kind}, {name}"
                    errors[case] = _error(*NETWORKS[network], *size, shift, overlap, dtype)
    print(json.dumps(errors))  # noqa: T201


def _error(
    heads: int,
    head_dim: int,
    batch: int,
    height: int,
    width: int,
    shift: int,
    overlap: int,
    dtype: torch.dtype,
) -> float:
    """Of the kernel, against the network's own attention in float64."""
    dim = heads * head_dim
    tables = WindowTables(height, width, 16, overlap)
    module = (
        WindowAttention(dim, heads, 16, shift)
        if overlap == 16
        else OverlapAttention(dim, heads, 16, overlap)
    ).double()
    with torch.no_grad():
        module.relative_position_bias_table.normal_()
        bias = module.gather_bias(tables.double()).to(dtype)
        qkv = torch.randn(batch, height * width, 3 * dim).to(dtype)
        # The projections are no part of the kernel, nor is what they round.
        module.qkv = torch.nn.Identity()  # type: ignore[assignment]
        module.qkv.out_features = 3 * dim  # type: ignore[assignment]
        module.bias, module.training = bias.double(), False
        if isinstance(module, WindowAttention):
            module.proj = torch.nn.Identity()  # type: ignore[assignment]
            exact = module(qkv.double(), tables)
            found = run_window(
                qkv, bias.contiguous(), height, width, 16, shift, module.scale, heads
            )
        else:
            exact = module.cross_attention(qkv.double(), tables)
            found = run_overlap(
                qkv, bias.contiguous(), height, width, 16, overlap, module.scale, heads
            )
    assert found.dtype == dtype
    assert found.shape == exact.shape
    assert F.mse_loss(exact, torch.zeros_like(exact)) > 0
    return float((found.double() - exact).abs().max() / exact.abs().max())


def _band() -> dict[str, float]:
    """Overlapping windows of the middle row of a map, from a band of its rows, in fp32."""
    qkv, bias = torch.randn(2, 48 * 16, 3 * 16), torch.randn(1, 1, 256, 576)
    whole = window_ops.overlap_attention(qkv, bias, 48, 16, 16, 24, 0.25, 1)
    band = qkv[:, 12 * 16 : 36 * 16].contiguous()
    found = run_overlap(band, bias, 24, 16, 16, 24, 0.25, 1, 4, 4)
    exact = whole[:, 16 * 16 : 32 * 16]
    return {"band fp32": float((found - exact).abs().max() / exact.abs().max())}


def _scrambled() -> dict[str, float]:
    """What a bias gives that is laid out channels-last, with the checks switched off."""
    setattr(window_ops, "_check_windows", lambda *operands: None)  # noqa: B010
    setattr(window_ops, "_check_overlap", lambda *operands: None)  # noqa: B010
    qkv = torch.randn(1, 16 * 16, 3 * 2 * 16)
    errors = {}
    for kind, (shift, overlap) in KINDS.items():
        kernel, operator, other = (
            (run_overlap, window_ops.overlap_attention, overlap)
            if overlap > 16
            else (run_window, window_ops.window_attention, shift)
        )
        bias = torch.randn(4 if shift else 1, 2, 256, overlap**2)
        turned = bias.to(memory_format=torch.channels_last)
        rest = (16, 16, 16, other, 0.25, 2)
        found, same = kernel(qkv, turned, *rest), operator(qkv, turned, *rest)
        right = operator(qkv, bias, *rest)
        errors[f"{kind}, operator"] = float((found - same).abs().max() / right.abs().max())
        errors[f"{kind}, right"] = float((found - right).abs().max() / right.abs().max())
    return errors


main()
