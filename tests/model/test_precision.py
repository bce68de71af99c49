"""Rescaling is exact in fp32; 16 bits stay finite and near."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from redrawn import redrawn
from torch import Tensor, nn

from hatvid.engine.base import TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.engine.fidelity import compare
from hatvid.errors import CheckpointError
from hatvid.model.blocks import HAB, OCAB
from hatvid.model.calibration import calibration_picture
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.precision import RescalePlan, lower_precision, plan_rescale, rescale
from hatvid.model.ranges import BlockRange, GroupRange, Ranges, measure_ranges
from hatvid.model.tail import collapse_tail
from hatvid.model.zoo import load_model

FP16_MAX = 65_504.0
SMALLEST_NORMAL = float(torch.finfo(torch.float16).smallest_normal)


def hand_plan(model: HAT, s: tuple[float, ...], t: tuple[tuple[float, ...], ...]) -> RescalePlan:
    """A plan that nothing was measured for."""
    block = BlockRange(
        name="", residual=0, qkv=0, logits=0, attention=0, mlp_hidden=0, mlp=0, cab=0
    )
    groups = tuple(
        GroupRange(name="", blocks=(block,) * depth, overlap=block, conv=0, residual=0)
        for depth in model.config.depths
    )
    ranges = Ranges(shallow=0, groups=groups, body=0, tail=0)
    return RescalePlan(s=s, t=t, subnormal=0, residual_fp32=False, ranges=ranges)


def ones(model: HAT) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    depths = model.config.depths
    return (1.0,) * len(depths), tuple((1.0,) * depth for depth in depths)


CONFIGS = {
    "published": HATConfig(
        embed_dim=12,
        depths=(2, 2),
        num_heads=(2, 3),
        squeeze_factor=4,
        num_feat=8,
        upscale=2,
        window_size=8,
    ),
    "no patch_norm": HATConfig(
        embed_dim=12,
        depths=(2, 1),
        num_heads=(2, 3),
        squeeze_factor=4,
        num_feat=8,
        upscale=3,
        window_size=8,
        patch_norm=False,
        qkv_bias=False,
        img_range=255.0,
    ),
    "identity": HATConfig(
        embed_dim=12,
        depths=(1, 2, 1),
        num_heads=(2, 3, 1),
        squeeze_factor=4,
        num_feat=8,
        upscale=4,
        window_size=4,
        resi_connection="identity",
        conv_scale=0.3,
    ),
}


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """Not a multiple of any window."""
    return calibration_picture()[:, :, 40:75, 30:57].contiguous()


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def model(request: pytest.FixtureRequest) -> HAT:
    return redrawn(request.param)


@pytest.fixture(scope="module")
def nano() -> Callable[[int], HAT]:
    return lambda scale: load_model(f"hat-nano-x{scale}")


@torch.inference_mode()
def run(model: nn.Module, picture: Tensor) -> Tensor:
    output: Tensor = model(picture)
    return output


# fp32: not one bit


@pytest.mark.parametrize("exponent", [1, 4, 9, 18])
def test_one_s_for_all_changes_no_bit(model: HAT, picture: Tensor, exponent: int) -> None:
    s = (2.0**exponent,) * len(model.layers)
    rescaled = rescale(model, hand_plan(model, s, ones(model)[1]))
    assert torch.equal(run(rescaled, picture), run(model, picture))


def test_s_for_each_group_and_t_for_each_block_change_no_bit(model: HAT, picture: Tensor) -> None:
    s = tuple(2.0 ** (3 + 5 * at) for at in range(len(model.layers)))
    t = tuple(
        tuple(2.0 ** (1 + 2 * g + 3 * b) for b in range(depth))
        for g, depth in enumerate(model.config.depths)
    )
    assert torch.equal(run(rescale(model, hand_plan(model, s, t)), picture), run(model, picture))


@settings(max_examples=12, deadline=None)
@given(
    data=st.data(),
    patch_norm=st.booleans(),
    connection=st.sampled_from(["1conv", "identity"]),
    depths=st.lists(st.integers(1, 2), min_size=1, max_size=2),
    seed=st.integers(0, 1000),
)
def test_any_powers_of_two_change_no_bit(
    data: st.DataObject, patch_norm: bool, connection: str, depths: list[int], seed: int
) -> None:
    config = HATConfig(
        embed_dim=8,
        depths=tuple(depths),
        num_heads=(2,) * len(depths),
        window_size=4,
        squeeze_factor=2,
        num_feat=4,
        upscale=2,
        patch_norm=patch_norm,
        resi_connection=connection,  # type: ignore[arg-type]
    )
    model = redrawn(config, seed)
    power = st.integers(0, 18).map(lambda exponent: 2.0**exponent)
    s = tuple(sorted(data.draw(power) for _ in depths))
    t = tuple(tuple(data.draw(power) for _ in range(depth)) for depth in depths)
    frame = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(run(rescale(model, hand_plan(model, s, t)), frame), run(model, frame))


def test_the_stream_and_cab_are_divided(model: HAT, picture: Tensor) -> None:
    """Without this, leaving everything as it is would change no bit either."""
    s = tuple(2.0 ** (3 + 5 * at) for at in range(len(model.layers)))
    t = tuple(tuple(2.0 ** (1 + b) for b in range(depth)) for depth in model.config.depths)
    before = measure_ranges(model, picture)
    after = measure_ranges(rescale(model, hand_plan(model, s, t)), picture)
    for old, new, by, divisors in zip(before.groups, after.groups, s, t, strict=True):
        # Of the first block only what is added: what enters a group comes from the one before.
        assert [new.conv, new.overlap.residual] == [old.conv / by, old.overlap.residual / by]
        for a, b in zip((*old.blocks, old.overlap), (*new.blocks, new.overlap), strict=True):
            assert (b.residual, b.attention, b.mlp) == tuple(
                value / by for value in (a.residual, a.attention, a.mlp)
            )
            assert (b.qkv, b.logits, b.mlp_hidden) == (a.qkv, a.logits, a.mlp_hidden)
        for a, b, t_of in zip(old.blocks, new.blocks, divisors, strict=True):
            assert a.cab is not None
            assert (b.cab, b.cab_hidden) == (a.cab / t_of, a.cab_hidden)


def test_the_given_model_stays_and_shares_what_is_not_rewritten(
    model: HAT, picture: Tensor
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scales = [block.conv_scale for block in model.modules() if isinstance(block, HAB)]
    epses = [norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)]
    s, t = ones(model)
    plan = hand_plan(model, tuple(4 * v for v in s), tuple(tuple(8 * v for v in g) for g in t))
    low = lower_precision(model, torch.float16, plan)
    run(low, picture)
    others = [low, lower_precision(model, torch.float16, replace(plan, residual_fp32=True))]
    others += [rescale(model, plan), lower_precision(model, torch.bfloat16, plan)]
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert scales == [block.conv_scale for block in model.modules() if isinstance(block, HAB)]
    assert epses == [norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)]
    for other in others:
        assert other.conv_first.weight is model.conv_first.weight
        assert other.conv_last.weight is model.conv_last.weight
        assert other.norm.weight is model.norm.weight


# the plan


@pytest.fixture(scope="module")
def growing() -> HAT:
    """A network whose residual stream leaves fp16's range by its own weights.

    What each layer adds is three times what the layer before added, as in trained
    networks the later blocks add the most; CAB's second convolution grows likewise.
    """
    model = redrawn(CONFIGS["published"])
    return grown(model, 3.0, cab=6e4)


def grown(model: HAT, factor: float, *, cab: float) -> HAT:
    with torch.no_grad():
        size = 1.0
        for block in (block for block in model.modules() if isinstance(block, HAB | OCAB)):
            attention = block.attn if isinstance(block, HAB) else block
            for layer in (attention.proj, block.mlp.fc2):
                layer.weight *= size
                layer.bias *= size
                size *= factor
            if isinstance(block, HAB):
                second, gate = block.conv_block.cab[2], block.conv_block.cab[3]
                second.weight *= cab
                second.bias *= cab
                gate.attention[1].weight /= cab  # or every gate would be 0 or 1
    return model


def test_s_and_t_are_the_smallest_that_are_safe(growing: HAT, picture: Tensor) -> None:
    plan = plan_rescale(growing, picture)
    assert not plan.residual_fp32
    peak = max(group.residual for group in plan.ranges.groups)
    assert peak > 1e5
    assert len(set(plan.s)) == 1
    assert peak / plan.s[0] < 2**13 <= peak / (plan.s[0] / 2)
    cabs = [block.cab for group in plan.ranges.groups for block in group.blocks]
    for t, cab in zip((t for group in plan.t for t in group), cabs, strict=True):
        assert cab is not None
        assert cab > FP16_MAX
        assert cab / t < 2**13 <= cab / (t / 2)


def test_what_is_small_is_not_divided(picture: Tensor) -> None:
    model = redrawn(CONFIGS["published"])
    plan = plan_rescale(model, picture)
    assert (plan.s, plan.t) == ones(model)
    assert plan.subnormal == 0
    assert plan.margin == FP16_MAX / max(plan.uncovered.values())


@pytest.mark.parametrize(("peak", "divisor"), [(8191.9, 1), (8192, 2), (16384, 4), (1e-3, 1)])
def test_the_limit_itself_is_not_safe(peak: float, divisor: float, picture: Tensor) -> None:
    """By a network whose stream is one constant: all is zero but a bias."""
    model = redrawn(CONFIGS["published"])
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.zero_()
            if name == "patch_embed.norm.bias":
                value.fill_(peak)
    plan = plan_rescale(model, picture)
    assert plan.s == (divisor, divisor)


def trained_size(model: HAT) -> HAT:
    """Give what adds to the stream weights as small as those of trained networks."""
    with torch.no_grad():
        for block in (block for block in model.modules() if isinstance(block, HAB | OCAB)):
            attention = block.attn if isinstance(block, HAB) else block
            for layer in (attention.proj, block.mlp.fc2):
                layer.weight *= 0.02 / float(layer.weight.std())
    return model


def scaled_weights(model: HAT) -> Tensor:
    return torch.cat(
        [
            value.abs().flatten()
            for name, value in model.named_parameters()
            if name.endswith(("proj.weight", "mlp.fc2.weight"))
        ]
    )


def share_lost(model: HAT, plan: RescalePlan) -> float:
    """The share of weights that rescaling takes out of fp16's normal numbers."""
    before, after = scaled_weights(model), scaled_weights(rescale(model, plan))
    return float(((before >= SMALLEST_NORMAL) & (after < SMALLEST_NORMAL)).double().mean())


