"""Networks that are no HAT, against spandrel's own run of them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact as SRVGGNetCompact
from spandrel.architectures.DnCNN import DnCNN
from spandrel.architectures.ESRGAN import ESRGAN as RRDBNet
from spandrel.architectures.RCAN import RCAN
from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor, nn

from hatvid.errors import CheckpointError, OptionError
from hatvid.model.edsr import EDSR
from hatvid.model.foreign import ForeignModel, load_network
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.zoo import load_model
from hatvid.options import EngineOptions, TileOptions
from hatvid.upscaler import Upscaler


def swinir(channels: int = 3, scale: int = 2) -> nn.Module:
    return SwinIR(
        img_size=16,
        in_chans=channels,
        embed_dim=12,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=8,
        mlp_ratio=2,
        upscale=scale,
        img_range=1.0,
        upsampler="pixelshuffle",
        resi_connection="1conv",
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "SwinIR": swinir,
    "RCAN": lambda: RCAN(scale=2, n_resgroups=2, n_resblocks=2, n_feats=16, reduction=4),
    "ESRGAN": lambda: RRDBNet(in_nc=3, out_nc=3, num_filters=8, num_blocks=2, scale=4),
    "RealESRGAN Compact": lambda: SRVGGNetCompact(num_feat=8, num_conv=3, upscale=3),
}


def redrawn(make: Callable[[], nn.Module], size: float = 0.5) -> dict[str, Tensor]:
    """Weights of a fresh network in which every part counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = make()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "norm" not in name:
                fan = max(value[0].numel(), 1)
                value.normal_(std=size * fan**-0.5, generator=generator)
    return {key: value.clone().contiguous() for key, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("foreign")
    paths = {}
    for number, (name, make) in enumerate(NETWORKS.items()):
        weights = redrawn(make)
        if number % 2:
            paths[name] = folder / f"{number}.safetensors"
            save_file(weights, paths[name])
        else:
            paths[name] = folder / f"{number}.pth"
            torch.save({"params_ema": weights}, paths[name])
    return paths


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return torch.rand((2, 3, 37, 29), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_it_is_what_spandrel_runs(files: dict[str, Path], frames: Tensor, name: str) -> None:
    model = load_network(files[name])
    assert isinstance(model, ForeignModel)
    assert model.architecture == name
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        descriptor = ModelLoader().load_from_state_dict(redrawn(NETWORKS[name]))
    before = frames.clone()
    result = model(frames)
    assert torch.equal(frames, before), "it wrote into its input"
    assert result.shape[2:] == (37 * model.scale, 29 * model.scale)
    expected = torch.cat([descriptor(frame.clone()) for frame in frames.split(1)])  # type: ignore[operator]
    # spandrel clamps in the end.
    torch.testing.assert_close(result.clamp(0, 1), expected, atol=1e-5, rtol=0)
    assert float(result.std()) > 0.02


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("engine", ["eager", "openvino"])
def test_engines_run_it_whole_and_in_tiles(
    files: dict[str, Path], frames: Tensor, name: str, engine: Any
) -> None:
    model = load_network(files[name])
    options = EngineOptions(engine=engine, precision="fp32", threads=1)
    expected = model(frames)
    for tile in (0, 32):
        with Upscaler(
            model,
            scale=model.scale,
            engine_options=options,
            tile_options=TileOptions(tile=tile, overlap=8),
        ) as up:
            result = up(frames)
        if tile == 0:
            scale = float(expected.std())
            torch.testing.assert_close(result, expected, atol=1e-4 * scale, rtol=0)
        else:
            assert result.shape == expected.shape
            assert bool(result.isfinite().all())


def test_a_foreign_network_stays_in_fp32_with_pytorch(files: dict[str, Path]) -> None:
    model = load_network(files["RCAN"])
    with pytest.raises(OptionError, match="runs HAT alone"):
        Upscaler(
            model,
            scale=model.scale,
            engine_options=EngineOptions(engine="eager", precision="fp16"),
        )


def test_by_path_through_the_front_door(files: dict[str, Path], frames: Tensor) -> None:
    model = load_model(str(files["SwinIR"]))
    with Upscaler.from_checkpoint(files["SwinIR"], engine="eager", tile=0) as up:
        assert (up.scale, up.network_scale) == (2, 2)
        expected = model(frames)
        scale = float(expected.std())
        torch.testing.assert_close(up(frames), expected, atol=1e-4 * scale, rtol=0)
    with pytest.raises(OptionError, match="upscales by 2, not by 4"):
        load_model(str(files["SwinIR"]), 4)


def test_hat_stays_hat(tmp_path: Path) -> None:
    config = HATConfig(
        embed_dim=12, depths=(1,), num_heads=(2,), squeeze_factor=6, num_feat=4, upscale=2
    )
    path = tmp_path / "hat.pth"
    torch.save(HAT(config).state_dict(), path)
    model = load_network(path)
    assert isinstance(model, HAT)
    assert model.config == config


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DnCNN(in_nc=3, out_nc=3, nc=8, nb=4), "DnCNN for Restoration"),
        (lambda: swinir(channels=1), "SwinIR with 1 channels in"),
        (
            lambda: RRDBNet(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=8),
            "upscales by 8",
        ),
    ],
    ids=["denoiser", "gray", "x8"],
)
def test_what_makes_no_larger_rgb_pictures_is_refused(
    tmp_path: Path, make: Callable[[], nn.Module], text: str
) -> None:
    path = tmp_path / "other.pth"
    torch.save(redrawn(make), path)
    with pytest.raises(CheckpointError, match=text) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_without_spandrel_it_is_named_at_least(
    files: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    shown = {"RealESRGAN Compact": "Real-ESRGAN compact"}.get(name, name)
    with pytest.raises(CheckpointError, match=rf"looks like {shown}.*hatvid\[spandrel\]"):
        load_network(files[name])


@pytest.mark.parametrize("there", [True, False], ids=["with spandrel", "without"])
def test_what_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    if not there:
        monkeypatch.setitem(sys.modules, "spandrel", None)
    path = tmp_path / "odd.pth"
    torch.save({"conv.weight": torch.rand(3, 3, 1, 1)}, path)
    with pytest.raises(CheckpointError, match="not a HAT: it holds 1 tensors"):
        load_network(path)


def test_a_network_that_lacks_a_tensor_is_told(tmp_path: Path) -> None:
    weights = redrawn(swinir)
    del weights["layers.0.residual_group.blocks.0.mlp.fc2.bias"]
    path = tmp_path / "cut.pth"
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match="looks like SwinIR, but cannot be built") as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


