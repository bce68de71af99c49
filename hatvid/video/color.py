"""Planes to RGB and back: matrix, range, depth, chroma subsampling and location.

The formulas are those of Recommendation ITU-T H.273 (code points for video), the
resampling is separable bicubic (Catmull-Rom), antialiased on the way down. All of
it is fp32 whatever the network computes in, on the device where the planes lie, and
RGB is never clamped: only the last step, quantisation, cuts to the legal codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hatvid.errors import InputError
from hatvid.options import ColorOptions
from hatvid.video.chroma import Subsampling, enlarge
from hatvid.video.convert import PlaneLayout

__all__ = [
    "ColorTags",
    "alpha_to_rgb",
    "assumed",
    "matrix_name",
    "planes_to_rgb",
    "retagged",
    "rgb_to_alpha",
    "rgb_to_planes",
    "with_edge_repeated",
]

UNSPECIFIED = 2
_YCGCO = 8

# H.273 table 4, MatrixCoefficients: (name, KR, KB).
_LUMA_MATRICES = {
    1: ("bt709", 0.2126, 0.0722),
    4: ("fcc", 0.30, 0.11),
    5: ("bt470bg", 0.299, 0.114),
    6: ("smpte170m", 0.299, 0.114),
    7: ("smpte240m", 0.212, 0.087),
    9: ("bt2020nc", 0.2627, 0.0593),
}
_OTHER_MATRICES = {
    0: "gbr",
    2: "unspecified",
    _YCGCO: "ycgco",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
    15: "ipt-c2",
    16: "ycgco-re",
    17: "ycgco-ro",
}

# H.273 ChromaLocType as FFmpeg numbers it: where a chroma sample lies between the
# first (0) and the last (1) of the luma samples that it covers, across and down.
_CHROMA_OFFSETS = {
    1: ("left", 0.0, 0.5),
    2: ("center", 0.5, 0.5),
    3: ("topleft", 0.0, 0.0),
    4: ("top", 0.5, 0.0),
    5: ("bottomleft", 0.0, 1.0),
    6: ("bottom", 0.5, 1.0),
}
_LEFT = 1


@dataclass(frozen=True, kw_only=True)
class ColorTags:
    """What a stream says of its colours, as H.273 code points (FFmpeg's numbers).

    Args:
        matrix: MatrixCoefficients; 2 is unspecified.
        full_range: None where the stream does not say.
        primaries: ColourPrimaries; carried, not computed with.
        transfer: TransferCharacteristics; carried, not computed with.
        chroma_location: FFmpeg's AVChromaLocation; 0 is unspecified.
    """

    matrix: int = UNSPECIFIED
    full_range: bool | None = None
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    chroma_location: int = 0

    def overruled_by(self, given: ColorOptions) -> ColorTags:
        """The same, with what is given in place of what is said."""
        return replace(self, **{k: code for k, code in vars(given).items() if code is not None})

    def describe(self) -> str:
        """``bt709 limited``, as it is shown to a person."""
        name = matrix_name(self.matrix)
        extent = {None: "unspecified", True: "full", False: "limited"}[self.full_range]
        return f"{name} {extent}"


def matrix_name(matrix: int) -> str:
    """FFmpeg's name of a matrix code point."""
    if matrix in _LUMA_MATRICES:
        return _LUMA_MATRICES[matrix][0]
    return _OTHER_MATRICES.get(matrix, f"matrix {matrix}")


def assumed(tags: ColorTags, layout: PlaneLayout, height: int, width: int) -> ColorTags:
    """Fill in what the tags leave open, so that input and output agree on it.

    Untagged YUV is BT.709 when it is at least 1280 wide or more than 576 high, else
    BT.601 (the 525-line code point up to 480 lines, else the 625-line one); an
    untagged range is limited, or full for RGB.

    Raises:
        InputError: the matrix is one that hatvid has no formula for.
    """
    if layout.family == "rgb":
        return replace(tags, matrix=0, full_range=tags.full_range is not False, chroma_location=0)
    matrix = tags.matrix
    # RGB's matrix on YUV planes is a wrong tag; nothing could be read by it.
    if matrix in (UNSPECIFIED, 0, 3):
        sd = 6 if height <= 480 else 5
        matrix = 1 if width >= 1280 or height > 576 else sd
    if matrix not in _LUMA_MATRICES and matrix != _YCGCO:
        raise InputError(
            f"colour matrix {matrix_name(matrix)} is not supported; convert the video to BT.2020 "
            "non-constant luminance or BT.709 first"
        )
    location = tags.chroma_location
    if layout.log2_chroma_w == 0 and layout.log2_chroma_h == 0:
        location = 0
    elif location not in _CHROMA_OFFSETS:
        location = _LEFT
    return replace(tags, matrix=matrix, full_range=bool(tags.full_range), chroma_location=location)


def retagged(
    tags: ColorTags, source: PlaneLayout, target: PlaneLayout, height: int, width: int
) -> ColorTags:
    """The tags of pictures that are converted from one layout to another.

    Args:
        tags: of the source, as :func:`assumed` gives them.
        source: layout that they belong to.
        target: layout of the output.
        height: of the output.
        width: of the output.

    Returns:
        The same where they can be; between RGB and YUV a new matrix and range, as
        :func:`assumed` chooses them.
    """
    if "rgb" in (source.family, target.family) and source.family != target.family:
        # RGB's identity matrix is no matrix for YUV, nor the other way round.
        tags = replace(tags, matrix=UNSPECIFIED, full_range=None)
    return assumed(tags, target, height, width)


def planes_to_rgb(planes: Sequence[Tensor], layout: PlaneLayout, tags: ColorTags) -> Tensor:
    """Decode sample planes to RGB (H.273 section 8.3, inverted).

    Args:
        planes: one (N, h, w) tensor a component, of integer codes in any dtype. Alpha
            is not looked at: see :func:`alpha_to_rgb`.
        layout: of the planes.
        tags: as :func:`assumed` gives them.

    Returns:
        (N, 3, H, W) float32, nominally in [0, 1], NOT clamped: codes outside the
        legal range, and YUV outside the RGB cube, stay outside.
    """
    colours = planes[:-1] if layout.alpha else planes
    parts = [plane.to(torch.float32).unsqueeze(1) for plane in colours]
    full = bool(tags.full_range)
    if layout.family == "rgb":
        return torch.cat([_luma_from_codes(part, layout.depth, full) for part in parts], 1)
    luma = _luma_from_codes(parts[0], layout.depth, full)
    if layout.family == "gray":
        return luma.expand(-1, 3, -1, -1).contiguous()
    height, width = luma.shape[-2:]
    _, right, below = _CHROMA_OFFSETS.get(tags.chroma_location, ("none", 0.0, 0.0))
    chroma = _chroma_from_codes(torch.cat(parts[1:], 1), layout.depth, full, tags.matrix)
    chroma = enlarge(chroma, 1 << layout.log2_chroma_h, below, height, vertical=True)
    chroma = enlarge(chroma, 1 << layout.log2_chroma_w, right, width, vertical=False)
    return _apply(_inverse_values(tags.matrix), torch.cat([luma, chroma], 1))


def rgb_to_planes(rgb: Tensor, layout: PlaneLayout, tags: ColorTags) -> tuple[Tensor, ...]:
    """Encode RGB into sample planes (H.273 section 8.3), quantised at the very end.

    Args:
        rgb: (N, 3, H, W) float32, nominally in [0, 1], unclamped.
        layout: of the planes to make.
        tags: as :func:`assumed` gives them.

    Returns:
        One (N, h, w) tensor a component, of ``layout.dtype``, rounded to nearest
        and cut to [0, 2^depth - 1]. A value that is not a number becomes 0. Alpha is
        not among them: see :func:`rgb_to_alpha`.
    """
    full = bool(tags.full_range)
    depth = layout.depth
    if layout.family == "rgb":
        codes = _luma_to_codes(rgb, depth, full)
        return tuple(_quantised(codes[:, i], layout) for i in range(3))
    # Large frames are written as seldom as can be: chroma is scaled when it has been made
    # smaller, and what has a tensor of its own is changed in place. Memory that is asked for
    # anew with each step costs more than the arithmetic.
    luma, differences = _matrix(tags.matrix)
    factor, black = _luma_range(depth, full)
    bright = _weighted(luma, rgb.unbind(1))
    if layout.family == "gray":
        return (_quantised(bright.mul_(factor).add_(black), layout),)
    _, right, below = _CHROMA_OFFSETS.get(tags.chroma_location, ("none", 0.0, 0.0))
    subsampling = Subsampling(
        (1 << layout.log2_chroma_h, below), (1 << layout.log2_chroma_w, right)
    )
    batch, _, height, width = rgb.shape
    room = subsampling.room(rgb, (batch, 2, height, width))
    sources = (*rgb.unbind(1), bright)
    for plane, (of, less, _) in zip(room.inside.unbind(1), differences, strict=True):
        torch.sub(sources[of], sources[less], out=plane)
    extent, middle = _chroma_range(depth, full, tags.matrix)
    chroma = subsampling.reduced(room)
    for plane, (_, _, weight) in zip(chroma.unbind(1), differences, strict=True):
        plane.mul_(weight * extent).add_(middle)
    codes = _quantised(chroma, layout)
    return (_quantised(bright.mul_(factor).add_(black), layout), codes[:, 0], codes[:, 1])


def alpha_to_rgb(planes: Sequence[Tensor], layout: PlaneLayout) -> Tensor:
    """Decode the alpha plane to gray, to be upscaled as a picture beside the colours.

    Args:
        planes: one (N, h, w) tensor a component, alpha last.
        layout: of the planes, with alpha.

    Returns:
        (N, 3, H, W) float32 in [0, 1]: 0 is transparent, all codes count.
    """
    alpha = planes[-1].to(torch.float32).unsqueeze(1)
    return _luma_from_codes(alpha, layout.depth, full=True).expand(-1, 3, -1, -1).contiguous()


def rgb_to_alpha(rgb: Tensor, layout: PlaneLayout) -> Tensor:
    """Encode an upscaled alpha picture, the inverse of :func:`alpha_to_rgb`.

    Args:
        rgb: (N, 3, H, W) float32; the three channels are averaged.
        layout: of the planes to make.

    Returns:
        (N, H, W) tensor of ``layout.dtype``, to stand behind the planes of
        :func:`rgb_to_planes`.
    """
    return _quantised(_luma_to_codes(rgb.mean(1), layout.depth, full=True), layout)


def with_edge_repeated(pictures: Tensor, height: int, width: int) -> Tensor:
    """Enlarge pictures to a size by repeating their last row and column.

    Args:
        pictures: (N, C, H, W) float32, neither higher nor wider than the size.
        height: of the result.
        width: of the result.

    Returns:
        (N, C, height, width); ``pictures`` itself if it has that size.
    """
    if pictures.shape[-2:] == (height, width):
        return pictures
    beyond = (0, width - pictures.shape[-1], 0, height - pictures.shape[-2])
    return torch.nn.functional.pad(pictures, beyond, mode="replicate")


# Range and depth: H.273 equations 20 to 25 (limited) and 26 to 31 (full).


def _luma_range(depth: int, full: bool) -> tuple[float, float]:
    """Codes between black and white, and the code of black."""
    if full:
        return 2.0**depth - 1, 0.0
    unit = 2.0 ** (depth - 8)
    return 219 * unit, 16 * unit


def _chroma_range(depth: int, full: bool, matrix: int) -> tuple[float, float]:
    """Codes between chroma of -1/2 and of 1/2, and the code of gray."""
    middle = 2.0 ** (depth - 1)
    if full:
        return 2.0**depth - 1, middle
    # YCgCo is computed from RGB that is quantised already, and takes over its 219 steps.
    return (219 if matrix == _YCGCO else 224) * 2.0 ** (depth - 8), middle


def _luma_from_codes(codes: Tensor, depth: int, full: bool) -> Tensor:
    factor, black = _luma_range(depth, full)
    return (codes - black) / factor


def _luma_to_codes(value: Tensor, depth: int, full: bool) -> Tensor:
    factor, black = _luma_range(depth, full)
    return (value * factor).add_(black)


def _chroma_from_codes(codes: Tensor, depth: int, full: bool, matrix: int) -> Tensor:
    extent, middle = _chroma_range(depth, full, matrix)
    return (codes - middle) / extent


def _quantised(codes: Tensor, layout: PlaneLayout) -> Tensor:
    """Integers of the layout's dtype; ``codes`` are overwritten."""
    codes = codes.round_().nan_to_num_(nan=0.0).clamp_(0, 2**layout.depth - 1)
    if layout.dtype == torch.uint8:
        return codes.to(torch.uint8)
    # uint16 has few operators; int32 on the way keeps every backend happy.
    return codes.to(torch.int32).to(layout.dtype)


_Row = tuple[float, float, float]
_LUMA = 3


@lru_cache(maxsize=16)
def _matrix(matrix: int) -> tuple[_Row, tuple[tuple[int, int, float], ...]]:
    """RGB to YUV, H.273 equations 38 to 40: luma's weights of R, G and B, and each chroma as
    a difference, of what (R, G, B or luma, by number), less what, times what."""
    if matrix == _YCGCO:  # equations 44 to 46; the planes are Y, Cg = G - Y, Co = (R - B) / 2
        return (0.25, 0.5, 0.25), ((1, _LUMA, 1.0), (0, 2, 0.5))
    _, kr, kb = _LUMA_MATRICES[matrix]
    blue, red = (2, _LUMA, 0.5 / (1 - kb)), (0, _LUMA, 0.5 / (1 - kr))
    return (kr, 1 - kr - kb, kb), (blue, red)


@lru_cache(maxsize=16)
def _inverse_values(matrix: int) -> tuple[_Row, _Row, _Row]:
    """YUV to RGB."""
    luma, differences = _matrix(matrix)
    sources = np.vstack([np.eye(3), luma])
    chroma = [(sources[of] - sources[less]) * weight for of, less, weight in differences]
    inverse = np.linalg.inv(np.vstack([luma, *chroma]))
    first, second, third = inverse.tolist()
    return (tuple(first), tuple(second), tuple(third))


def _apply(rows: Sequence[_Row], channels: Tensor) -> Tensor:
    parts = channels.unbind(1)
    batch, _, height, width = channels.shape
    mixed = channels.new_empty((batch, len(rows), height, width))
    for out, row in zip(mixed.unbind(1), rows, strict=True):
        _weighted(row, parts, out)
    return mixed


def _weighted(row: _Row, parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    # By hand, not by a matrix product: a product may run in TF32 or bf16 by a
    # setting of the process, and colour is fp32 whatever the network computes in.
    (first, second, third), (a, b, c) = parts, row
    return torch.mul(first, a, out=out).add_(second, alpha=b).add_(third, alpha=c)