def test_where_s_costs_weights_each_group_gets_its_own(picture: Tensor) -> None:
    config = replace(CONFIGS["published"], depths=(6, 6, 6, 1), num_heads=(2, 2, 2, 2))
    model = trained_size(redrawn(config))
    with torch.no_grad():
        model.layers[3].conv.weight *= 2e4
    plan = plan_rescale(model, picture)
    assert not plan.residual_fp32
    assert plan.s[:3] == (1, 1, 1)
    assert plan.s[3] > 1
    for group, s in zip(plan.ranges.groups, plan.s, strict=True):
        assert group.residual / s < 2**13
    assert plan.ranges.groups[3].residual / (plan.s[3] / 2) >= 2**13
    assert plan.subnormal == share_lost(model, plan)
    assert 0 < plan.subnormal <= 0.01
    assert share_lost(model, replace(plan, s=(plan.s[3],) * 4)) > 0.01
    reference = run(model, picture)
    assert torch.equal(run(rescale(model, plan), picture), reference)
    assert compare(reference, run(lower_precision(model, torch.float16, plan), picture)).snr > 45


def test_s_never_falls_from_group_to_group(picture: Tensor) -> None:
    """What is multiplied between groups must not grow: it was small enough before."""
    model = redrawn(replace(CONFIGS["published"], depths=(1, 1, 1), num_heads=(2, 2, 2)))
    with torch.no_grad():
        # Large inside the group alone: what leaves it is small again.
        model.layers[1].residual_group.blocks[0].mlp.fc2.weight *= 1e6
        model.layers[1].conv.weight *= 1e-6
        for group in model.layers:
            group.residual_group.overlap_attn.proj.weight *= 1e-3
    plan = plan_rescale(model, picture)
    assert plan.ranges.groups[2].residual < 100
    assert plan.s[1] == plan.s[2] > 1


