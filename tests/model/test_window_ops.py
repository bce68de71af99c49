from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import hatvid.model.window_ops as window_ops
from hatvid.errors import EngineError
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


def _operands(kinds: int = 4) -> tuple[Tensor, Tensor, int, int, int, int, float, int]:
    """Of shifted windows, for ``window_attention``: two heads of 6, windows of 8."""
    generator = torch.Generator().manual_seed(3)
    qkv = torch.randn(2, 16 * 24, 36, generator=generator)
    bias = torch.randn(kinds, 2, 64, 64, generator=generator)
    return qkv, bias, 16, 24, 8, 4, 0.4, 2


def _overlap_operands() -> tuple[Tensor, Tensor, int, int, int, int, float, int]:
    qkv, *_ = _operands()
    bias = torch.randn(1, 2, 64, 144, generator=torch.Generator().manual_seed(4))
    return qkv, bias, 16, 24, 8, 12, 0.4, 2


def _off(operand: Tensor, by: int) -> Tensor:
    """The same, contiguous, beginning ``by`` numbers later in its memory."""
    room = operand.new_empty(operand.numel() + by)
    return room[by:].view(operand.shape).copy_(operand)


def _turned(operand: Tensor) -> Tensor:
    return operand.transpose(-1, -2).contiguous().transpose(-1, -2)


def _scrambled(bias: Tensor) -> Tensor:
    """As ``Module.to(memory_format=torch.channels_last)`` lays out a buffer of four axes."""
    return bias.to(memory_format=torch.channels_last)


QKV, BIAS, HEIGHT, WIDTH, WINDOW, OTHER, HEADS = 0, 1, 2, 3, 4, 5, 7

WRONG: dict[str, tuple[int, Callable[[Any], Any], str]] = {
    "qkv too short": (QKV, lambda qkv: qkv[:, :-8].contiguous(), "the shape of qkv is"),
    "qkv as a grid": (QKV, lambda qkv: qkv.view(2, 16, 24, 36), "the shape of qkv is"),
    "qkv of part of a head": (QKV, lambda qkv: qkv[..., :34].contiguous(), "the shape of qkv is"),
    "qkv in whole numbers": (QKV, lambda qkv: qkv.int(), "the dtype of qkv is torch.int32"),
    "qkv channels first": (QKV, _turned, "the stride of qkv is"),
    "qkv part of a wider map": (
        QKV,
        lambda qkv: torch.cat((qkv, qkv), -1)[..., :36],
        r"the stride of qkv is \(27648, 72, 1\), and must be \(13824, 36, 1\)",
    ),
    "qkv off 16 bytes": (QKV, lambda qkv: _off(qkv, 1), "the address of qkv is 4, and must be 0"),
    "bias of other kinds": (BIAS, lambda bias: torch.cat((bias, bias)), "the shape of bias is"),
    "bias of one head": (BIAS, lambda bias: bias[:, :1].contiguous(), "the shape of bias is"),
    "bias in fp16": (BIAS, lambda bias: bias.half(), "the dtype of bias is torch.float16"),
    "bias elsewhere": (BIAS, lambda bias: bias.to("meta"), "the device of bias is meta"),
    "bias channels-last": (BIAS, _scrambled, "the stride of bias is"),
    "bias turned": (BIAS, _turned, "the stride of bias is"),
    "bias expanded": (BIAS, lambda bias: bias[:, :, :1].expand_as(bias), "the stride of bias is"),
    "bias off 16 bytes": (BIAS, lambda bias: _off(bias, 2), "the address of bias is 8"),
    "height no multiple": (HEIGHT, lambda height: height + 4, "height is 20"),
    "width no multiple": (WIDTH, lambda width: width - 1, "width is 23"),
    "no window": (WINDOW, lambda window: 0, "window is 0"),
    "no heads": (HEADS, lambda heads: 0, "heads is 0"),
    "heads that do not divide": (HEADS, lambda heads: 5, "the shape of qkv is"),
}


