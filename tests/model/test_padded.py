"""A padded HAT is the same function; what is added stays zero, and nothing more is added."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from redrawn import redrawn
from torch import Tensor, nn

from hatvid.engine.base import TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.engine.fidelity import compare
from hatvid.model.attention import BiasedAttention
from hatvid.model.blocks import CAB, HAB, OCAB, RHAG, Mlp
from hatvid.model.calibration import calibration_picture
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.padded import pad_channels, padded_stream
from hatvid.model.precision import lower_precision, plan_rescale, rescale
from hatvid.model.tail import collapse_tail


def shallow(config: HATConfig, depth: int = 2) -> HATConfig:
    """One RHAG, with the channels of a whole network."""
    return replace(config, depths=(depth,), num_heads=config.num_heads[:1])


SMALL = HATConfig(
    embed_dim=60,
    depths=(2, 1),
    num_heads=(5, 2),
    compress_ratio=3,
    squeeze_factor=10,
    num_feat=8,
    upscale=2,
    window_size=8,
)
"""All is padded: heads 12 -> 16 and 30 -> 32, CAB 20 -> 24, 6 -> 8, stream 60 -> 64."""

CONFIGS = {
    "hat x4": shallow(HATConfig.hat(4)),
    "hat x3": shallow(HATConfig.hat(3)),
    "hat-s x2": shallow(HATConfig.hat_s(2)),
    "nano x4": shallow(HATConfig.hat_nano(4)),
    "window 8": SMALL,
    "window 8, no qkv bias": replace(SMALL, qkv_bias=False, upscale=3),
    "heads alone": replace(SMALL, embed_dim=48, num_heads=(4, 2)),
    "stream too narrow": replace(SMALL, embed_dim=12, num_heads=(2, 3), squeeze_factor=4),
    "odd MLP, given scale": replace(SMALL, mlp_ratio=1.7, qk_scale=0.3, upscale=4),
    "identity, no norm": replace(SMALL, resi_connection="identity", patch_norm=False),
    "another range": replace(SMALL, img_range=255.0, overlap_ratio=0.25),
}


def frames(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7)).to(dtype)


@torch.inference_mode()
def run(model: nn.Module, picture: Tensor) -> Tensor:
    output: Tensor = model(picture)
    return output


def shapes(model: HAT) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


@pytest.fixture(scope="module")
def small() -> HAT:
    return redrawn(SMALL)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """Not a multiple of any window."""
    return calibration_picture()[:, :, 40:75, 30:57].contiguous()


@pytest.mark.parametrize("size", [(17, 33), (16, 16), (5, 40)], ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_same_function(config: HATConfig, size: tuple[int, int]) -> None:
    model = collapse_tail(redrawn(config).double())
    padded = pad_channels(model)
    assert shapes(padded) != shapes(model)
    given = frames(2, 3, *size, dtype=torch.float64)
    expected = run(model, given)
    assert float((run(padded, given) - expected).abs().max()) < 1e-12 * float(expected.std())


def test_hat_as_published() -> None:
    """Every shape that differs, in full: rows, then columns."""
    model = HAT(shallow(HATConfig.hat(), depth=1)).eval()
    before, after = shapes(model), shapes(pad_channels(model))
    group, block = "layers.0.residual_group.", "layers.0.residual_group.blocks.0."
    wide = {
        "conv_first": (192, 3, 3, 3),
        "layers.0.conv": (192, 192, 3, 3),
        "conv_after_body": (192, 192, 3, 3),
        "conv_before_upsample.0": (64, 192, 3, 3),
        f"{block}conv_block.cab.0": (64, 192, 3, 3),
        f"{block}conv_block.cab.2": (192, 64, 3, 3),
        f"{block}conv_block.cab.3.attention.1": (8, 192, 1, 1),
        f"{block}conv_block.cab.3.attention.3": (192, 8, 1, 1),
    }
    overlap = f"{group}overlap_attn."
    for attention, mlp in ((f"{block}attn.", f"{block}mlp."), (overlap, f"{overlap}mlp.")):
        wide |= {f"{attention}qkv": (576, 192), f"{attention}proj": (192, 192)}
        wide |= {f"{mlp}fc1": (360, 192), f"{mlp}fc2": (192, 360)}
    for name, shape in wide.items():
        before[f"{name}.weight"] = shape
        before[f"{name}.bias"] = shape[:1]
    assert after == before


@pytest.mark.parametrize(
    ("config", "padded"),
    [
        (HATConfig.hat_s(), ("conv_block.cab.0", "conv_block.cab.2", "3.attention")),
        (HATConfig.hat_nano(), ("3.attention",)),
        (replace(HATConfig.hat_nano(), squeeze_factor=6), ()),
    ],
    ids=["hat-s", "nano", "fits"],
)
def test_what_fits_is_shared(config: HATConfig, padded: tuple[str, ...]) -> None:
    model = HAT(shallow(config)).eval()
    own = dict(pad_channels(model).named_parameters())
    for name, value in model.named_parameters():
        if own[name] is not value:
            assert any(part in name for part in padded)
            assert own[name].shape != value.shape


def test_the_given_model_stays_and_padding_twice_is_padding_once(small: HAT) -> None:
    before = {name: value.clone() for name, value in small.state_dict().items()}
    features = [
        (m.in_features, m.out_features) for m in small.modules() if isinstance(m, nn.Linear)
    ]
    once = pad_channels(small)
    twice = pad_channels(once)
    after = small.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert features == [
        (m.in_features, m.out_features) for m in small.modules() if isinstance(m, nn.Linear)
    ]
    for one, other in zip(once.parameters(), twice.parameters(), strict=True):
        assert one is other
    given = frames(1, 3, 17, 20)
    assert torch.equal(run(once, given), run(twice, given))
    assert once.config == small.config


def test_layers_know_their_size(small: HAT) -> None:
    """Rewrites after this one make layers by what the old ones say."""
    for module in pad_channels(small).modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)


@pytest.mark.parametrize(
    ("channels", "wide"),
    [
        *((180, 192), (60, 64), (190, 192), (250, 256), (140, 144)),
        *((144, 144), (48, 48), (184, 184), (24, 24)),  # on 16 bytes as they are
        *((12, 12), (36, 36), (20, 20), (100, 100)),  # would cost too much
    ],
)
def test_where_padding_the_stream_pays(channels: int, wide: int) -> None:
    assert padded_stream(channels) == wide


# zeros


STREAM = (HAB, OCAB, RHAG, CAB, Mlp, nn.LayerNorm)


def stray(model: HAT, picture: Tensor, real: int) -> dict[str, float]:
    """The largest magnitude in the channels after the real ones, wherever the stream is."""
    found: dict[str, float] = {}
    ends = {"conv_first", "conv_after_body"}
    for name, module in model.named_modules():
        ends |= {f"{name}.proj"} if isinstance(module, BiasedAttention) else set()
        ends |= {f"{name}.conv"} if isinstance(module, RHAG) else set()

        def look(module: nn.Module, _: object, output: Tensor, name: str = name) -> None:
            channels = output.movedim(1, -1) if output.dim() == 4 else output
            assert channels.shape[-1] == 64, name
            found[name] = float(channels[..., real:].abs().max())

        if isinstance(module, STREAM) or name in ends:
            module.register_forward_hook(look)
    run(model, picture)
    return found


@pytest.mark.parametrize("form", ["fp32", "fp16", "fp16, stream in fp32", "bf16"])
def test_padded_channels_stay_zero(small: HAT, picture: Tensor, form: str) -> None:
    model = pad_channels(small)
    plan = replace(plan_rescale(model, picture), residual_fp32="stream" in form)
    if form != "fp32":
        dtype = torch.bfloat16 if form == "bf16" else torch.float16
        model = lower_precision(model, dtype, plan)
    found = stray(copy.deepcopy(model), picture, 60)
    assert len(found) == 3 * 6 + 2 * 5 + 2 * 2 + 4  # HABs, OCABs, RHAGs, and around them
    assert set(found.values()) == {0.0}


# precision


def loud(model: HAT) -> HAT:
    """Bring what is added to the stream, and CAB, out of fp16's range."""
    with torch.no_grad():
        for block in (block for block in model.modules() if isinstance(block, HAB | OCAB)):
            attention = block.attn if isinstance(block, HAB) else block
            for linear in (attention.proj, block.mlp.fc2):
                linear.weight *= 3e4
                linear.bias *= 3e4
            if isinstance(block, HAB):
                second, gate = block.conv_block.cab[2], block.conv_block.cab[3]
                second.weight *= 6e4
                second.bias *= 6e4
                gate.attention[1].weight /= 6e4
    return model


