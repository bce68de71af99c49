"""The attention of a padded HAT meets the rules of PyTorch's fused kernels.

PyTorch has four ways to compute ``scaled_dot_product_attention`` on an NVIDIA GPU. Flash
attention takes no bias. The memory-efficient kernel and cuDNN's take one; MATH takes all,
and writes the scores of every pair of tokens to memory. Which is taken PyTorch decides on
the GPU (``sdp_utils.cpp``): without one its own predicates say no to everything. So the
rules stand here, and are asked of every call that a network makes on fake CUDA tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from hatvid.engine.base import TileSpec
from hatvid.engine.capture_safety import check_capturable, fake_cuda
from hatvid.engine.eager import EagerEngine
from hatvid.engine.fidelity import compare
from hatvid.engine.prepare import prepared
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.padded import pad_channels
from hatvid.model.precision import RescalePlan, lower_precision
from hatvid.model.ranges import Ranges
from hatvid.model.tail import collapse_tail


@dataclass(frozen=True)
class Attention:
    """The arguments of one scaled_dot_product_attention."""

    q: Tensor
    k: Tensor
    v: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


class Caught(TorchFunctionMode):
    """Keeps every attention, and gives what a fused kernel would: tokens before heads."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Attention] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        call = Attention(*args, **(kwargs or {}))
        self.calls.append(call)
        windows, heads, queries, _ = call.q.shape
        return call.v.new_empty(windows, queries, heads, call.v.shape[-1]).transpose(1, 2)


def bytes_apart(tensor: Tensor) -> list[int]:
    """Between the beginning of the memory, rows, heads and windows."""
    steps = [tensor.storage_offset(), *tensor.stride()[:-1]]
    return [step * tensor.element_size() for step in steps]


def broken_rules(call: Attention) -> set[str]:
    """Why a fused kernel would refuse an attention in 16 bits, copy for it, or read it slowly."""
    q, k, v, bias = call.q, call.k, call.v, call.attn_mask
    windows, heads, queries, head = q.shape
    keys = k.shape[2]
    assert bias is not None
    rules = {
        # check_head_dim_size_mem_efficient, check_cudnn_tensor_shapes
        "head size": head % 8 == 0 and k.shape[3] == v.shape[3] == head and head <= 128,
        # check_tensor_dtype; the kernel itself, of the bias
        "dtype": {q.dtype} == {t.dtype for t in (q, k, v, bias)}
        and q.dtype in (torch.float16, torch.bfloat16),
        # check_last_dim_stride_equals_1_dense
        "dense": all(t.stride(-1) == 1 for t in (q, k, v)),
        # CHECK_ALIGNED_PTR and "is not correctly aligned": or loads of 4 or 8 bytes
        "alignment": not any(step % 16 for t in (q, k, v) for step in bytes_apart(t)),
        # preprocess_mask: or the bias is copied, padded, for each call
        "bias dense": bias.stride(-1) == 1,
        "bias alignment": not any(step % 16 for step in bytes_apart(bias)),
        "keys": keys % 8 == 0,
        # check_attn_mask_shape
        "bias shape": bias.dim() == 4
        and bias.shape[0] in (1, windows)
        and tuple(bias.shape[1:]) == (heads, queries, keys),
        "one bias for all windows": bias.shape[0] == 1 or bias.stride(0) == 0,
        "bias needs no gradient": not bias.requires_grad,
        "plain": not call.dropout_p and not call.is_causal and not call.enable_gqa,
    }
    return {name for name, holds in rules.items() if not holds}


def in_fp16(model: HAT, dtype: torch.dtype = torch.float16) -> HAT:
    """As weights that stay small are brought to fp16: nothing is divided."""
    depths = model.config.depths
    plan = RescalePlan(
        s=(1.0,) * len(depths),
        t=tuple((1.0,) * depth for depth in depths),
        subnormal=0.0,
        residual_fp32=False,
        ranges=Ranges(shallow=0.0, groups=(), body=0.0, tail=0.0),
    )
    return lower_precision(model, dtype, plan)


def shallow(config: HATConfig) -> HATConfig:
    """A block of each kind, with the channels of a whole network."""
    return replace(config, depths=(2,), num_heads=config.num_heads[:1])