@pytest.fixture(scope="module")
def massive() -> HAT:
    """Small weights, and beside them channels in which large ones add up to over 65504."""
    model = trained_size(redrawn(CONFIGS["published"]))
    with torch.no_grad():
        for group in model.layers:
            group.residual_group.blocks[0].mlp.fc2.weight[:6] *= 1e6
            group.residual_group.overlap_attn.proj.weight[:6] *= 2e6
    return model


def test_where_that_is_not_enough_the_stream_stays_in_fp32(massive: HAT, picture: Tensor) -> None:
    plan = plan_rescale(massive, picture)
    assert plan.residual_fp32
    assert plan.subnormal == share_lost(massive, plan) > 0.01
    assert max(block.mlp for block in plan.ranges.blocks) > FP16_MAX
    assert max(block.attention for block in plan.ranges.blocks) > FP16_MAX
    reference = run(massive, picture)
    without = lower_precision(massive, torch.float16, plain(massive, plan))
    assert not run(without, picture).isfinite().all()
    fidelity = compare(reference, run(lower_precision(massive, torch.float16, plan), picture))
    assert fidelity.snr > 45


def test_weights_that_overflow_fp32_are_told(picture: Tensor) -> None:
    model = redrawn(CONFIGS["published"])
    with torch.no_grad():
        model.layers[0].residual_group.blocks[0].mlp.fc2.weight[0, 0] = math.nan
    with pytest.raises(CheckpointError, match="fp32"):
        plan_rescale(model, picture)


