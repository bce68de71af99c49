"""Videos as what is measured: the luma of each frame, and some frames as pictures."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hatvid.errors import InputError
from hatvid.options import ColorOptions
from hatvid.resampling import resample
from hatvid.research.metrics import Luma
from hatvid.video.color import ColorTags, assumed, planes_to_rgb, rgb_to_planes
from hatvid.video.compare import decoded
from hatvid.video.convert import PlaneLayout, frame_to_planes
from hatvid.video.declared import frame_tags
from hatvid.video.opening import choose_video, is_pipe, open_input

__all__ = ["Frame", "Video", "resized"]

_GRAY = PlaneLayout(pix_fmt="gray16le", family="gray", depth=16, plane_order=(0,))
_RGB, _BT709 = 0, 1


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame.

    Args:
        seconds: after the first frame; None where the file gives no time.
        luma: (H, W), of 16 for black to 235 for white, not rounded where the video has
            more than 8 bits.
    """

    seconds: float | None
    luma: Luma


class Video:
    """A video to measure; read anew each time that it is gone through.

    Frames that cannot be decoded are missing. Of several video streams the first counts
    that an upscale would take; rotation is not applied.

    Args:
        path: of a file.

    Raises:
        InputError: it cannot be read, or no frame of it can be decoded.
        OptionError: there are several video streams.
    """

    def __init__(self, path: Path) -> None:
        if is_pipe(path):
            raise InputError(f"{path} is a pipe, and videos are read twice; name a file")
        self.path = path
        with open_input(path) as container:
            self._stream = choose_video(container, path).index
        with closing(self._decoded()) as frames:
            first = next(frames, None)
        if first is None:
            raise InputError(f"{path}: no frame can be decoded; is the file whole?")
        self.height, self.width = first.height, first.width
        layout, _ = frame_to_planes(first)
        self.matrix = self._tags(first, layout).matrix
        """As H.273 counts them; 0 for RGB."""

    def frames(self, matrix: int) -> Iterator[Frame]:
        """All frames, in order of presentation.

        Args:
            matrix: by which luma is meant; frames of another, and RGB, are converted.

        Raises:
            InputError: the size changes, or the matrix is not supported.
        """
        begun: Fraction | None = None
        with closing(self._decoded()) as frames:
            for frame in frames:
                if (frame.height, frame.width) != (self.height, self.width):
                    raise InputError(
                        f"{self.path}: the picture size changes from {self.width}x{self.height} "
                        f"to {frame.width}x{frame.height}; compare the parts one by one"
                    )
                stamp = frame.pts if frame.pts is not None else frame.dts
                base = frame.time_base
                seconds = None
                if stamp is not None and base is not None:
                    now = stamp * Fraction(base.numerator, base.denominator)
                    begun = now if begun is None else begun
                    seconds = float(now - begun)
                yield Frame(seconds=seconds, luma=self._luma(frame, matrix))

    def pictures(self, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Some frames, each (1, 3, H, W) RGB in [0, 1]; those that are there."""
        found: dict[int, Tensor] = {}
        last = max(numbers, default=-1)
        with closing(self._decoded()) as frames:
            for number, frame in zip(range(last + 1), frames, strict=False):
                if number in numbers:
                    found[number] = self._rgb(frame).clamp(0, 1)
        return found

    def _decoded(self) -> Generator[av.VideoFrame]:
        yield from decoded(self.path, self._stream, None)

    def _tags(self, frame: av.VideoFrame, layout: PlaneLayout) -> ColorTags:
        return assumed(frame_tags(frame, ColorOptions()), layout, frame.height, frame.width)

    def _rgb(self, frame: av.VideoFrame) -> Tensor:
        layout, planes = frame_to_planes(frame)
        return planes_to_rgb([plane[None] for plane in planes], layout, self._tags(frame, layout))

    def _luma(self, frame: av.VideoFrame, matrix: int) -> Luma:
        layout, planes = frame_to_planes(frame)
        tags = self._tags(frame, layout)
        if layout.family != "gray" and tags.matrix != matrix:
            wanted = matrix if matrix != _RGB else _BT709
            gray = replace(tags, matrix=wanted, full_range=True)
            (light,) = rgb_to_planes(self._rgb(frame), _GRAY, gray)
            return _array(light[0]) / 65535 * 219 + 16
        unit = 2.0 ** (layout.depth - 8)
        codes = _array(planes[0])
        if tags.full_range:
            return codes / (2.0**layout.depth - 1) * 219 + 16
        return codes / unit


def resized(luma: Luma, height: int, width: int) -> Luma:
    """Bicubic, antialiased on the way down; of that size already, it stays as it is."""
    if luma.shape == (height, width):
        return luma
    return resample(torch.from_numpy(luma)[None, None], height, width)[0, 0].numpy()


def _array(codes: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = codes.numpy().astype(np.float64)
    return array
