"""What a recipe may say of how small pictures are made; :mod:`hatvid.research.degrade` does it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "Bicubic",
    "Blur",
    "Chance",
    "Degradation",
    "Jpeg",
    "Noise",
    "RecipePart",
    "X264",
]

Chance = Annotated[float, Field(ge=0, le=1)]

Span = tuple[float, float]
"""Lower and upper end; each patch draws a value between them."""


class RecipePart(BaseModel):
    """What all parts of a recipe share: names that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def _between(self, name: str, least: float, most: float) -> Self:
        """See that a span lies where it may."""
        low, high = getattr(self, name)
        if not least <= low <= high <= most:
            raise ValueError(f"{name} is two numbers from {least} to {most}, the smaller one first")
        return self


class Bicubic(RecipePart):
    """MATLAB's antialiased imresize, by the task's scale."""

    kind: Literal["bicubic"]


class Blur(RecipePart):
    """A Gaussian, of a deviation in pixels."""

    kind: Literal["blur"]
    sigma: Span
    chance: Chance = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        return self._between("sigma", 0, 8)


class Noise(RecipePart):
    """Gaussian noise of a deviation in steps of 8 bits."""

    kind: Literal["noise"]
    sigma: Span
    gray: Chance = 0.0
    """How often the noise is the same in the three channels."""

    chance: Chance = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        return self._between("sigma", 0, 255)


class Jpeg(RecipePart):
    """Written and read as JPEG with a quality of 1 to 100."""

    kind: Literal["jpeg"]
    quality: tuple[int, int]
    chance: Chance = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        return self._between("quality", 1, 100)


class X264(RecipePart):
    """Encoded by x264, as a frame among others that pan over the picture."""

    kind: Literal["x264"]
    crf: tuple[int, int]
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "veryfast"
    frames: Annotated[int, Field(ge=1, le=16)] = 4
    """Of the clip that is encoded for each patch, one of which is taken."""

    chance: Chance = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        return self._between("crf", 0, 51)


Degradation = Annotated[Bicubic | Blur | Noise | Jpeg | X264, Field(discriminator="kind")]