# 16 bits


def plain(model: HAT, plan: RescalePlan) -> RescalePlan:
    s, t = ones(model)
    return replace(plan, s=s, t=t, residual_fp32=False)


def test_an_overflow_inside_stays_finite_and_near(growing: HAT, picture: Tensor) -> None:
    """Nothing is injected: the network's own weights take it out of fp16's range."""
    plan = plan_rescale(growing, picture)
    reference = run(growing, picture)
    assert not run(copy.deepcopy(growing).half(), picture.half()).isfinite().all()
    without = lower_precision(growing, torch.float16, plain(growing, plan))
    assert not run(without, picture).isfinite().all()
    output = run(lower_precision(growing, torch.float16, plan), picture)
    assert output.isfinite().all()
    assert compare(reference, output).snr > 45


@pytest.mark.parametrize("cause", ["s", "t"])
def test_neither_s_nor_t_alone_is_enough(growing: HAT, picture: Tensor, cause: str) -> None:
    plan = plan_rescale(growing, picture)
    half = replace(plan, **{cause: getattr(plain(growing, plan), cause)})
    assert not run(lower_precision(growing, torch.float16, half), picture).isfinite().all()


def test_a_stream_kept_in_fp32_is_as_near(growing: HAT, picture: Tensor) -> None:
    plan = replace(plan_rescale(growing, picture), residual_fp32=True)
    output = run(lower_precision(growing, torch.float16, plan), picture)
    assert compare(run(growing, picture), output).snr > 45


