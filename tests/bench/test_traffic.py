"""What whole networks cost, against published figures and known differences."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hatvid.bench.networks import NetworkForm, network_config, network_forms, published
from hatvid.bench.roofline import GPUS
from hatvid.bench.trace import Trace, trace_network
from hatvid.bench.traffic import frame_traffic, measure_form
from hatvid.errors import CheckpointError, EngineError, OptionError, UnknownModelError
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.tail import CollapsedTail, collapse_tail, tail_multiply_adds

TINY = HATConfig(embed_dim=24, depths=(2,), num_heads=(2,), squeeze_factor=4, num_feat=8, upscale=2)


def multiply_adds(trace: Trace) -> int:
    return sum(operator.flops for operator in trace.operators) // 2


@pytest.mark.parametrize(
    ("config", "paper", "within"),
    [
        (HATConfig.hat_s(), 54.9, 0.05),
        pytest.param(HATConfig.hat(), 102.4, 0.02 * 102.4, marks=pytest.mark.long),
    ],
    ids=["hat-s", "hat"],
)
def test_multiply_adds_of_the_paper(config: HATConfig, paper: float, within: float) -> None:
    """At 64x64. The paper's HAT-S comes out as counted by fvcore, which adds five for each
    element that a LayerNorm takes and one for each that is pooled; HAT comes out 1.8 % above
    the paper, and why is not known."""
    trace = trace_network(published(config), (1, 3, 64, 64))
    count = multiply_adds(trace)
    for operator in trace.operators:
        count += {"aten.native_layer_norm.default": 5, "aten.mean.dim": 1}.get(
            operator.name, 0
        ) * operator.elements
    assert count / 1e9 == pytest.approx(paper, abs=within)
    ours = trace_network(HAT(config).eval(), (1, 3, 64, 64))
    assert multiply_adds(ours) == multiply_adds(trace)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_collapsed_tail_saves_what_is_known(scale: int) -> None:
    config = HATConfig(
        embed_dim=12, depths=(1,), num_heads=(2,), squeeze_factor=4, num_feat=8, upscale=scale
    )
    network = HAT(config).eval()
    collapsed = collapse_tail(network)
    assert isinstance(collapsed.upsample, CollapsedTail)
    height, width, strip = 48, 64, 2 * collapsed.upsample.ring
    before, after = tail_multiply_adds(config)
    saved = multiply_adds(trace_network(network, (1, 3, height, width)))
    saved -= multiply_adds(trace_network(collapsed, (1, 3, height, width)))
    ring = before * 2 * strip * (height + width)
    assert saved == (before - after) * height * width - ring


def test_the_forms_of_a_network() -> None:
    rows = frame_traffic(TINY, 48, 32)
    forms = {row.form: row for row in rows}
    theirs, in_one = forms["published"], forms["published, attention in one kernel"]
    assert (theirs.attention, in_one.attention) == ("explicit", "fused")
    assert theirs.flops == in_one.flops
    assert theirs.read > in_one.read
    assert theirs.written > in_one.written
    assert theirs.uploaded == in_one.uploaded > 2 * 6 * 256 * 256  # the mask, for each frame
    assert list(forms)[2:] == ["hatvid", "+ tail collapsed", "+ padded", "+ Triton"]
    assert all(forms[name].uploaded == 0 for name in list(forms)[2:])
    assert (forms["hatvid"].attention, forms["+ padded"].attention) == ("MATH", "fused")
    for row in rows:
        assert row.launch_seconds == row.launches * 4e-6
        assert set(row.roofline_seconds) == {gpu.name for gpu in GPUS}
        for gpu in GPUS:
            seconds = row.roofline_seconds[gpu.name]
            assert seconds >= row.flops / gpu.tensor
            assert seconds >= (row.read + row.written) / gpu.bandwidth


def test_precisions() -> None:
    def read(precision: str) -> list[int]:
        return [row.read for row in frame_traffic(TINY, 32, 32, precision)]

    # The published network in half the bytes, but for its tables of int64.
    assert read("fp16")[0] == pytest.approx(read("fp32")[0] / 2, rel=0.1)


def test_a_network_of_one_kind_of_attention_says_so() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for size in (8, 6):
                head = x[..., :size].contiguous()
                nn.functional.scaled_dot_product_attention(head, head, head)
            return x

    form = NetworkForm(name="two", network=Two(), dtype=torch.float16)
    assert measure_form(form, (1, 2, 16, 16)).attention == "1 fused, 1 MATH"


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        ("hat-s", None, HATConfig.hat_s(4)),
        ("hat-l", 2, HATConfig.hat_l(2)),
        ("hat-nano-x2", None, HATConfig.hat_nano(2)),
        ("nomos8k-hat-l-x4", 4, HATConfig.hat_l(4)),  # not here, and need not be
    ],
)
def test_names(name: str, scale: int | None, expected: HATConfig) -> None:
    assert network_config(name, scale) == expected


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in HAT(TINY).state_dict().items()}, path)
    assert network_config(str(path)).embed_dim == TINY.embed_dim
    with pytest.raises(OptionError, match="upscales by 2"):
        network_config(str(path), 4)


@pytest.mark.parametrize(
    ("name", "scale", "error"),
    [
        ("zebra", None, UnknownModelError),
        ("gone.pth", None, CheckpointError),
        ("hat", 5, OptionError),
        ("hat-nano-x4", 2, OptionError),
    ],
)
def test_what_is_refused(name: str, scale: int | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        network_config(name, scale)


def test_without_spandrel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("spandrel", "spandrel.architectures", "spandrel.architectures.HAT"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match="hatvid\\[bench\\]"):
        next(iter(network_forms(TINY)))
