"""A whole frame in chunks and strips equals the network in one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine.base import TileSpec
from hatvid.engine.eager import EagerEngine
from hatvid.model.attention import BiasedAttention
from hatvid.model.attention_form import with_attention
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.precision import lower_precision, plan_rescale, rescale
from hatvid.model.scaled import RescaledRHAG
from hatvid.model.tail import collapse_tail
from hatvid.model.whole import CHUNK, STRIP, WholeFrame

Pair = tuple[HAT, nn.Module]

HEIGHT, WIDTH = 217, 333
"""Neither a multiple of a window: 224 x 336 padded, 14 x 21 windows of 16, which have
260, 20, 13 and 1 of each kind when shifted."""

SMALL = HATConfig(
    embed_dim=12,
    depths=(2, 2),
    num_heads=(2, 3),
    squeeze_factor=4,
    num_feat=4,
    window_size=8,
    upscale=4,
)


def picture(height: int, width: int, batch: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    random = torch.Generator().manual_seed(0)
    # A slope on top, so that no region has the mean of all.
    slope = torch.linspace(0, 1, batch * height * width).view(batch, 1, height, width)
    return (torch.rand(batch, 3, height, width, generator=random) * 0.5 + slope * 0.5).to(dtype)


def error(result: Tensor, reference: Tensor) -> float:
    """The largest difference, in standard deviations of the reference."""
    assert result.shape == reference.shape
    assert result.dtype == reference.dtype
    return ((result - reference).abs().max() / reference.std()).item()


@pytest.fixture(scope="module")
def frame(pair: Callable[[HATConfig], Pair], tiny: HATConfig) -> tuple[HAT, Tensor, Tensor]:
    """Our network; a frame; what the published network makes of it in one float64 pass."""
    ours, theirs = pair(replace(tiny, depths=(2, 1), upscale=4))
    x = picture(HEIGHT, WIDTH)
    with torch.inference_mode():
        return ours, x, theirs(x)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("chunk", "strip"),
    [
        pytest.param(1, 16, marks=pytest.mark.long),
        (3, 7),
        (CHUNK, STRIP),
        pytest.param(1000, 1000, marks=pytest.mark.long),
    ],
)
def test_is_the_published_network_in_one_pass(
    frame: tuple[HAT, Tensor, Tensor], chunk: int, strip: int
) -> None:
    ours, x, reference = frame
    assert error(WholeFrame(ours, chunk=chunk, strip=strip)(x), reference) <= 1e-9


@torch.inference_mode()
@pytest.mark.parametrize(("chunk", "strip"), [(CHUNK, STRIP), (7, 1)])
def test_with_its_tail_collapsed(frame: tuple[HAT, Tensor, Tensor], chunk: int, strip: int) -> None:
    ours, x, reference = frame
    whole = WholeFrame(collapse_tail(ours), chunk=chunk, strip=strip)
    assert error(whole(x), reference) <= 1e-9


@torch.inference_mode()
@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"upscale": 2},
        {"upscale": 3},
        {"upscale": 8},
        {"overlap_ratio": 0.25, "patch_norm": False},
        {"overlap_ratio": 1.0, "qkv_bias": False},
        {"overlap_ratio": 0.0, "resi_connection": "identity"},
    ],
    ids=str,
)
def test_every_kind_of_network(
    pair: Callable[[HATConfig], Pair], changes: dict[str, object], collapsed: bool
) -> None:
    ours, theirs = pair(replace(SMALL, **changes))
    x = picture(53, 75)
    whole = WholeFrame(collapse_tail(ours) if collapsed else ours, chunk=5, strip=9)
    assert error(whole(x), theirs(x)) <= 1e-9


@torch.inference_mode()
@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize(
    ("height", "width"),
    [(16, 16), (16, 200), (200, 16), (8, 8), (5, 11), (1, 1), (17, 33), (24, 9)],
)
def test_few_windows(
    pair: Callable[[HATConfig], Pair], height: int, width: int, collapsed: bool
) -> None:
    ours, _ = pair(SMALL)
    x = picture(height, width)
    for chunk, strip in ((64, 32), (2, 3)):
        whole = WholeFrame(collapse_tail(ours) if collapsed else ours, chunk=chunk, strip=strip)
        assert error(whole(x), ours(x)) <= 1e-9


@torch.inference_mode()
def test_pictures_of_a_batch_do_not_mix(pair: Callable[[HATConfig], Pair]) -> None:
    ours, _ = pair(SMALL)
    x = picture(41, 50, batch=3)
    for chunk in (1, 7, 64):
        assert error(WholeFrame(ours, chunk=chunk, strip=11)(x), ours(x)) <= 1e-9


@torch.inference_mode()
def test_fp32(pair: Callable[[HATConfig], Pair]) -> None:
    exact = pair(SMALL)[0]
    ours = copy.deepcopy(exact).float()
    x = picture(53, 75)
    plain = error(ours(x.float()).double(), exact(x))
    assert error(WholeFrame(ours, chunk=5, strip=9)(x.float()).double(), exact(x)) < 2 * plain


@pytest.fixture(scope="module")
def float_hat(pair: Callable[[HATConfig], Pair]) -> HAT:
    return collapse_tail(copy.deepcopy(pair(SMALL)[0]).float().requires_grad_(False))


@torch.inference_mode()
def test_rescaled_by_rhag(float_hat: HAT) -> None:
    depths = SMALL.depths
    plan = replace(
        plan_rescale(float_hat, picture(16, 16, dtype=torch.float32)),
        s=(4.0, 64.0),
        t=tuple(tuple(2.0**i for i in range(1, depth + 1)) for depth in depths),
    )
    rescaled = rescale(float_hat, plan)
    assert isinstance(rescaled.layers[1], RescaledRHAG)
    x = picture(53, 75, dtype=torch.float32)
    whole = WholeFrame(rescaled, chunk=5, strip=9)
    # Powers of two change no bit, so the order of sums is all that can differ.
    assert torch.equal(whole(x), WholeFrame(float_hat, chunk=5, strip=9)(x))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("dtype", "wide"),
    [(torch.float16, False), (torch.float16, True), (torch.bfloat16, True)],
    ids=["fp16", "fp16, stream in fp32", "bf16"],
)
def test_in_16_bits(float_hat: HAT, dtype: torch.dtype, wide: bool) -> None:
    x = picture(53, 75, dtype=torch.float32)
    plan = plan_rescale(float_hat, x[..., :16, :16])
    plan = replace(plan, s=(2.0, 8.0), residual_fp32=wide)
    low = lower_precision(float_hat, dtype, plan)
    exact = float_hat(x)
    plain = (low(x) - exact).std()
    whole = WholeFrame(low, chunk=5, strip=9)(x)
    assert whole.dtype == torch.float32
    # As far from fp32 as the network in one pass: what differs are roundings.
    assert (whole - exact).std() < 1.2 * plain
    assert plain < 0.1 * exact.std()


@pytest.fixture
def operators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention on windows that were cut out of the map is an error."""

    def attend(*operands: object) -> Tensor:
        raise AssertionError("windows were cut out")

    monkeypatch.setattr(BiasedAttention, "attend", attend)


