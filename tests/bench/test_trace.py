"""What operators cost, on modules small enough to be counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hatvid.bench.costs import Operator
from hatvid.bench.trace import Trace, trace_network
from hatvid.engine.gpu_attention import takes_fused
from hatvid.errors import EngineError
from hatvid.model.attention_form import with_attention
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.padded import pad_channels
from hatvid.model.passes.channels_last import channels_last_weights
from hatvid.model.tail import collapse_tail


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def traced(function: Callable[[Tensor], object], *shape: int, half: bool = False) -> Trace:
    return trace_network(Lambda(function), shape, torch.float16 if half else torch.float32)


def only(trace: Trace) -> Operator:
    (operator,) = trace.operators
    return operator


def total(trace: Trace, name: str) -> int:
    return sum(getattr(operator, name) for operator in trace.operators)


class Small(nn.Module):
    """A view, a matrix product, an activation and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x.view(6, 4))).t()


def test_a_small_module_to_the_byte() -> None:
    product, relu = trace_network(Small(), (1, 2, 3, 4)).operators
    assert product.name == "aten.addmm.default"
    assert (product.flops, product.elements, product.launches) == (2 * 6 * 4 * 8, 0, 1)
    assert product.read == 4 * (6 * 4 + 4 * 8 + 8)  # input, weight, bias
    assert product.written == 4 * 6 * 8
    assert (relu.flops, relu.elements, relu.launches) == (0, 6 * 8, 1)
    assert (relu.read, relu.written) == (4 * 6 * 8, 4 * 6 * 8)


def test_in_sixteen_bits_it_is_half_the_bytes() -> None:
    whole = trace_network(Small(), (1, 2, 3, 4))
    half = trace_network(Small().half(), (1, 2, 3, 4), torch.float16)
    assert [2 * o.read for o in half.operators] == [o.read for o in whole.operators]
    assert [2 * o.written for o in half.operators] == [o.written for o in whole.operators]
    assert {o.dtype for o in half.operators} == {torch.float16}


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x[:, :, 1:, ::2].unsqueeze(0),
        lambda x: x.expand(7, -1, -1, -1),
        lambda x: x.chunk(2, 1),
        lambda x: x.unfold(2, 4, 2),
        lambda x: x.reshape(-1),
        lambda x: torch.ops.aten._unsafe_view(x, [-1]),
        lambda x: x.new_empty(9),
        lambda x: torch.zeros(9, device="cpu").sum(),
    ],
)
def test_what_runs_nothing_counts_nothing(view: Callable[[Tensor], object]) -> None:
    assert traced(view, 1, 4, 6, 8).operators == ()


def test_what_does_not_stay_a_view_is_a_copy() -> None:
    copy = only(traced(lambda x: x.permute(0, 2, 3, 1).reshape(-1), 1, 4, 6, 8))
    assert (copy.read, copy.written, copy.launches, copy.elements) == (768, 768, 1, 0)


def test_a_broadcast_input_is_read_once() -> None:
    addition = only(traced(lambda x: x + x[:1, :1].expand(5, 4, 6, 8), 5, 4, 6, 8))
    assert addition.read == 4 * (5 * 4 * 6 * 8 + 6 * 8)
    assert addition.written == 4 * 5 * 4 * 6 * 8
    spread = only(traced(lambda x: x[::2].expand(3, 5) + 1, 10))
    assert spread.read == 4 * 5


def test_one_view_given_twice_is_read_once_and_two_views_twice() -> None:
    assert only(traced(lambda x: x * x, 1, 1, 5, 8)).read == 160
    assert only(traced(lambda x: x[:, :, :3] * x[:, :, 2:], 1, 1, 5, 8)).read == 192


def test_windows_that_overlap_are_memory_once() -> None:
    # Four windows of 4, a step of 2 apart, are ten elements.
    assert only(traced(lambda x: x.unfold(0, 4, 2) + 1, 10)).read == 40


def test_in_place_reads_and_writes_and_overwriting_only_writes() -> None:
    added = only(traced(lambda x: x.add_(1), 10))
    assert (added.read, added.written) == (40, 40)
    copied = only(traced(lambda x: x[:5].copy_(x[5:]), 10))
    assert (copied.read, copied.written) == (20, 20)
    filled = only(traced(lambda x: x.fill_(1), 10))
    assert (filled.read, filled.written) == (0, 40)