def attentions(model: HAT, batch: int, height: int, width: int) -> list[Attention]:
    """All that a network does on a GPU that need not be there."""
    mode = FakeTensorMode()
    twin = fake_cuda(model, mode)
    assert isinstance(twin, HAT)
    with mode, torch.no_grad(), Caught() as caught:
        twin.prepare(height, width)
        twin(torch.empty(batch, 3, height, width, device="cuda"))
    return caught.calls


CONFIGS = {
    "hat": HATConfig.hat(),
    "hat-s": HATConfig.hat_s(3),
    "nano": HATConfig.hat_nano(),
}
SIZES = {  # the input; windows; those of each kind in a shifted block
    (64, 64): (16, [9, 3, 3, 1]),
    (33, 50): (12, [6, 2, 3, 1]),
    (16, 48): (3, [2, 1]),  # one row of windows: each is at the bottom
    (16, 16): (1, [1]),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_padded_hat_breaks_no_rule(config: HATConfig, batch: int, size: tuple[int, int]) -> None:
    model = in_fp16(pad_channels(collapse_tail(HAT(shallow(config)).eval())))
    calls = attentions(model, batch, *size)
    assert [broken_rules(call) for call in calls] == [set()] * len(calls)
    windows, kinds = SIZES[size]
    counts = [windows, *kinds, windows]
    assert [call.q.shape[0] for call in calls] == [batch * count for count in counts]
    heads = config.num_heads[0]
    for call in calls[:-1]:
        assert call.attn_mask is not None
        assert tuple(call.attn_mask.shape) == (1, heads, 256, 256)
    overlapping = calls[-1].attn_mask
    assert overlapping is not None
    assert tuple(overlapping.shape) == (1, heads, 256, 576)
    for call in calls:
        assert call.scale == (config.embed_dim // heads) ** -0.5


def test_windows_of_one_kind_have_one_bias_and_border_windows_their_own() -> None:
    model = in_fp16(pad_channels(HAT(shallow(HATConfig.hat())).eval()))
    _, *kinds, _ = attentions(model, 1, 64, 64)
    biases = [call.attn_mask for call in kinds if call.attn_mask is not None]
    assert [bias.storage_offset() for bias in biases] == [n * 6 * 256**2 for n in range(4)]
    assert len({bias.untyped_storage()._cdata for bias in biases}) == 1


def test_one_frame_is_attended_to_where_the_projection_wrote_it() -> None:
    """Nothing is copied between: windows of all kinds are parts of one tensor."""
    model = in_fp16(pad_channels(HAT(shallow(HATConfig.hat())).eval()))
    first, *kinds, last = attentions(model, 1, 64, 64)
    for calls in ([first], kinds):
        read = [t for call in calls for t in (call.q, call.k, call.v)]
        assert len({t.untyped_storage()._cdata for t in read}) == 1
        assert {bytes_apart(call.q)[3] for call in calls} == {3 * 192 * 2}
    assert last.k.untyped_storage()._cdata == last.v.untyped_storage()._cdata


def test_the_published_channels_break_them() -> None:
    """Heads of 30; rows of 540 and 360 channels; q, k and v 360 bytes apart."""
    model = in_fp16(collapse_tail(HAT(shallow(HATConfig.hat())).eval()))
    calls = attentions(model, 1, 64, 64)
    assert [broken_rules(call) for call in calls] == [{"head size", "alignment"}] * len(calls)
    assert bytes_apart(calls[0].k) == [360, 256 * 1080, 60, 1080]


def test_fp32_breaks_one() -> None:
    """Heads of 32 are fine in fp32 too; cuDNN's kernel alone wants 16 bits."""
    calls = attentions(pad_channels(HAT(shallow(HATConfig.hat())).eval()), 1, 32, 32)
    assert {rule for call in calls for rule in broken_rules(call)} == {"dtype"}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda a: replace(a, q=a.q[..., :12], k=a.k[..., :12], v=a.v[..., :12]), "head size"),
        (lambda a: replace(a, attn_mask=a.attn_mask.float()), "dtype"),
        (lambda a: replace(a, q=a.q.mT.contiguous().mT), "dense"),
        (lambda a: replace(a, k=a.k.new_empty(5, 2, 16, 20)[..., :16]), "alignment"),
        (lambda a: replace(a, v=a.v.new_empty(5 * 512 + 4)[4:].view(5, 2, 16, 16)), "alignment"),
        (lambda a: replace(a, attn_mask=a.attn_mask.mT), "bias dense"),
        (lambda a: replace(a, attn_mask=a.v.new_empty(1, 2, 16, 20)[..., :16]), "bias alignment"),
        (lambda a: replace(a, k=a.k[:, :, :-1], v=a.v[:, :, :-1]), "keys"),
        (lambda a: replace(a, attn_mask=a.attn_mask[:, :1]), "bias shape"),
        (
            lambda a: replace(a, attn_mask=a.attn_mask.repeat(5, 1, 1, 1)),
            "one bias for all windows",
        ),
        (lambda a: replace(a, attn_mask=a.attn_mask.requires_grad_()), "bias needs no gradient"),
        (lambda a: replace(a, is_causal=True), "plain"),
    ],
)
def test_each_rule_is_seen_broken(change: Callable[[Attention], Attention], rule: str) -> None:
    q, k, v = torch.empty(3, 5, 2, 16, 16, dtype=torch.float16)
    fits = Attention(q, k, v, torch.empty(1, 2, 16, 16, dtype=torch.float16))
    spread = replace(fits, attn_mask=torch.empty(2, 16, 16).half().expand(5, 2, 16, 16))
    assert not broken_rules(fits)
    assert not broken_rules(spread)
    assert rule in broken_rules(change(fits))