# ---- EDSR --------------------------------------------------------------------------------


def edsr_of_the_authors(scale: int, features: int) -> dict[str, Tensor]:
    """The state dict of ``EDSR`` in the authors' layout, and its tensors redrawn."""
    generator = torch.Generator().manual_seed(1)

    def conv(out: int, into: int) -> dict[str, Tensor]:
        return {
            "weight": torch.randn((out, into, 3, 3), generator=generator) * (into * 9) ** -0.5,
            "bias": torch.randn(out, generator=generator),
        }

    stages = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    layers = {"head.0": conv(features, 3)}
    for block in range(2):
        layers[f"body.{block}.body.0"] = conv(features, features)
        layers[f"body.{block}.body.2"] = conv(features, features)
    layers["body.2"] = conv(features, features)
    for number, stage in enumerate(stages):
        layers[f"tail.0.{2 * number}"] = conv(features * stage**2, features)
    layers["tail.1"] = conv(3, features)
    state = {f"{name}.{key}": value for name, pair in layers.items() for key, value in pair.items()}
    mean = torch.tensor([0.4, 0.5, 0.6]) * 255
    eye = torch.eye(3).view(3, 3, 1, 1)
    return state | {
        "sub_mean.weight": eye,
        "sub_mean.bias": -mean,
        "add_mean.weight": eye,
        "add_mean.bias": mean,
    }


def edsr_by_hand(state: dict[str, Tensor], x: Tensor, scale: int, residual: float) -> Tensor:
    """The network as the authors' repository describes it, layer by layer."""

    def conv(name: str, y: Tensor) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return nn.functional.conv2d(y, weight, bias, padding=weight.shape[-1] // 2)

    y = first = conv("head.0", conv("sub_mean", x * 255))
    for block in range(2):
        deep = conv(f"body.{block}.body.2", conv(f"body.{block}.body.0", y).relu())
        y = y + deep * residual
    y = conv("body.2", y) + first
    stages = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    for number, stage in enumerate(stages):
        y = nn.functional.pixel_shuffle(conv(f"tail.0.{2 * number}", y), stage)
    return conv("add_mean", conv("tail.1", y)) / 255


@pytest.mark.parametrize(
    ("scale", "features", "residual"), [(2, 8, 1.0), (3, 8, 1.0), (4, 8, 1.0), (2, 256, 0.1)]
)
@pytest.mark.parametrize("layout", ["authors", "BasicSR"])
def test_edsr(
    tmp_path: Path, frames: Tensor, scale: int, features: int, residual: float, layout: str
) -> None:
    state = edsr_of_the_authors(scale, features)
    if layout == "BasicSR":
        mean = torch.tensor([0.4488, 0.4371, 0.4040]) * 255
        state |= {"sub_mean.bias": -mean, "add_mean.bias": mean}
    expected = edsr_by_hand(state, frames, scale, residual)
    if layout == "BasicSR":
        names = {"head.0": "conv_first", "body.2": "conv_after_body", "tail.1": "conv_last"}
        for block in range(2):
            names[f"body.{block}.body.0"] = f"body.{block}.conv1"
            names[f"body.{block}.body.2"] = f"body.{block}.conv2"
        names |= {"tail.0.0": "upsample.0", "tail.0.2": "upsample.2"}
        state = {
            f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value
            for key, value in state.items()
            if "_mean" not in key
        }
    path = tmp_path / "edsr.pth"
    torch.save(state, path)
    model = load_network(path)
    assert isinstance(model, EDSR)
    assert model.scale == scale
    scale_of = float(expected.std())
    torch.testing.assert_close(model(frames), expected, atol=2e-5 * scale_of, rtol=0)