def test_a_gather_reads_what_it_gives_back_and_the_index() -> None:
    few = torch.tensor([3, 1], dtype=torch.int32)
    many = torch.arange(100, dtype=torch.int32) % 10

    class Gather(nn.Module):
        def __init__(self, index: Tensor) -> None:
            super().__init__()
            self.register_buffer("index", index)

        def forward(self, x: Tensor) -> Tensor:
            return x.index_select(0, self.index)

    operator = only(trace_network(Gather(few), (10, 8)))
    assert (operator.read, operator.written) == (2 * 4 + 2 * 32, 2 * 32)
    operator = only(trace_network(Gather(many), (10, 8)))  # of ten rows, each read once
    assert (operator.read, operator.written) == (100 * 4 + 10 * 32, 100 * 32)


def test_what_comes_from_the_cpu_is_counted_apart() -> None:
    operator = only(traced(lambda x: torch.ones(25).to(x.device), 1))
    assert (operator.uploaded, operator.written, operator.read) == (100, 100, 0)
    assert total(traced(lambda x: x + 1, 3), "uploaded") == 0


class Conv(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_a_convolution_and_its_bias() -> None:
    out, given, weight = 8 * 5 * 6, 4 * 5 * 6, 8 * 4 * 9
    bare = only(trace_network(Conv(bias=False), (1, 4, 5, 6)))
    assert (bare.flops, bare.launches) == (2 * out * 4 * 9, 1)
    assert (bare.read, bare.written) == (4 * (given + weight), 4 * out)
    biased = only(trace_network(Conv(bias=True), (1, 4, 5, 6)))
    assert (biased.flops, biased.launches) == (bare.flops, 2)
    assert (biased.read, biased.written) == (bare.read + 4 * (out + 8), 2 * bare.written)


def test_a_convolution_turns_what_lies_otherwise() -> None:
    class Tokens(Conv):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.permute(0, 3, 1, 2))

    given, weight = 4 * 5 * 6, 8 * 4 * 9
    good = only(trace_network(channels_last_weights(Tokens(bias=False)), (1, 5, 6, 4)))
    assert (good.read, good.launches) == (4 * (given + weight), 1)
    turned = only(trace_network(Tokens(bias=False), (1, 5, 6, 4)))
    assert (turned.read, turned.launches) == (4 * (given + 2 * weight), 2)
    turned = only(trace_network(channels_last_weights(Conv(bias=False)), (1, 4, 5, 6)))
    assert (turned.read, turned.launches) == (4 * (2 * given + weight), 2)


def test_padding_fills_and_copies_and_rolling_rolls_each_axis() -> None:
    pad = only(traced(lambda x: F.pad(x, (1, 1, 1, 1)), 1, 1, 4, 4))
    assert (pad.read, pad.written, pad.launches) == (64, 4 * 36 + 64, 2)
    roll = only(traced(lambda x: x.roll((1, 1), (2, 3)), 1, 1, 4, 4))
    assert (roll.read, roll.written, roll.launches) == (128, 128, 2)


def test_launches_of_a_tiny_network() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 2, with its bias
        nn.LeakyReLU(),  # 1
        nn.Flatten(2),  # a view
        nn.LayerNorm(24),  # 1
        nn.Linear(24, 24),  # 1
        nn.Unflatten(2, (4, 6)),  # a view
        nn.PixelShuffle(2),  # 1
        nn.Softmax(-1),  # 1
    )
    assert total(trace_network(network, (1, 3, 4, 6)), "launches") == 7