@pytest.mark.parametrize(
    ("wrong", "fake"),
    [(wrong, False) for wrong in WRONG]
    # Of fake tensors on two devices the operator is not even asked.
    + [(wrong, True) for wrong in WRONG if wrong != "bias elsewhere"],
)
@pytest.mark.parametrize("operator", [window_attention, overlap_attention], ids=["window", "over"])
def test_operands_that_would_be_read_wrongly_are_refused(
    operator: Any, wrong: str, fake: bool
) -> None:
    at, change, message = WRONG[wrong]
    operands: list[Any] = list(_operands() if operator is window_attention else _overlap_operands())
    operands[at] = change(operands[at])
    if fake:
        with FakeTensorMode() as mode:
            operands[:2] = [mode.from_tensor(operand) for operand in operands[:2]]
            with pytest.raises(EngineError, match=message):
                operator(*operands)
        return
    with pytest.raises(EngineError, match=message):
        operator(*operands)


@pytest.mark.parametrize("shift", [-1, 8])
def test_a_shift_is_less_than_a_window(shift: int) -> None:
    operands = list(_operands())
    operands[OTHER] = shift
    with pytest.raises(EngineError, match=f"shift is {shift}"):
        window_attention(*operands)


@pytest.mark.parametrize(
    ("above", "below", "message"),
    [(-4, 0, "above is -4"), (0, -1, "below is -1"), (4, 0, "above and below is 12, and must")],
)
def test_a_band_holds_whole_windows(above: int, below: int, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        overlap_attention(*_overlap_operands(), above, below)


def test_a_band_of_rows_gives_those_rows_of_the_map() -> None:
    qkv, bias, height, width, window, overlap, *rest = _overlap_operands()
    whole = overlap_attention(qkv, bias, height, width, window, overlap, *rest)
    margin, own = 2, window * width
    first = qkv[:, : own + margin * width].contiguous()
    last = qkv[:, own - margin * width :].contiguous()
    size = (window + margin, width, window, overlap)
    parts = (
        overlap_attention(first, bias, *size, *rest, 0, margin),
        overlap_attention(last, bias, *size, *rest, margin, 0),
    )
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("overlap", [6, 11])
def test_windows_of_keys_surround_those_of_queries(overlap: int) -> None:
    operands = list(_overlap_operands())
    operands[OTHER] = overlap
    with pytest.raises(EngineError, match=f"overlap is {overlap}"):
        overlap_attention(*operands)


@given(st.permutations(range(4)), st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_a_bias_is_taken_if_and_only_if_it_is_read_as_it_is_meant(
    order: list[int], gaps: list[int]
) -> None:
    """Any order of axes in memory, any gaps between rows."""
    shape = (4, 2, 4, 4)
    strides, step = [0] * 4, 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis] + gaps[axis]
    room = torch.randn(step + 200, generator=torch.Generator().manual_seed(5))
    bias = room.as_strided(shape, strides)
    qkv = torch.randn(1, 16, 12, generator=torch.Generator().manual_seed(6))
    rest = (4, 4, 2, 1, 0.4, 2)
    meant = bias.clone(memory_format=torch.contiguous_format)
    read = room[: math.prod(shape)].view(shape)
    if torch.equal(read, meant):
        assert torch.equal(window_attention(qkv, bias, *rest), window_attention(qkv, meant, *rest))
    else:
        with pytest.raises(EngineError, match="the stride of bias"):
            window_attention(qkv, bias, *rest)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("_check_windows", "_check_overlap"):
        monkeypatch.setattr(window_ops, check, lambda *operands, **options: None)


@pytest.mark.usefixtures("unchecked")
def test_unchecked_a_scrambled_bias_is_wrong_on_a_cpu_too() -> None:
    """As it is on a GPU: else no test without one could find an operand laid out wrongly."""
    for operator, operands in (
        (window_attention, _operands()),
        (overlap_attention, _overlap_operands()),
    ):
        qkv, bias, *rest = operands
        right = operator(qkv, bias, *rest)
        wrong = operator(qkv, _scrambled(bias), *rest)
        assert (wrong - right).abs().max() > 0.1 * right.std()
        flat = _scrambled(bias).untyped_storage()
        read = torch.tensor([], dtype=bias.dtype).set_(flat, 0, bias.shape)
        assert torch.equal(wrong, operator(qkv, read, *rest))
        assert not torch.equal(operator(_turned(qkv), bias, *rest), right)