def test_a_t_beyond_the_range_of_fp16(picture: Tensor) -> None:
    """The gate's weight, multiplied by t, is above 65504: gates are computed in fp32."""
    model = grown(redrawn(CONFIGS["published"]), 1.0, cab=1e10)
    with torch.no_grad():
        for block in (block for block in model.modules() if isinstance(block, HAB)):
            block.conv_scale = 1e-9
            block.conv_block.cab[3].attention[1].weight *= 1e10  # every gate is 0 or 1
    plan = plan_rescale(model, picture)
    assert min(t for group in plan.t for t in group) > FP16_MAX
    output = run(lower_precision(model, torch.float16, plan), picture)
    assert compare(run(model, picture), output).snr > 45


@pytest.mark.needs_cuda
@pytest.mark.parametrize("wide", [False, True])
def test_an_overflow_inside_on_a_gpu(growing: HAT, picture: Tensor, wide: bool) -> None:
    plan = replace(plan_rescale(growing, picture), residual_fp32=wide)
    low = lower_precision(growing, torch.float16, plan)
    spec = TileSpec(
        batch=1,
        height=picture.shape[2],
        width=picture.shape[3],
        scale=growing.config.upscale,
        device=torch.device("cuda"),
    )
    output = EagerEngine(low, spec, precision="fp16").run(picture.cuda()).cpu()
    assert compare(run(growing, picture), output).snr > 45


# What trained networks came to where this was written (docs/precision.md), less 4 dB.
@pytest.mark.parametrize(
    ("scale", "dtype", "snr"),
    [
        pytest.param(4, torch.float16, 70, marks=pytest.mark.long),
        pytest.param(4, torch.bfloat16, 55, marks=pytest.mark.long),
        (2, torch.float16, 70),
        (2, torch.bfloat16, 55),
    ],
)
def test_trained_networks(
    nano: Callable[[int], HAT], scale: int, dtype: torch.dtype, snr: float
) -> None:
    model, picture = nano(scale), calibration_picture()[:, :, :, 32:96]
    plan = plan_rescale(model, picture)
    output = run(lower_precision(model, dtype, plan), picture)
    fidelity = compare(run(model, picture), output)
    assert fidelity.snr > snr
    assert fidelity.max_error < 1 / 128


def test_a_deep_network_is_near_in_bf16(picture: Tensor) -> None:
    """A stream in bf16, rounded to eight bits after each of 300 sums, leaves 38 dB."""
    model = redrawn(replace(CONFIGS["published"], depths=(12,) * 8, num_heads=(2,) * 8))
    output = run(lower_precision(model, torch.bfloat16, plan_rescale(model, picture)), picture)
    assert compare(run(model, picture), output).snr > 42


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fp32_in_fp32_out_and_sixteen_bits_between(
    model: HAT, picture: Tensor, dtype: torch.dtype, wide: bool
) -> None:
    plan = replace(plan_rescale(model, picture), residual_fp32=wide)
    low = lower_precision(model, dtype, plan)
    with outputs_of(low) as seen:
        assert run(low, picture).dtype == torch.float32
    for name in ("conv_first", "conv_last"):
        assert seen[name] == torch.float32
    stream = torch.float32 if wide or dtype == torch.bfloat16 else dtype
    for at, group in enumerate(low.layers):
        for block in range(len(group.residual_group.blocks)):
            name = f"layers.{at}.residual_group.blocks.{block}"
            assert seen[name] == stream
            for inside in ("norm1", "attn.qkv", "attn", "conv_block.cab.2", "mlp.fc1", "mlp.fc2"):
                assert seen[f"{name}.{inside}"] == dtype, inside
            assert seen[f"{name}.conv_block.cab.3.attention.3"] == torch.float32
        assert seen[f"layers.{at}"] == stream
    for name in ("norm", "conv_after_body", "conv_before_upsample"):
        assert seen[name] == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_collapsed_tail_stays_in_fp32(
    nano: Callable[[int], HAT], picture: Tensor, dtype: torch.dtype
) -> None:
    model = collapse_tail(nano(2))
    low = lower_precision(model, dtype, plan_rescale(model, picture))
    assert all(p.dtype == torch.float32 for p in low.upsample.parameters())
    with outputs_of(low) as seen:
        output = run(low, picture)
    assert seen["conv_before_upsample.1"] == dtype
    assert seen["upsample"] == torch.float32
    assert compare(run(model, picture), output).snr > 50


