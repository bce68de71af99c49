"""The Triton kernels, interpreted on a CPU, against the network's attention in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hatvid.model.window_ops import overlap_attention, window_attention

LIMITS = {"fp32": 1e-6, "fp16": 1e-3}
"""Of the largest value."""


def _errors(*arguments: str) -> dict[str, float]:
    program = Path(__file__).with_name("interpret_kernels.py")
    done = subprocess.run(
        [sys.executable, program, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _check(errors: dict[str, float]) -> None:
    for name, error in errors.items():
        precision = name.rpartition(" ")[2]
        assert error < LIMITS[precision], name
        assert precision == "fp32" or error > 1e-5, f"{name}: this is not 16 bits"


def test_near_enough_to_float64() -> None:
    errors = _errors()
    assert len(errors) == 6
    _check(errors)


@pytest.mark.long
def test_near_enough_at_a_size_with_every_kind_of_window() -> None:
    errors = _errors("whole")
    assert len(errors) == 5 * 6
    _check(errors)


@pytest.mark.long
def test_a_band_of_rows() -> None:
    errors = _errors("band")
    assert len(errors) == 1
    _check(errors)


@pytest.mark.long
def test_a_scrambled_bias_is_wrong_as_the_operators_are_on_a_cpu() -> None:
    """They read memory as the kernels do, or a CPU could not find operands laid out wrongly."""
    errors = _errors("scrambled")
    assert len(errors) == 6
    for name, error in errors.items():
        assert error < LIMITS["fp32"] if name.endswith("operator") else error > 0.1, name


@pytest.mark.needs_cuda
@pytest.mark.parametrize(("heads", "head_dim"), [(3, 16), (6, 24), (6, 30), (6, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu(heads: int, head_dim: int, dtype: torch.dtype) -> None:
    """The operators, which are the kernels there, at a size with all kinds of window."""
    torch.manual_seed(2)
    qkv = torch.randn(2, 64 * 48, 3 * heads * head_dim).to(dtype)
    limit = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for operator, keys, kinds, other in (
        (window_attention, 256, 1, 0),
        (window_attention, 256, 4, 8),
        (overlap_attention, 576, 1, 24),
    ):
        bias = torch.randn(kinds, heads, 256, keys).to(dtype)
        rest = (64, 48, 16, other, head_dim**-0.5, heads)
        exact = operator(qkv.double(), bias.double(), *rest)
        found = operator(qkv.cuda(), bias.cuda(), *rest).cpu().double()
        assert (found - exact).abs().max() < limit * exact.abs().max()
