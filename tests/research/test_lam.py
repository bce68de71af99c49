"""Attribution against what it must be: complete, and no wider than the network can see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.filters import gaussian
from torch import Tensor, nn

from hatvid.model.calibration import calibration_picture
from hatvid.model.zoo import load_model
from hatvid.research.lam import (
    SIGMA,
    BlurPath,
    attribute,
    diffusion_index,
    edges,
    window_at,
)

STEPS = 16


class Convolutions(nn.Module):
    """``count`` convolutions of 3x3, then each pixel as 2x2: positive weights, so that no
    part of what it sees cancels out."""

    scale = 2

    def __init__(self, count: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(count)),
            nn.Upsample(scale_factor=2),
        )
        random = torch.Generator().manual_seed(count)
        for weight in self.body.parameters():
            weight.data.uniform_(0.1, 1, generator=random).div_(14)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


@pytest.fixture(scope="module")
def crop() -> Tensor:
    return calibration_picture()[..., 8:40, 12:44].contiguous()


@pytest.fixture(scope="module")
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield None
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_attributions_add_up_to_what_they_explain(crop: Tensor) -> None:
    """The sum of all is the objective of the picture less that of the blurred one.

    At an edge, where the objective rises all the way, whatever the weights. Where it rises
    and falls again, the difference is a remainder, smaller than the steps' own error.
    """
    network = load_model("hat-nano-x4")
    lam = attribute(network, crop, window_at(10, 6, 4, 32, 32), steps=STEPS)
    gained = lam.objective - lam.blurred
    assert gained >= 0.3 * lam.objective
    assert float(lam.signed.double().sum()) == pytest.approx(gained, rel=0.02)
    assert lam.map.shape == (32, 32)
    assert (float(lam.map.min()) >= 0, float(lam.map.max())) == (True, 1)


@pytest.mark.usefixtures("one_thread")
def test_the_midpoint_rule_is_of_second_order() -> None:
    """A quarter of the step, a sixteenth of the error; at the end of each step a quarter.

    In a picture that is smooth and nowhere flat: a gradient that turns round is a kink in
    the objective, and with kinks no rule has an order.
    """
    along = torch.linspace(0, 1, 32, dtype=torch.float64)
    waves = 0.3 * (2 * along).sin() ** 2 + 0.03 * (9 * (along[:, None] + along)).sin()
    picture = (0.1 + 0.5 * along[:, None] ** 2 + waves).expand(1, 3, 32, 32)

    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square().repeat_interleave(2, 2).repeat_interleave(2, 3)

    errors = []
    for steps in (50, 200):
        lam = attribute(Squares(), picture, window_at(16, 16, 2, 32, 32), steps=steps)
        errors.append(abs(float(lam.signed.sum()) - (lam.objective - lam.blurred)))
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.05)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("at", [(16, 12), (1, 30)])
def test_a_known_receptive_field_is_lit_and_nothing_else(at: tuple[int, int], count: int) -> None:
    picture = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    top, left, side = window = window_at(*at, 2, 32, 32)
    lam = attribute(Convolutions(count), picture, window, steps=4)
    seen = torch.zeros((32, 32), dtype=torch.bool)
    # The window and one row and column beyond, in input pixels, and `count` pixels around.
    rows, columns = (
        slice(max(first // 2 - count, 0), (first + side) // 2 + count + 1) for first in (top, left)
    )
    seen[rows, columns] = True
    # Its far corner is no part of any difference.
    lit = lam.signed.abs().amax(0) > 0
    assert not bool((lit & ~seen).any())
    corner = (top + side) // 2 + count, (left + side) // 2 + count
    missing = (seen & ~lit).nonzero().tolist()
    assert missing == [] or missing == [list(corner)]
    assert float(lam.map.max()) == 1


@pytest.mark.usefixtures("one_thread")
def test_a_transformer_looks_farther_than_a_convolution() -> None:
    picture = calibration_picture()[..., 64:128, :64].contiguous()
    torch.manual_seed(1)
    networks = (
        load_model("hat-nano-x4"),
        nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4)),
        nn.Upsample(scale_factor=4, mode="bilinear"),
    )
    window = window_at(32, 32, 4, 64, 64)
    nano, convolution, bilinear = (
        attribute(network, picture, window, steps=3).diffusion_index for network in networks
    )
    assert convolution < 0.5 * nano
    assert bilinear < 0.4 * nano


def test_the_index_is_one_less_gini() -> None:
    """Gini by its own words: half the mean difference of all pairs, over the mean."""
    values = torch.rand(60, generator=torch.Generator().manual_seed(1)).double() ** 4
    shares = values.numpy() + 1e-7
    gini = np.abs(shares[:, None] - shares).mean() / (2 * shares.mean())
    assert diffusion_index(values.reshape(6, 10)) == pytest.approx(100 * (1 - gini))
    assert diffusion_index(torch.ones(5, 5)) == pytest.approx(100)
    single = torch.zeros(100)
    single[3] = 1
    assert diffusion_index(single) == pytest.approx(1, abs=0.01)


def test_the_path_goes_from_blurred_to_sharp(crop: Tensor) -> None:
    path = BlurPath(crop)
    torch.testing.assert_close(path.at(1), crop, rtol=0, atol=1e-6)
    blurred = gaussian(
        crop[0].double().numpy(), sigma=SIGMA, channel_axis=0, mode="mirror", truncate=4 / SIGMA
    )
    np.testing.assert_allclose(path.at(0)[0], blurred, atol=1e-5)


def test_the_objective_is_that_of_the_paper() -> None:
    """Sobel-like differences to the right and down, in 16x16 pixels alone."""
    larger = torch.rand((1, 3, 40, 50), generator=torch.Generator().manual_seed(2)).double()
    top, left, side = 9, 20, 16
    total = 0.0
    for channel in larger[0].numpy():
        for y in range(top, top + side):
            for x in range(left, left + side):
                down = channel[y, x] - channel[y + 1, x]
                across = channel[y, x] - channel[y, x + 1]
                total += (down**2 + across**2) ** 0.5
    assert float(edges(larger, (top, left, side))) == pytest.approx(total, rel=1e-6)


def test_flat_pictures_have_no_attribution_and_no_nan() -> None:
    lam = attribute(Convolutions(1), torch.full((1, 3, 24, 24), 0.5), (12, 12, 16), steps=2)
    assert bool(torch.isfinite(lam.signed).all())
    assert bool(torch.isfinite(lam.map).all())


@pytest.mark.parametrize(
    ("at", "size", "text"),
    [((32, 0), (32, 32), "no pixel"), ((0, -1), (32, 32), "no pixel"), ((0, 0), (4, 40), "holds")],
)
def test_windows_that_cannot_be(at: tuple[int, int], size: tuple[int, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        window_at(*at, 4, *size)


def test_windows_lie_around_their_pixel_and_inside() -> None:
    assert window_at(16, 10, 4, 32, 40) == (34, 58, 16)
    assert window_at(0, 31, 4, 32, 40) == (111, 0, 16)
