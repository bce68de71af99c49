"""MATLAB's ``imresize`` for pictures of 8 bits, to the last bit.

Tables of super-resolution are made with it: it makes the small pictures, and the row
"bicubic" beside the networks. What tells it from other resizing: on the way down the
kernel is widened, so that nothing aliases; the vertical pass comes first; and what lies
between the passes is rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Border", "Kernel", "Pixels", "imresize"]

type Pixels = NDArray[np.uint8]
"""(height, width, channels)."""

type _Floats = NDArray[np.float64]

Border = Literal["symmetric", "replicate"]
"""What stands beyond the edge: the picture mirrored, edge included, as MATLAB has it now;
or the edge pixel repeated, as it had when the pictures of the usual benchmarks were made."""

Kernel = Literal["nearest", "bicubic", "lanczos"]


def imresize(
    pixels: Pixels,
    height: int,
    width: int,
    *,
    kernel: Kernel = "bicubic",
    border: Border = "symmetric",
) -> Pixels:
    """Enlarge or reduce a picture.

    Args:
        pixels: (H, W, channels).
        height: of the result, at least 1.
        width: of the result, at least 1.
        kernel: ``bicubic`` is Keys' with a = -1/2, ``lanczos`` the one of three lobes,
            ``nearest`` MATLAB's box, which on the way down is not widened.
        border: see :data:`Border`.

    Returns:
        (height, width, channels), halves rounded up.
    """
    for axis, size in enumerate((height, width)):
        if pixels.shape[axis] != size:
            pixels = _along(pixels, axis, size, kernel, border)
    return pixels


def _along(pixels: Pixels, axis: int, size: int, kernel: Kernel, border: Border) -> Pixels:
    places, weights = _taps(pixels.shape[axis], size, kernel, border)
    lines = np.moveaxis(pixels, axis, 0)
    total = np.zeros((size, *lines.shape[1:]))
    for tap in range(places.shape[1]):
        total += weights[:, tap, None, None] * lines[places[:, tap]]
    rounded = np.floor(total.clip(0, 255) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(rounded, 0, axis))


def _taps(length: int, size: int, kernel: Kernel, border: Border) -> tuple[NDArray[Any], _Floats]:
    """Which places of the input make each place of the output, and how much of each.

    Returns:
        (size, taps) whole numbers in [0, length), and (size, taps) of sum 1 a row.
    """
    value, reach = _KERNELS[kernel]
    step = length / size
    # On the way up, and for the nearest pixel always, the kernel is as it is.
    wider = 1.0 if kernel == "nearest" else max(step, 1.0)
    # In MATLAB's own order of operations (from 1), so that halves fall on the same side.
    at = np.arange(1, size + 1, dtype=np.float64) * step + 0.5 * (1 - step)
    first = np.floor(at - reach * wider)
    places = first[:, None] + np.arange(np.ceil(2 * reach * wider) + 2, dtype=np.float64)
    weights = value((at[:, None] - places) / wider)
    weights /= weights.sum(1, keepdims=True)
    index = places.astype(np.int64) - 1
    if border == "replicate":
        index = index.clip(0, length - 1)
    else:
        index %= 2 * length
        index = np.minimum(index, 2 * length - 1 - index)
    used = (weights != 0).any(0)
    return index[:, used], weights[:, used]


def _box(x: _Floats) -> _Floats:
    return ((x >= -0.5) & (x < 0.5)).astype(np.float64)


def _cubic(x: _Floats) -> _Floats:
    x = np.abs(x)
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))


def _lanczos(x: _Floats) -> _Floats:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


_KERNELS: dict[Kernel, tuple[Callable[[_Floats], _Floats], float]] = {
    "nearest": (_box, 0.5),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