@torch.inference_mode()
@pytest.mark.usefixtures("operators_alone")
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("chunk", [1, 7, 33, 64, 1000])
def test_fused_in_chunks_is_fused_at_once(
    pair: Callable[[HATConfig], Pair], chunk: int, batch: int
) -> None:
    """7 x 10 windows, of all four kinds: a part of a row at a time, some rows, the whole map."""
    fused = with_attention(pair(SMALL)[0], "triton")
    x = picture(53, 75, batch=batch)
    assert error(WholeFrame(fused, chunk=chunk, strip=9)(x), fused(x)) <= 1e-9


@torch.inference_mode()
@pytest.mark.usefixtures("operators_alone")
@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0, 2.0, 3.0])
def test_fused_in_bands_of_any_overlap(pair: Callable[[HATConfig], Pair], ratio: float) -> None:
    """Keys from within a window, and from beyond the windows around it."""
    fused = with_attention(pair(replace(SMALL, overlap_ratio=ratio))[0], "triton")
    for height, width in ((53, 75), (5, 11), (40, 8)):
        x = picture(height, width)
        for chunk in (5, 25):
            assert error(WholeFrame(fused, chunk=chunk, strip=9)(x), fused(x)) <= 1e-9


@torch.inference_mode()
@pytest.mark.parametrize("ratio", [0.0, 2.0, 3.0])
def test_bands_of_any_overlap(pair: Callable[[HATConfig], Pair], ratio: float) -> None:
    ours, _ = pair(replace(SMALL, overlap_ratio=ratio))
    x = picture(53, 75)
    for chunk in (5, 25, 1000):
        assert error(WholeFrame(ours, chunk=chunk, strip=9)(x), ours(x)) <= 1e-9


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_fused_in_chunks_in_the_form_that_a_gpu_runs(float_hat: HAT, precision: str) -> None:
    x = picture(53, 75, dtype=torch.float32)
    forms = Forms(float_hat)
    fused = forms.form(precision, padded=True, fused=True)
    whole = forms.form(precision, padded=True, fused=True, chunked=True)
    assert isinstance(whole, WholeFrame)
    exact = float_hat(x)
    plain = (fused(x) - exact).std()
    assert (whole(x) - exact).std() < 1.2 * plain + 1e-6 * exact.std()