@pytest.mark.parametrize("wide", [False, True])
def test_rescaling_changes_no_bit_with_a_collapsed_tail(picture: Tensor, wide: bool) -> None:
    model = collapse_tail(redrawn(CONFIGS["published"]))
    plan = hand_plan(model, (2.0**5, 2.0**11), ((2.0, 8.0), (4.0, 1.0)))
    rescaled = rescale(model, replace(plan, residual_fp32=wide))
    assert torch.equal(run(rescaled, picture), run(model, picture))


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[dict[str, torch.dtype]]:
    seen: dict[str, torch.dtype] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.__setitem__(name, output.dtype)
        )
        for name, module in model.named_modules()
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def test_statistics_are_fp32_where_eps_is_nothing_in_fp16(picture: Tensor) -> None:
    """A flat stream: eps alone keeps the LayerNorms from making noise of it."""
    s = 2.0**12
    assert torch.tensor(1e-5 / s**2).half() == 0
    model = redrawn(CONFIGS["published"])
    plan = hand_plan(model, (s, s), ones(model)[1])
    norm = lower_precision(model, torch.float16, plan).layers[0].residual_group.blocks[0].norm1
    # In steps of fp16's own, around 1: a variance of about 1e-7, and eps / s^2 as large.
    tokens = (1 + torch.randint(0, 2, (1, 64, 12)) * 2.0**-10) * 1e-3
    stream = (tokens / s * 2**10).half()
    expected = nn.functional.layer_norm(
        stream.double(), (12,), norm.weight.double(), norm.bias.double(), 1e-5 / s**2
    )
    assert expected.std() > 0.1
    assert torch.allclose(norm(stream).double(), expected, rtol=2e-3, atol=2e-3)


def test_bf16_needs_no_plan(model: HAT, picture: Tensor) -> None:
    s, t = ones(model)
    divided = hand_plan(model, tuple(2.0**9 * v for v in s), t)
    one, other = (
        run(lower_precision(model, torch.bfloat16, plan), picture)
        for plan in (hand_plan(model, s, t), replace(divided, residual_fp32=True))
    )
    assert torch.equal(one, other)


def test_another_dtype_is_refused(model: HAT) -> None:
    for dtype in (torch.float32, torch.float64, torch.int8):
        with pytest.raises(ValueError, match="16-bit"):
            lower_precision(model, dtype, hand_plan(model, *ones(model)))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_eager_engine_runs_it(growing: HAT, picture: Tensor, precision: str) -> None:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    low = lower_precision(growing, dtype, plan_rescale(growing, picture))
    spec = TileSpec(batch=1, height=picture.shape[2], width=picture.shape[3], scale=2)
    output = EagerEngine(low, spec, precision=precision).run(picture)
    assert torch.equal(output, run(low, picture))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
@pytest.mark.parametrize("wide", [False, True])
def test_engines_can_copy_trace_and_export_it(growing: HAT, picture: Tensor, wide: bool) -> None:
    plan = replace(plan_rescale(growing, picture), residual_fp32=wide)
    s = (plan.s[0], 2 * plan.s[1])
    low = lower_precision(growing, torch.float16, replace(plan, s=s))
    ready = copy.deepcopy(low, {id(p): p for p in low.parameters()})
    assert all(a is b for a, b in zip(ready.parameters(), low.parameters(), strict=True))
    ready.prepare(*picture.shape[2:])
    with torch.no_grad():
        expected = ready(picture)
        traced = torch.jit.trace(ready, picture, check_trace=False)
        exported = torch.export.export(ready, (picture,)).module()
        assert torch.equal(traced(picture), expected)
        assert torch.equal(exported(picture), expected)
