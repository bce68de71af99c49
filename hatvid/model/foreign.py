"""Networks that are no HAT: named, and run as they are, most of them through spandrel.

The file is read by hatvid's own reader, which runs nothing in it; spandrel (an extra)
recognises the architecture by the names of its tensors and builds it. EDSR, which it does
not have, is here (:mod:`hatvid.model.edsr`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hatvid.errors import CheckpointError
from hatvid.model.checkpoint import build_hat, read_state_dict
from hatvid.model.edsr import EDSR, edsr_from_state_dict
from hatvid.model.hat import HAT, reflection_index

__all__ = ["ForeignModel", "load_network"]

SCALES = (2, 3, 4)

MARKS = (
    ("HAT", ("layers.0.residual_group.overlap_attn.relative_position_bias_table",)),
    ("HAT", ("layers.0.residual_group.blocks.0.attn.qkv.weight", "relative_position_index_SA")),
    ("Swin2SR", ("layers.0.residual_group.blocks.0.attn.logit_scale",)),
    ("DAT", ("layers.0.blocks.0.attn.attns.0.rpe_biases",)),
    ("SwinIR", ("layers.0.residual_group.blocks.0.attn.relative_position_bias_table",)),
    ("ESRGAN", ("conv_body.weight", "body.0.rdb1.conv1.weight")),
    ("ESRGAN", ("model.1.sub.0.RDB1.conv1.0.weight",)),
    ("RCAN", ("body.0.body.0.body.3.conv_du.0.weight",)),
    ("Real-ESRGAN compact", ("body.0.weight", "body.1.weight", "body.2.weight")),
)
"""By which of its tensors a network is known where spandrel is not installed; the first
whose names are all there."""


class ForeignModel(nn.Module):
    """A super-resolution network of another architecture, ready to run.

    Inputs are padded right and bottom by reflection to what the network takes, and
    outputs are cropped, as spandrel does it; they are not clamped, as spandrel does.

    Args:
        descriptor: spandrel's ``ImageModelDescriptor``.

    Attributes:
        architecture: its name.
        scale: s, output pixels an input pixel along each axis.
        grid: what the network takes heights and widths in multiples of.
    """

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        needs = descriptor.size_requirements
        self.architecture: str = descriptor.architecture.name
        self.scale: int = descriptor.scale
        self.grid: int = needs.multiple_of
        self._minimum: int = needs.minimum
        self._square: bool = needs.square
        self.network: nn.Module = descriptor.model
        # Some networks return more than a picture; spandrel knows which.
        self._call: Callable[[nn.Module, Tensor], Tensor] = descriptor._call_fn

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float in [0, 1], RGB -> (N, 3, sH, sW), not clamped."""
        height, width = int(x.shape[2]), int(x.shape[3])
        tall, wide = self._padded(height, width)
        if tall > height:
            x = x.index_select(2, reflection_index(height, tall).to(x.device))
        if wide > width:
            x = x.index_select(3, reflection_index(width, wide).to(x.device))
        # Some write into their input.
        x = self._call(self.network, x.clone())
        return x[:, :, : height * self.scale, : width * self.scale]

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        tall, wide = (
            -(-max(size, self._minimum) // self.grid) * self.grid for size in (height, width)
        )
        return (max(tall, wide),) * 2 if self._square else (tall, wide)


def load_network(
    path: str | os.PathLike[str], *, conv_scale: float | None = None
) -> HAT | ForeignModel | EDSR:
    """Build the network that a checkpoint file holds.

    Args:
        path: as for :func:`~hatvid.model.checkpoint.read_state_dict`.
        conv_scale: of a HAT; as for :func:`~hatvid.model.checkpoint.load_checkpoint`.

    Returns:
        A HAT, or with spandrel a network of another architecture; in float32 on the CPU,
        in eval mode, its parameters without gradients.

    Raises:
        CheckpointError: the file cannot be read or trusted, or holds no network that
            makes larger RGB pictures of RGB pictures.
    """
    state_dict = read_state_dict(path)
    looks_like = _recognised(state_dict)
    if looks_like == "HAT":
        return build_hat(path, state_dict, conv_scale=conv_scale)
    if (edsr := edsr_from_state_dict(state_dict)) is not None:
        return edsr
    try:
        import spandrel
    except ImportError:
        if looks_like is None:
            return build_hat(path, state_dict, conv_scale=conv_scale)  # which says what is missing
        raise CheckpointError(
            f"{path} is no HAT but looks like {looks_like}; to run it: "
            "pip install 'hatvid[spandrel]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the copies of research code
            found = spandrel.ModelLoader().load_from_state_dict(dict(state_dict))
    except spandrel.UnsupportedModelError:
        if looks_like is None:
            return build_hat(path, state_dict, conv_scale=conv_scale)  # which says what is missing
        raise CheckpointError(
            f"{path} looks like {looks_like}, but of a kind that spandrel does not know; give "
            "another checkpoint"
        ) from None
    except Exception as error:  # spandrel's builders let through what they meet
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        kind = looks_like or "a network that spandrel knows"
        raise CheckpointError(
            f"{path} looks like {kind}, but cannot be built ({first}); download it again"
        ) from error
    _check_purpose(path, found)
    return ForeignModel(found).eval().requires_grad_(False)


def _recognised(state_dict: Mapping[str, Tensor]) -> str | None:
    for name, keys in MARKS:
        if all(key in state_dict for key in keys):
            return name
    return None


def _check_purpose(path: str | os.PathLike[str], found: Any) -> None:
    name = found.architecture.name
    purpose = getattr(found, "purpose", None)
    if purpose != "SR":
        raise CheckpointError(
            f"{path} is {name} for {purpose}, which makes no larger pictures; give a network "
            "for super-resolution"
        )
    if (found.input_channels, found.output_channels) != (3, 3):
        raise CheckpointError(
            f"{path} is {name} with {found.input_channels} channels in and "
            f"{found.output_channels} out; give one for RGB (3 and 3)"
        )
    if found.scale not in SCALES:
        raise CheckpointError(
            f"{path} is {name} that upscales by {found.scale}; give one of scale 2, 3 or 4"
        )
    if any(not torch.is_floating_point(p) for p in found.model.parameters()):
        raise CheckpointError(f"{path} is {name} in whole numbers; give unquantised weights")
