"""Measure what happens inside a HAT, and how near its 16-bit forms come to fp32."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hatvid.engine.fidelity import Fidelity, compare
from hatvid.errors import CheckpointError
from hatvid.model.calibration import calibration_picture
from hatvid.model.hat import HAT
from hatvid.model.precision import RescalePlan, lower_precision, plan_rescale
from hatvid.model.ranges import Ranges, measure_ranges
from hatvid.model.tail import collapse_tail
from hatvid.model.zoo import load_model
from hatvid.video.stills import read_picture

__all__ = ["ModelCheck", "check_model"]

MARGIN = 8.0
"""How often a peak that nothing divides must fit into fp16's range to be called safe: as
often as those that are divided do."""


@dataclass(frozen=True, kw_only=True)
class ModelCheck:
    """What :func:`check_model` found.

    Args:
        model: its name, or its file's path.
        picture: the picture's path; None for the embedded one.
        width: of what was run, in pixels.
        height: likewise.
        ranges: on that picture.
        plan: as the engines make it: by the embedded picture, whichever was run.
        fp16: rescaled, against fp32.
        bf16: against fp32.
        fp16_plain: fp16 without rescaling, against fp32.
    """

    model: str
    picture: Path | None
    width: int
    height: int
    ranges: Ranges
    plan: RescalePlan
    fp16: Fidelity
    bf16: Fidelity
    fp16_plain: Fidelity

    @property
    def safe(self) -> tuple[str, ...]:
        """The precisions whose output is that of fp32 for any purpose, the fastest first."""
        fp16 = self.fp16.sufficient and self._least_margin() >= MARGIN
        bf16 = self.bf16.sufficient
        return ("fp16",) * fp16 + ("bf16",) * bf16 + ("fp32",)

    @property
    def verdict(self) -> str:
        """One line."""
        said = f"safe: {', '.join(self.safe)}"
        if not self.fp16.sufficient:
            return f"{said}; fp16 is too far from fp32"
        if self._least_margin() < MARGIN:
            uncovered = self._seen().uncovered
            name = max(uncovered, key=lambda key: uncovered[key])
            return (
                f"{said}; in fp16 {name} may run out of range: it reaches "
                f"{uncovered[name]:.3g} of 65504, and nothing divides it"
            )
        return said

    def _seen(self) -> RescalePlan:
        """The plan, with what this picture's ranges leave uncovered."""
        return replace(self.plan, ranges=self.ranges)

    def _least_margin(self) -> float:
        return min(self.plan.margin, self._seen().margin)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON. An SNR is None if a sample is no number."""
        return {
            "model": self.model,
            "picture": None if self.picture is None else str(self.picture),
            "width": self.width,
            "height": self.height,
            "ranges": asdict(self.ranges),
            "s": list(self.plan.s),
            "t": [list(group) for group in self.plan.t],
            "subnormal": self.plan.subnormal,
            "residual_fp32": self.plan.residual_fp32,
            "uncovered": self._seen().uncovered,
            "margin": self._least_margin(),
            "fp16": _plain(self.fp16),
            "bf16": _plain(self.bf16),
            "fp16_plain": _plain(self.fp16_plain),
            "safe": list(self.safe),
            "verdict": self.verdict,
        }


def check_model(name_or_path: str, picture: Path | None = None, *, crop: int = 128) -> ModelCheck:
    """Run a HAT over a picture in fp32, fp16 and bf16, on the CPU.

    Args:
        name_or_path: a known name, or the path of a checkpoint.
        picture: PNG, JPEG or WebP; None takes the embedded one.
        crop: pixels along a side of what is cut from its middle.

    Raises:
        CheckpointError: it cannot be read, is no HAT, or runs out of fp32's range.
        InputError: the picture cannot be read.
    """
    embedded = calibration_picture()
    pixels = embedded if picture is None else read_picture(picture).rgb[None]
    pixels = _middle(pixels, crop)
    model: nn.Module = load_model(name_or_path)
    if not isinstance(model, HAT):
        raise CheckpointError(f"{name_or_path} is no HAT; only a HAT can be checked")
    model = collapse_tail(model)  # as engines are given it
    plan = plan_rescale(model, embedded)
    ranges = plan.ranges if pixels is embedded else measure_ranges(model, pixels)
    plain = replace(
        plan,
        s=tuple(1.0 for _ in plan.s),
        t=tuple(tuple(1.0 for _ in group) for group in plan.t),
        residual_fp32=False,
    )
    forms = {
        "fp16": (torch.float16, plan),
        "bf16": (torch.bfloat16, plan),
        "fp16_plain": (torch.float16, plain),
    }
    with torch.inference_mode():
        reference = model(pixels)
        found = {
            name: compare(reference, lower_precision(model, dtype, by)(pixels))
            for name, (dtype, by) in forms.items()
        }
    return ModelCheck(
        model=name_or_path,
        picture=picture,
        width=pixels.shape[3],
        height=pixels.shape[2],
        ranges=ranges,
        plan=plan,
        **found,
    )


def _middle(pixels: Tensor, crop: int) -> Tensor:
    """As much as there is of crop x crop pixels in the middle; all of it unchanged."""
    height, width = pixels.shape[2:]
    top, left = max(height - crop, 0) // 2, max(width - crop, 0) // 2
    if not (top or left) and max(height, width) <= crop:
        return pixels
    return pixels[:, :, top : top + crop, left : left + crop]


def _plain(fidelity: Fidelity) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None for name, value in asdict(fidelity).items()
    }