@torch.inference_mode()
def test_the_model_passed_in_stays_as_it_is(pair: Callable[[HATConfig], Pair]) -> None:
    ours, _ = pair(SMALL)
    ours.prepare(16, 24)
    whole = WholeFrame(ours)
    x = picture(40, 56)
    before = x.clone()
    first = whole(x)
    assert ours.prepared == (16, 24)
    assert torch.equal(x, before)
    assert torch.equal(whole(x), first)
    assert {id(p) for p in whole.parameters()} == {id(p) for p in ours.parameters()}
    ours.drop_tables()


@torch.inference_mode()
def test_shrinks_to_its_least_with_the_same_result(pair: Callable[[HATConfig], Pair]) -> None:
    ours, _ = pair(SMALL)
    x = picture(40, 56)
    whole = WholeFrame(ours, chunk=8, strip=20)
    seen = [(whole.chunk, whole.strip)]
    while whole.shrink():
        seen.append((whole.chunk, whole.strip))
    assert seen == [(8, 20), (4, 10), (2, 8), (1, 8)]
    assert error(whole(x), ours(x)) <= 1e-9
    least = WholeFrame(ours, chunk=1, strip=3)
    assert not least.shrink()
    assert (least.chunk, least.strip) == (1, 3)


def test_memory_that_runs_out_leaves_nothing_half_done(float_hat: HAT) -> None:
    """Broken off in the last block, then run again by the engine in smaller pieces."""
    left = [1]

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if left[0]:
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return x

    failing = copy.deepcopy(float_hat)
    last = failing.layers[-1].residual_group.overlap_attn.mlp
    last.fc2 = nn.Sequential(last.fc2, Failing())
    x = picture(40, 56, dtype=torch.float32)
    spec = TileSpec(batch=1, height=40, width=56, scale=4)
    engine = EagerEngine(WholeFrame(failing), spec)
    result = engine.run(x)
    assert left == [0]
    assert engine._module is not None
    assert engine._module.chunk == CHUNK // 2
    with torch.inference_mode():
        assert error(result, float_hat(x)) < 1e-4


def test_refuses_what_it_cannot_do(pair: Callable[[HATConfig], Pair]) -> None:
    ours, _ = pair(SMALL)
    x = picture(16, 16)
    with pytest.raises(RuntimeError, match="no gradient"):
        WholeFrame(ours)(x)
    with torch.no_grad():
        WholeFrame(ours)(x)
    frozen = WholeFrame(copy.deepcopy(ours).requires_grad_(False))
    frozen(x)
    with pytest.raises(RuntimeError, match="no gradient"):
        frozen(x.requires_grad_())
    with pytest.raises(ValueError, match="at least 1"):
        WholeFrame(ours, chunk=0)
    with pytest.raises(ValueError, match="at least 1"):
        WholeFrame(ours, strip=0)