@pytest.fixture(scope="module")
def large() -> HAT:
    return loud(redrawn(SMALL))


def test_the_plan_is_the_same(large: HAT, picture: Tensor) -> None:
    plan, of_padded = (plan_rescale(model, picture) for model in (large, pad_channels(large)))
    assert max(plan.s) > 1
    assert max(plan.t[0]) > 1
    assert (of_padded.s, of_padded.t) == (plan.s, plan.t)
    assert of_padded.uncovered == pytest.approx(plan.uncovered, rel=1e-5)


def test_zeros_are_no_weights_that_s_costs(picture: Tensor) -> None:
    """Or padding would thin out the share that decides where the stream stays in fp32."""
    model = loud(redrawn(SMALL))
    with torch.no_grad():
        for block in (block for block in model.modules() if isinstance(block, HAB | OCAB)):
            weight = block.mlp.fc2.weight
            small = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.1
            weight[small] = 1e-4
    plan, of_padded = (plan_rescale(model, picture) for model in (model, pad_channels(model)))
    assert plan.residual_fp32
    assert of_padded.subnormal == plan.subnormal > 0.01


def test_rescaling_changes_no_bit(large: HAT, picture: Tensor) -> None:
    padded = pad_channels(large)
    rescaled = rescale(padded, plan_rescale(large, picture))
    assert rescaled.norm.eps < padded.norm.eps
    assert torch.equal(run(rescaled, picture), run(padded, picture))


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [(torch.float16, False), (torch.float16, True), (torch.bfloat16, True)],
    ids=["fp16", "fp16, stream in fp32", "bf16"],
)
def test_in_16_bits_as_near_as_without(
    large: HAT, picture: Tensor, dtype: torch.dtype, wide: bool
) -> None:
    plan = replace(plan_rescale(large, picture), residual_fp32=wide)
    model = collapse_tail(large)
    exact = run(model, picture)
    near, padded = (
        compare(exact, run(lower_precision(form, dtype, plan), picture)).snr
        for form in (model, pad_channels(model))
    )
    assert padded > (45 if dtype == torch.float16 else 27)
    assert padded == pytest.approx(near, abs=2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_runs_it(small: HAT, picture: Tensor, precision: str) -> None:
    padded = pad_channels(collapse_tail(small))
    if precision == "fp16":
        padded = lower_precision(padded, torch.float16, plan_rescale(padded, picture))
    height, width = picture.shape[2:]
    spec = TileSpec(batch=1, height=height, width=width, scale=2)
    output = EagerEngine(padded, spec, precision=precision).run(picture)
    assert torch.equal(output, run(padded, picture))
