"""EDSR (Lim et al., arXiv 1707.02921), which spandrel does not have: a network to compare with.

Read in both of the layouts that are about: the authors' own (``head``, ``body``,
``tail``) and BasicSR's (``conv_first``, ``conv_after_body``, ``conv_last``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hatvid.model.hat import RGB_MEAN

__all__ = ["EDSR", "edsr_from_state_dict"]

RANGE = 255.0
"""Both layouts compute with samples of 0 to 255."""

LARGE = 256
"""Channels from which on residuals are scaled by 0.1 (section 3.3 of the paper)."""


class EDSR(nn.Module):
    """Residual blocks of two convolutions, then pixel shuffles.

    Args:
        features: channels.
        blocks: residual blocks.
        scale: 2, 3 or 4.
        mean: of the colours in [0, 1], subtracted before and added behind.
    """

    architecture = "EDSR"
    grid = 1
    mean: Tensor

    def __init__(
        self, features: int, blocks: int, scale: int, mean: tuple[float, ...] = RGB_MEAN
    ) -> None:
        super().__init__()
        self.scale = scale
        self.residual_scale = 0.1 if features >= LARGE else 1.0
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(features, features, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(features, features, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.after = nn.Conv2d(features, features, 3, padding=1)
        stages = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        layers: list[nn.Module] = []
        for stage in stages:
            layers += [nn.Conv2d(features, stage**2 * features, 3, padding=1)]
            layers += [nn.PixelShuffle(stage)]
        self.upsample = nn.Sequential(*layers)
        self.last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float in [0, 1], RGB -> (N, 3, sH, sW), not clamped."""
        shallow = self.first((x - self.mean) * RANGE)
        deep = shallow
        for block in self.blocks:
            deep = deep + block(deep) * self.residual_scale
        deep = self.after(deep) + shallow
        result: Tensor = self.last(self.upsample(deep)) / RANGE + self.mean
        return result


def edsr_from_state_dict(state_dict: Mapping[str, Tensor]) -> EDSR | None:
    """Build an EDSR; None if the tensors are not those of one.

    Args:
        state_dict: of either layout.
    """
    named = _renamed(state_dict)
    if named is None or "first.weight" not in named:
        return None
    shape = named["first.weight"].shape
    blocks = {int(key.split(".")[1]) for key in named if key.startswith("blocks.")}
    scale = 1
    for key, value in named.items():
        if re.fullmatch(r"upsample\.\d+\.weight", key):
            scale *= int((value.shape[0] // shape[0]) ** 0.5)
    if len(shape) != 4 or shape[1] != 3 or scale not in (2, 3, 4) or not blocks:
        return None
    mean = RGB_MEAN
    if "sub_mean.bias" in state_dict:  # of the picture in [0, 255], negative
        red, green, blue = (-state_dict["sub_mean.bias"] / RANGE).tolist()
        mean = (red, green, blue)
    model = EDSR(shape[0], max(blocks) + 1, scale, mean)
    expected = {key: value.shape for key, value in model.state_dict().items()}
    if expected != {key: value.shape for key, value in named.items()}:
        return None
    model.load_state_dict(named, strict=True)
    return model.eval().requires_grad_(False)


_AUTHORS = (
    (r"head\.0\.(\w+)", r"first.\1"),
    (r"body\.(\d+)\.body\.([02])\.(\w+)", r"blocks.\1.\2.\3"),
    (r"body\.\d+\.(weight|bias)", r"after.\1"),
    (r"tail\.0\.(\d+)\.(\w+)", r"upsample.\1.\2"),
    (r"tail\.1\.(\w+)", r"last.\1"),
)
_BASICSR = (
    (r"conv_first\.(\w+)", r"first.\1"),
    (r"body\.(\d+)\.conv1\.(\w+)", r"blocks.\1.0.\2"),
    (r"body\.(\d+)\.conv2\.(\w+)", r"blocks.\1.2.\2"),
    (r"conv_after_body\.(\w+)", r"after.\1"),
    (r"upsample\.(\d+)\.(\w+)", r"upsample.\1.\2"),
    (r"conv_last\.(\w+)", r"last.\1"),
)


def _renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """To the names of :class:`EDSR`; None if a name belongs to neither layout."""
    for layout in (_AUTHORS, _BASICSR):
        named = {}
        for key, value in state_dict.items():
            if key.startswith(("sub_mean.", "add_mean.")):
                continue
            for pattern, replacement in layout:
                if re.fullmatch(pattern, key):
                    named[re.sub(pattern, replacement, key)] = value
                    break
            else:
                break
        else:
            return named
    return None