def packed(x: Tensor, heads: int) -> list[Tensor]:
    """q, k, v as HAT has them: (windows, tokens, 3 C), each a part of every row."""
    return [
        part.unflatten(-1, (heads, part.shape[-1] // heads)).transpose(1, 2)
        for part in x.chunk(3, -1)
    ]


def attended(heads: int, *, kinds: int = 1) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        bias = x.new_empty(kinds, heads, x.shape[1], x.shape[1])
        out = F.scaled_dot_product_attention(*packed(x, heads), attn_mask=bias, scale=0.3)
        return out.transpose(1, 2).flatten(2)

    return forward


def test_attention_in_one_kernel() -> None:
    trace = traced(attended(2), 7, 16, 3 * 32, half=True)
    attention = only(trace)  # the output needs no copy to become tokens
    assert (trace.fused, trace.unfused) == (1, 0)
    assert attention.flops == 2 * 2 * 7 * 2 * 16 * 16 * 16
    assert attention.read == 2 * (3 * 7 * 16 * 32 + 2 * 16 * 16)  # one bias for all windows
    assert attention.written == 2 * 7 * 16 * 32
    assert attention.launches == 1


def test_a_bias_for_each_window_is_read_whole() -> None:
    one = only(traced(attended(2), 7, 16, 96, half=True))
    each = only(traced(attended(2, kinds=7), 7, 16, 96, half=True))
    assert each.read - one.read == 6 * 2 * 2 * 16 * 16


def test_attention_that_no_kernel_takes_writes_its_scores() -> None:
    trace = traced(attended(2), 7, 16, 3 * 20, half=True)  # heads of 10
    assert (trace.fused, trace.unfused) == (0, 1)
    assert total(trace, "flops") == 2 * 2 * 7 * 2 * 16 * 16 * 10
    scores = 7 * 2 * 16 * 16
    names = [operator.name for operator in trace.operators]
    assert names.count("aten.bmm.default") == 2
    first = trace.operators[names.index("aten.bmm.default")]
    assert (first.written, first.dtype) == (4 * scores, torch.float32)  # MATH is in fp32
    assert total(trace, "written") > 4 * 4 * scores


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (lambda q, k, v, b: (q, k, v, b), True),
        (lambda q, k, v, b: (q, k, v, None), True),
        (lambda q, k, v, b: (q, k, v, b.expand(7, -1, -1, -1)), True),
        (lambda q, k, v, b: (q[..., :30], k[..., :30], v[..., :30], b), False),
        (lambda q, k, v, b: (q, k, v, b.float()), False),
        (lambda q, k, v, b: (q, k, v, b.mT), False),
        (lambda q, k, v, b: (q[..., ::2], k, v, b), False),
        (lambda q, k, v, b: (q.new_empty(7, 2, 16, 33)[..., :32], k, v, b), False),
        (lambda q, k, v, b: (q, k, v, b[..., :-1]), False),
    ],
    ids=[
        *("fits", "no-bias", "stride-0", "head-30", "fp32-bias", "turned-bias"),
        *("sparse", "odd-rows", "odd-keys"),
    ],
)
def test_what_fused_kernels_take(change: Callable[..., tuple[Tensor, ...]], fits: bool) -> None:
    q, k, v = torch.empty(3, 7, 2, 16, 32, dtype=torch.float16)
    assert takes_fused(*change(q, k, v, torch.empty(1, 2, 16, 16, dtype=torch.float16))) is fits


@pytest.mark.needs_cuda
@pytest.mark.parametrize("head", [24, 30, 32])
@pytest.mark.parametrize("turned", [False, True])
def test_pytorch_says_the_same(head: int, turned: bool) -> None:
    q, k, v = torch.zeros(3, 7, 2, 16, head, dtype=torch.float16, device="cuda")
    bias = torch.zeros(1, 2, 16, 16, dtype=torch.float16, device="cuda")
    bias = bias.mT if turned else bias
    asked = torch.backends.cuda.SDPAParams(q, k, v, bias.expand(7, -1, -1, -1), 0.0, False, False)
    assert takes_fused(q, k, v, bias) is torch.backends.cuda.can_use_efficient_attention(asked)


def written_out(x: Tensor) -> Tensor:
    q, k, v = packed(x, 2)
    scores = (q @ k.mT).view(1, 7, 2, 16, 16) + x.new_empty(1, 7, 1, 16, 16)
    out: Tensor = torch.softmax(scores.view(7, 2, 16, 16), -1) @ v
    return out


