"""Sizes that no whole scale gives."""

from __future__ import annotations

from fractions import Fraction

from hatvid.options import SizeOptions

__all__ = ["aspect_after", "target_size"]


def target_size(
    width: int, height: int, scale: int, size: SizeOptions, *, even: bool = True
) -> tuple[int, int]:
    """(width, height) of the output.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        scale: taken where ``size`` asks for nothing.
        size: what was asked for; the side that is open follows the input's aspect,
            rounded.
        even: to an even number, which every chroma subsampling holds.
    """
    if size.width is not None and size.height is not None:
        return size.width, size.height
    if size.height is not None:
        return _nearest(Fraction(size.height * width, height), even), size.height
    if size.width is not None:
        return size.width, _nearest(Fraction(size.width * height, width), even)
    return width * scale, height * scale


def aspect_after(
    sample_aspect_ratio: Fraction | None, before: tuple[int, int], after: tuple[int, int]
) -> Fraction | None:
    """The sample aspect ratio that keeps the shape of the picture on the screen.

    Args:
        sample_aspect_ratio: of the input; None where it does not say, which means square.
        before: (width, height) of the input.
        after: (width, height) of the output.
    """
    if before[0] * after[1] == before[1] * after[0]:
        return sample_aspect_ratio
    return (sample_aspect_ratio or 1) * Fraction(before[0] * after[1], before[1] * after[0])


def _nearest(side: Fraction, even: bool) -> int:
    return max(2, 2 * round(side / 2)) if even else max(1, round(side))
