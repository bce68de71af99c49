from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hatvid.model.attention import OverlapAttention, WindowAttention, WindowTables
from hatvid.model.window_ops import overlap_attention, window_attention

SIZES = [(16, 16), (16, 48), (64, 16), (48, 32)]


def _module(kind: type[Any], *arguments: int) -> Any:
    generator = torch.Generator().manual_seed(1)
    module = kind(12, 2, *arguments).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def _map(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, height * width, 12, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [8, 16])
@pytest.mark.parametrize("shifted", [False, True])
def test_windows(size: tuple[int, int], window: int, shifted: bool) -> None:
    shift = window // 2 if shifted else 0
    module = _module(WindowAttention, window, shift)
    tables = WindowTables(*size, window, window + window // 2).double()
    x = _map(*size)
    with torch.no_grad():
        bias = module.gather_bias(tables)
        out = window_attention(module.qkv(x), bias, *size, window, shift, module.scale, 2)
        torch.testing.assert_close(module.proj(out), module(x, tables), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [8, 16])
def test_overlapping_windows(size: tuple[int, int], window: int) -> None:
    overlap = window + window // 2
    module = _module(OverlapAttention, window, overlap)
    tables = WindowTables(*size, window, overlap).double()
    x = _map(*size)
    with torch.no_grad():
        bias = module.gather_bias(tables)
        out = overlap_attention(module.qkv(x), bias, *size, window, overlap, module.scale, 2)
        expected = module.cross_attention(x, tables)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("operator", "kinds", "keys", "other"),
    [
        (torch.ops.hatvid.window_attention.default, 1, 64, 0),
        (torch.ops.hatvid.window_attention.default, 4, 64, 4),
        (torch.ops.hatvid.overlap_attention.default, 1, 144, 12),
    ],
)
def test_pytorch_may_trace_it(operator: Any, kinds: int, keys: int, other: int) -> None:
    qkv, bias = torch.randn(2, 16 * 24, 36), torch.randn(kinds, 2, 64, keys)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(operator, (qkv, bias, 16, 24, 8, other, 0.4, 2), test_utils=checks)
