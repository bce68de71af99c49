"""What is measured of a checkpoint, and when a precision is called safe."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from hatvid.engine.fidelity import Fidelity
from hatvid.errors import CheckpointError, InputError
from hatvid.model.blocks import HAB, OCAB
from hatvid.model.calibration import calibration_picture
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.ranges import measure_ranges
from hatvid.model.zoo import load_model
from hatvid.research import check
from hatvid.research.check import ModelCheck, check_model

CONFIG = HATConfig(
    embed_dim=12,
    depths=(2,),
    num_heads=(2,),
    compress_ratio=3,
    squeeze_factor=4,
    num_feat=8,
    upscale=2,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``saved(name, change)``: the file of a HAT with redrawn weights, changed."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def save(name: str, change: Callable[[HAT], None]) -> Path:
        random = torch.Generator().manual_seed(1)
        model = HAT(CONFIG).requires_grad_(False)
        for key, value in model.named_parameters():
            if "norm" not in key or key.endswith("bias"):
                value.normal_(std=value[0].numel() ** -0.5, generator=random)
        change(model)
        path = folder / f"{name}.safetensors"
        save_file(model.state_dict(), path)
        return path

    return save


def overflowing(model: HAT) -> None:
    for block in (block for block in model.modules() if isinstance(block, HAB | OCAB)):
        attention = block.attn if isinstance(block, HAB) else block
        for layer in (attention.proj, block.mlp.fc2):
            layer.weight *= 4e4
            layer.bias *= 4e4


@pytest.fixture(scope="module")
def nano() -> ModelCheck:
    return check_model("hat-nano-x2", crop=48)


def test_a_trained_network_is_safe_in_all(nano: ModelCheck) -> None:
    assert (nano.picture, nano.width, nano.height) == (None, 48, 48)
    assert nano.plan.s == (1, 1)
    assert nano.fp16 == nano.fp16_plain
    assert nano.fp16.snr > 65 > nano.bf16.snr > 50
    assert nano.safe == ("fp16", "bf16", "fp32")
    assert nano.verdict == "safe: fp16, bf16, fp32"


def test_the_plan_is_that_of_the_engines_whatever_the_picture(nano: ModelCheck) -> None:
    """They do not see the picture; ranges are those of the picture."""
    model = load_model("hat-nano-x2")
    whole = measure_ranges(model, calibration_picture())
    assert nano.plan.ranges.groups == whole.groups
    middle = measure_ranges(model, calibration_picture()[:, :, 40:88, 40:88])
    assert nano.ranges.groups == middle.groups
    assert nano.ranges != nano.plan.ranges


def test_fp16_holds_what_overflows_plainly(saved: Callable[..., Path]) -> None:
    found = check_model(str(saved("overflowing", overflowing)), crop=32)
    assert found.plan.s[0] > 1
    assert found.fp16_plain == Fidelity(snr=-math.inf, max_error=math.inf)
    assert found.fp16.snr > 45
    assert "fp16" in found.safe
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert record["fp16_plain"] == {"snr": None, "max_error": None}
    assert record["fp16"]["snr"] == found.fp16.snr
    assert record["s"] == list(found.plan.s)
    assert record["ranges"]["groups"][0]["blocks"][1]["name"].endswith("blocks.1")


def test_what_nothing_divides_is_named(saved: Callable[..., Path]) -> None:
    """Finite on this picture, but too near the end of fp16's range."""

    def loud(model: HAT) -> None:
        for block in model.layers[0].residual_group.blocks:
            block.attn.qkv.bias[24:] += 2e4  # values, which proj takes away again
            block.attn.proj.weight *= 1e-4

    found = check_model(str(saved("loud", loud)), crop=32)
    assert found.ranges.blocks[0].qkv == pytest.approx(2e4, rel=0.01)
    assert "fp16" not in found.safe
    assert "fp32" in found.safe
    assert "qkv may run out of range" in found.verdict


def test_a_precision_that_is_far_off_is_not_safe(nano: ModelCheck) -> None:
    far = Fidelity(snr=20.0, max_error=0.01)
    assert replace(nano, fp16=far).safe == ("bf16", "fp32")
    assert replace(nano, fp16=far).verdict.endswith("fp16 is too far from fp32")
    assert replace(nano, bf16=far).safe == ("fp16", "fp32")


def test_a_picture_is_cut_in_its_middle(tmp_path: Path, saved: Callable[..., Path]) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(samples).save(path)
    checkpoint = str(saved("plain", lambda model: None))
    found = check_model(checkpoint, path, crop=32)
    assert (found.picture, found.width, found.height) == (path, 32, 32)
    middle = torch.from_numpy(samples[4:36, 29:61].transpose(2, 0, 1).astype(np.float32) / 255)
    expected: Tensor = middle[None]
    assert found.ranges.groups == measure_ranges(load_model(checkpoint), expected).groups
    small = check_model(checkpoint, path, crop=64)
    assert (small.width, small.height) == (64, 40)


def test_no_picture_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        check_model("hat-nano-x2", tmp_path / "nothing.png")


def test_other_networks_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "load_model", lambda name: nn.Conv2d(3, 3, 1))
    with pytest.raises(CheckpointError, match=r"other\.pth is no HAT; only a HAT") as caught:
        check_model("other.pth")
    assert "\n" not in str(caught.value)
