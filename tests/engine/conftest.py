from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hatvid.engine import TileSpec

SCALE = 2


class SmallNet(nn.Module):
    """Two convolutions and a pixel shuffle, with weights large enough to matter."""

    def __init__(self, scale: int = SCALE) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        shuffled: Tensor = self.shuffle(self.last(nn.functional.gelu(self.first(x))))
        return shuffled


@pytest.fixture(scope="session")
def net() -> SmallNet:
    return SmallNet().eval()


@pytest.fixture(scope="session")
def spec() -> TileSpec:
    return TileSpec(batch=2, height=16, width=32, scale=SCALE)


@pytest.fixture(scope="session")
def tiles(spec: TileSpec) -> Tensor:
    return torch.rand(spec.input_shape, generator=torch.Generator().manual_seed(3))