def test_a_padded_hat_can_be_captured() -> None:
    model = in_fp16(pad_channels(collapse_tail(HAT(shallow(HATConfig.hat())).eval())))
    spec = TileSpec(batch=2, height=33, width=50, scale=4)
    ready = prepared(model, spec, "fp16")
    check_capturable(lambda m, x: m(x), (torch.empty(spec.input_shape),), ready)


# On a GPU, where PyTorch itself decides.

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]


def redrawn(config: HATConfig) -> HAT:
    """With weights that make a wrong attention be seen in the output."""
    random = torch.Generator().manual_seed(1)
    model = HAT(config).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            value.normal_(std=1.0, generator=random)
        elif value.dim() > 1:
            value.normal_(std=value[0].numel() ** -0.5, generator=random)
    return model


@pytest.mark.needs_cuda
@pytest.mark.parametrize("backends", [FUSED[1:2], FUSED], ids=["efficient", "any"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_no_attention_is_left_to_math(
    config: HATConfig, dtype: torch.dtype, backends: list[SDPBackend]
) -> None:
    """PyTorch raises where none of the backends that it may use takes a call."""
    model = collapse_tail(redrawn(shallow(config)))
    picture = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(1))
    spec = TileSpec(
        batch=2,
        height=40,
        width=50,
        scale=config.upscale,
        device=torch.device("cuda:0"),
    )
    precision = "fp16" if dtype == torch.float16 else "bf16"
    engine = EagerEngine(in_fp16(pad_channels(model), dtype), spec, precision=precision)
    with sdpa_kernel(backends):
        output = engine.run(picture.cuda()).cpu()
    with torch.inference_mode():
        assert compare(model(picture), output).snr > (45 if dtype == torch.float16 else 27)


@pytest.mark.needs_cuda
def test_the_published_channels_are_left_to_math() -> None:
    model = in_fp16(collapse_tail(redrawn(shallow(HATConfig.hat())))).cuda()
    picture = torch.rand(1, 3, 32, 32, device="cuda")
    with torch.inference_mode(), sdpa_kernel(FUSED), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in which PyTorch says what each kernel minds
        with pytest.raises(RuntimeError, match="No available kernel"):
            model(picture)


@pytest.mark.needs_cuda
def test_pytorch_itself_takes_every_call() -> None:
    """The rules above against PyTorch's own, on the tensors of a real run."""
    model = in_fp16(pad_channels(collapse_tail(redrawn(shallow(HATConfig.hat()))))).cuda()
    with torch.inference_mode(), Caught() as caught:
        model(torch.rand(2, 3, 33, 50, device="cuda"))
    assert len(caught.calls) == 6
    for call in caught.calls:
        assert not broken_rules(call)
        asked = torch.backends.cuda.SDPAParams(
            call.q, call.k, call.v, call.attn_mask, call.dropout_p, call.is_causal, call.enable_gqa
        )
        assert torch.backends.cuda.can_use_efficient_attention(asked, True)