def test_scores_that_stay_on_the_chip() -> None:
    shape, scores, map_ = (7, 16, 96), 7 * 2 * 16 * 16, 7 * 16 * 32
    explicit = traced(written_out, *shape, half=True)
    fused = trace_network(Lambda(written_out), shape, torch.float16, keep_scores=True)
    assert (explicit.fused, fused.fused) == (0, 1)
    assert total(fused, "flops") == total(explicit, "flops") == 4 * scores * 16
    (attention,) = [o for o in fused.operators if o.flops]
    assert attention.read == 2 * (3 * map_ + 7 * 16 * 16)  # q, k, v, and the mask
    assert attention.written == 2 * map_
    assert attention.launches == 1
    # Written: scores, with mask, softmax. Each of the three is read once.
    assert total(explicit, "written") - total(fused, "written") == 3 * 2 * scores
    assert total(explicit, "read") - total(fused, "read") == 3 * 2 * scores
    assert total(explicit, "launches") - total(fused, "launches") == 3


@pytest.mark.parametrize(("shift", "kinds"), [(0, 1), (4, 4)])
def test_windows_in_our_own_kernel(shift: int, kinds: int) -> None:
    import hatvid.model.window_ops  # noqa: F401 - makes the operators known

    def forward(x: Tensor) -> Tensor:
        bias = x.new_empty(kinds, 2, 64, 64)
        out: Tensor = torch.ops.hatvid.window_attention(x, bias, 16, 24, 8, shift, 0.3, 2)
        return out

    tokens = 16 * 24
    trace = traced(forward, 1, tokens, 3 * 20, half=True)
    attention = only(trace)
    assert (trace.fused, attention.launches) == (1, 1)
    assert attention.flops == 2 * 2 * tokens * 64 * 20  # each token has 64 keys of 2 x 10
    assert attention.read == 2 * (tokens * 60 + kinds * 2 * 64 * 64)
    assert attention.written == 2 * tokens * 20


@pytest.mark.parametrize("padded", [False, True])
def test_our_own_kernels_do_the_same_arithmetic(padded: bool) -> None:
    config = HATConfig(embed_dim=20, depths=(2,), num_heads=(2,), squeeze_factor=4, num_feat=8)
    network = HAT(config).eval()
    network = pad_channels(network) if padded else network
    shape = (1, 3, 32, 48)
    fused = with_attention(network, "triton")
    before, after = trace_network(network, shape), trace_network(fused, shape)
    assert total(before, "flops") == total(after, "flops")
    assert total(before, "read") > total(after, "read")
    assert total(before, "launches") > total(after, "launches")
    assert (after.fused, after.unfused) == (3, 0)


@pytest.mark.parametrize("collapse", [False, True])
@pytest.mark.parametrize("scale", [2, 3])
def test_flops_are_those_of_pytorchs_counter(collapse: bool, scale: int) -> None:
    config = HATConfig(
        embed_dim=12, depths=(2,), num_heads=(2,), squeeze_factor=4, num_feat=8, upscale=scale
    )
    network = HAT(config).eval().prepare(48, 32)
    if collapse:
        network = collapse_tail(network)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
        network(torch.zeros(1, 3, 48, 32))
    assert total(trace_network(network, (1, 3, 48, 32)), "flops") == counter.get_total_flops() > 0


def test_the_network_is_not_changed() -> None:
    network = Small()
    before = dict(network.named_parameters())
    trace_network(network, (1, 2, 3, 4))
    assert all(value is before[name] for name, value in network.named_parameters())
    assert network.fc.weight.device.type == "cpu"


def test_a_frame_that_no_memory_holds() -> None:
    config = HATConfig(embed_dim=12, depths=(1,), num_heads=(2,), squeeze_factor=4, num_feat=8)
    trace = trace_network(HAT(config).eval(), (1, 3, 16384, 16384))
    assert total(trace, "written") > 5e12


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.ops.aten._scaled_dot_product_efficient_attention(x, x, x, None, False),
        lambda x: torch.ops.aten.convolution_backward(
            x, x, x, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]
        ),
    ],
)
def test_products_that_are_not_known_are_refused(function: Callable[[Tensor], object]) -> None:
    with pytest.raises(EngineError, match="is not known"):
        traced(function, 2, 2, 8, 8)
