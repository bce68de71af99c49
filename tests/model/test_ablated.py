"""HATs without CAB, without OCAB, with small windows: the switches of the paper's ablation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hatvid.engine import TileSpec
from hatvid.errors import CheckpointError
from hatvid.frame_memory import network_bytes
from hatvid.model.attention_form import with_attention
from hatvid.model.blocks import CAB, HAB, OCAB
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.padded import pad_channels
from hatvid.model.precision import lower_precision, plan_rescale, rescale
from hatvid.model.tail import collapse_tail
from hatvid.model.whole import WholeFrame
from hatvid.model.zoo import load_model

SWITCHES = [
    {"cab": False},
    {"ocab": False},
    {"cab": False, "ocab": False, "window_size": 8},
    {"window_size": 8},
]


def redrawn(switches: dict[str, Any]) -> HAT:
    settings: dict[str, Any] = {
        "embed_dim": 12,
        "depths": (2, 1),
        "num_heads": (2, 2),
        "num_feat": 8,
        "compress_ratio": 3,
        "squeeze_factor": 30 if switches.get("cab") is False else 12,
        "upscale": 2,
    }
    model = HAT(HATConfig(**settings | switches)).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if "norm" not in name:
            value.normal_(std=max(value[0].numel(), 1) ** -0.5, generator=random)
    return model


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand((1, 3, 24, 40), generator=torch.Generator().manual_seed(2))


def ids(switches: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in switches.items())


@pytest.mark.parametrize("switches", SWITCHES, ids=ids)
@torch.no_grad()
def test_it_is_saved_and_read(tmp_path: Path, picture: Tensor, switches: dict[str, Any]) -> None:
    model = redrawn(switches)
    kinds = [type(module) for module in model.modules()]
    assert (CAB in kinds, OCAB in kinds) == (switches.get("cab", True), switches.get("ocab", True))
    path = tmp_path / "ablated.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    again = load_model(str(path))
    assert isinstance(again, HAT)
    assert again.config == model.config
    assert torch.equal(again(picture), model(picture))


@pytest.mark.parametrize("switches", SWITCHES, ids=ids)
@torch.no_grad()
def test_every_form_gives_the_same(picture: Tensor, switches: dict[str, Any]) -> None:
    model = redrawn(switches)
    expected = model(picture)
    collapsed = collapse_tail(model)
    plan = plan_rescale(collapsed, picture)
    forms = {
        "collapsed": collapsed,
        "padded": pad_channels(collapsed),
        "fused": with_attention(collapsed, "triton"),
        "separate": with_attention(collapsed, "split_qkv"),
        "rescaled": rescale(collapsed, plan),
        "chunked": WholeFrame(model, chunk=2, strip=8),
        "as engines have it": Forms(model).form("fp32", chunked=True, padded=True),
    }
    for name, form in forms.items():
        torch.testing.assert_close(form(picture), expected, atol=2e-5, rtol=0, msg=name)
    low = lower_precision(collapsed, torch.bfloat16, plan)(picture)
    assert float((low - expected).abs().mean()) < 0.02
    spec = TileSpec(batch=1, height=24, width=40, scale=2)
    assert network_bytes(Forms(model).form(chunked=True), spec, on_gpu=False) > 0


@torch.no_grad()
def test_without_a_cab_is_as_if_it_gave_nothing(picture: Tensor) -> None:
    """The same weights with conv_scale 0: what is off adds zero, and no more."""
    off = redrawn({"cab": False, "window_size": 8})
    silent = redrawn({"window_size": 8})
    silent.load_state_dict(off.state_dict(), strict=False)
    for block in silent.modules():
        if isinstance(block, HAB):
            block.conv_scale = 0.0
    torch.testing.assert_close(off(picture), silent(picture), atol=1e-6, rtol=0)
    assert float((off(picture) - redrawn({"window_size": 8})(picture)).abs().max()) > 1e-3


def test_what_is_missing_by_accident_is_no_ablation(tmp_path: Path) -> None:
    """A single block that lacks its CAB, or a network that is none of ours."""
    state = redrawn({"window_size": 8}).state_dict()
    path = tmp_path / "torn.safetensors"
    torn = {k: v.contiguous() for k, v in state.items() if "blocks.1.conv_block" not in k}
    save_file(torn, path)
    with pytest.raises(CheckpointError, match="missing"):
        load_model(str(path))
