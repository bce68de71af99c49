"""The picture that ranges are measured on when none is given.

Which powers of two the 16-bit precisions use must not hang on what a video happens to
begin with, so hatvid brings a picture of its own: four crops of a film, with dark and
bright parts, fine texture, smooth sky and saturated colours.
"""

from __future__ import annotations

import importlib.resources

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hatvid.errors import CheckpointError

__all__ = ["calibration_picture"]

SHAPE = (1, 3, 128, 128)


def calibration_picture() -> Tensor:
    """The embedded picture.

    Returns:
        (1, 3, 128, 128) float32, RGB in [0, 1], multiples of 1/255.

    Raises:
        CheckpointError: the file in the package cannot be read.
    """
    file = importlib.resources.files("hatvid.model") / "weights" / "calibration.safetensors"
    try:
        picture = safetensors.torch.load(file.read_bytes())["picture"]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"the embedded picture {file} cannot be read ({error}); install hatvid again"
        ) from error
    if picture.shape != SHAPE or picture.dtype != torch.uint8:
        raise CheckpointError(
            f"the embedded picture {file} is not the one that was shipped; install hatvid again"
        )
    return picture.float() / 255
