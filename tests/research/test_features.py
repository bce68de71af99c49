"""Maps between layers are those that the layers gave, and planted blocks are found."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from smallest import smallest
from torch import Tensor

from hatvid.errors import OptionError
from hatvid.model.edsr import EDSR
from hatvid.model.hat import HAT
from hatvid.research.features import (
    FeatureMap,
    default_layers,
    feature_maps,
    grid_step,
    window_of,
)
from hatvid.research.figures import feature_figure


@pytest.fixture(scope="module")
def hat() -> HAT:
    torch.manual_seed(1)
    return HAT(smallest(depths=(2, 2))).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand((1, 3, 32, 48), generator=torch.Generator().manual_seed(1))


def test_maps_of_a_hat(hat: HAT, picture: Tensor) -> None:
    maps = {one.layer: one.values for one in feature_maps(hat, picture)}
    assert list(maps) == [
        *("conv_first", "layers.0", "layers.1", "conv_after_body"),
        *("conv_before_upsample", "conv_last"),
    ]
    assert {tuple(values.shape[1:]) for values in maps.values()} == {(32, 48), (64, 96)}
    torch.testing.assert_close(maps["conv_first"], hat.conv_first(picture - hat.mean)[0])
    torch.testing.assert_close(maps["conv_last"] + hat.mean[0], hat(picture)[0])
    # Tokens are laid out as the map is: the convolution behind the groups gets just that.
    tokens = hat.norm(maps["layers.1"].flatten(1).T[None])
    laid = tokens[0].T.reshape(1, -1, 32, 48)
    torch.testing.assert_close(maps["conv_after_body"], hat.conv_after_body(laid)[0])


def test_layers_by_name(hat: HAT, picture: Tensor) -> None:
    (one,) = feature_maps(hat, picture, ["layers.0.residual_group.blocks.1"])
    assert one.values.shape == (12, 32, 48)
    with pytest.raises(OptionError, match=r"no layer 'layers.9'; name one such as conv_first"):
        feature_maps(hat, picture, ["layers.9"])
    with pytest.raises(OptionError, match="gives no map"):
        feature_maps(hat, picture, ["layers.0.residual_group.blocks.0.conv_block.cab.3.attention"])


def test_nothing_stays_in_the_network(hat: HAT, picture: Tensor) -> None:
    feature_maps(hat, picture)
    assert not any(module._forward_hooks for module in hat.modules())


def test_other_networks(picture: Tensor) -> None:
    from spandrel.architectures.SwinIR import SwinIR

    edsr = EDSR(8, 3, 2).eval()
    assert [one.layer for one in feature_maps(edsr, picture)] == [f"blocks.{n}" for n in range(3)]
    assert window_of(edsr) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        swinir = SwinIR(
            img_size=16,
            embed_dim=12,
            depths=[2, 2],
            num_heads=[2, 2],
            window_size=8,
            upscale=2,
            upsampler="pixelshuffle",
        ).eval()
    assert window_of(swinir) == 8
    maps = {one.layer: one.values for one in feature_maps(swinir, picture)}
    assert maps["layers.0"].shape == maps["layers.1"].shape == (12, 32, 48)
    assert default_layers(swinir)[0] == "conv_first"


def test_windows_are_told_from_pictures() -> None:
    random = torch.Generator().manual_seed(1)
    noise = torch.rand((4, 64, 80), generator=random)
    assert grid_step(noise, 16) == pytest.approx(1, abs=0.05)
    blocks = torch.rand((4, 4, 5), generator=random)
    blocks = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    assert grid_step(noise + 4 * blocks, 16) > 2.5
    assert grid_step(noise + 4 * blocks, 10) < 1.1, "windows of another size"
    larger = (noise + 4 * blocks).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert FeatureMap(layer="larger", values=larger, scale=2).step(16) > 2.5
    assert grid_step(torch.zeros((1, 64, 64)), 16) == 1
    assert grid_step(noise[:, :8, :8], 16) == 1


def test_a_figure_shows_a_map_as_it_is() -> None:
    values = torch.linspace(0, 1, 64).repeat(2, 48, 1)
    image = np.asarray(FeatureMap(layer="ramp", values=values).image())
    assert image.shape == (48, 64, 3)
    assert (image[0, 0, 0], image[0, -1, 0]) == (0, 255)
    assert (np.diff(image[5, :, 0].astype(int)) >= 0).all()
    flat = FeatureMap(layer="flat", values=torch.full((3, 8, 8), 2.0))
    assert len(np.unique(np.asarray(flat.image()))) == 1
    figure = feature_figure([FeatureMap(layer="ramp", values=values), flat], 16)
    assert figure.width > 2 * 384
