"""The frames of two files, decoded for their own sake and held against each other.

Written for proofs: decoding, counting and measuring here share nothing with the way of
a frame through a job but the copying of samples out of a decoded frame.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import torch
import torch.nn.functional as F
from torch import Tensor

from hatvid.options import InputOptions
from hatvid.video.color import ColorTags, planes_to_rgb, rgb_to_planes
from hatvid.video.convert import PlaneLayout, frame_to_planes
from hatvid.video.inventory import NO_PTS, open_file, read_packets

__all__ = ["Likeness", "Presented", "decoded", "likenesses", "present"]

_REACH = 2
"""How many frames before and after its own an output frame is compared with."""

_BLOCK = 8

type _Promise = tuple[int | None, int | None, bool]
"""pts, dts and whether it is a key frame, of a packet."""

_GRAY = PlaneLayout(pix_fmt="gray16le", family="gray", depth=16, plane_order=(0,))


@dataclass(frozen=True, kw_only=True)
class Presented:
    """The frames that one file presents, in their order.

    Args:
        pts: of each, in ticks; :data:`~hatvid.video.inventory.NO_PTS` where the file
            gives none.
        durations: of each, 0 where the file gives none.
        lost: pts of packets that a decoding error kept from becoming a frame, sorted.
        doubtful: of ``lost``, those that may have promised no frame of their own.
        errors: how often decoding failed.
    """

    pts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    lost: tuple[int, ...] = ()
    doubtful: frozenset[int] = frozenset()
    errors: int = 0


def present(path: Path, stream: int, *, reading: InputOptions | None = None) -> Presented:
    """Decode a whole stream, and say when each frame is shown.

    Raises:
        InputError: the file cannot be read.
    """
    found = Presented()
    promised: list[_Promise] = []
    failed: list[int] = []
    for frame in _frames(path, stream, reading, promised, failed):
        stamp = frame.pts if frame.pts is not None else frame.dts
        found.pts.append(NO_PTS if stamp is None else stamp)
        found.durations.append(frame.duration or 0)
    times = [(pts, key) for pts, _, key in promised if pts is not None]
    if not times:
        # Without pts, as in AVI, frames are shown in the order of decoding times.
        order = sorted(dts for _, dts, _ in promised if dts is not None)
        untimed = [NO_PTS] * len(found.pts)
        found.pts[:] = array("q", order if len(order) == len(found.pts) else untimed)
    lost, doubtful = _lost(times, failed, set(found.pts))
    return replace(found, lost=lost, doubtful=doubtful, errors=len(failed))


def decoded(path: Path, stream: int, reading: InputOptions | None) -> Iterator[av.VideoFrame]:
    """Every frame that can be decoded, in order of presentation.

    Raises:
        InputError: the file cannot be read.
    """
    return _frames(path, stream, reading)


def _frames(
    path: Path,
    stream: int,
    reading: InputOptions | None,
    promised: list[_Promise] | None = None,
    failed: list[int] | None = None,
) -> Iterator[av.VideoFrame]:
    """Decode; note in ``promised`` the packets that should become frames, and in ``failed``
    after how many of them decoding failed."""
    with open_file(path, reading) as container:
        video = container.streams[stream]
        assert isinstance(video, av.VideoStream)
        # An error must come out at the packet that it belongs to.
        video.thread_type = "SLICE"
        context = video.codec_context
        context.flags |= av.codec.context.Flags.output_corrupt
        clock = None if promised is None else video
        packets = read_packets(container, video, clock=clock)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError, ValueError):
                packet = None  # the file ends here
            if promised is not None and packet is not None and not packet.is_discard:
                promised.append((packet.pts, packet.dts, packet.is_keyframe))
            try:
                yield from context.decode(packet)
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, ValueError):
                if failed is not None and promised is not None:
                    failed.append(max(0, len(promised) - 1))
                if packet is None:
                    continue
            if packet is None:
                return


def _lost(
    promised: list[tuple[int, bool]], failed: list[int], shown: set[int]
) -> tuple[tuple[int, ...], frozenset[int]]:
    """Which packets an error kept from becoming a frame.

    A packet may rightly give none (a second field, a leading picture of an open GOP), so
    only those count that follow an error before the next key frame is shown.
    """
    missing = [(n, pts) for n, (pts, _) in enumerate(promised) if pts not in shown]
    if not failed or not missing:
        return (), frozenset()
    broken: set[int] = set()
    for first in failed:
        key = next((n for n in range(first + 1, len(promised)) if promised[n][1]), None)
        until = math.inf if key is None else promised[key][0]
        broken |= {pts for n, pts in missing if n >= first and pts < until}
    begun = next((n for n, (_, key) in enumerate(promised) if key), len(promised))
    early = {pts for n, pts in missing if n < begun}
    ordinary = {pts for _, pts in missing} - broken
    return tuple(sorted(broken)), frozenset(broken if ordinary else broken & early)


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How one output frame, reduced to the source's size, looks beside its source frame.

    Errors are of luma, in steps of which there are 255 from black to white.

    Args:
        pts: of the output frame, as the output file has it.
        number: of its source frame, from 0; None if the output should have no such frame.
        psnr: of luma in dB, peak 255; infinite when equal.
        error: mean squared.
        busy: mean square of what is finer than two pixels in the source: an upper bound
            of the error of a picture that lost all its detail.
        drift: root mean square of what blocks of 8x8 pixels differ by on average.
        nearest: how many frames after its own the nearest of the neighbouring source
            frames lies.
        nearest_error: mean squared, to that one.
        flat: the output shows nothing where the source does.
    """

    pts: int
    number: int | None
    psnr: float = math.inf
    error: float = 0.0
    busy: float = 0.0
    drift: float = 0.0
    nearest: int = 0
    nearest_error: float = math.inf
    flat: bool = False


def likenesses(
    source: tuple[Path, int],
    output: tuple[Path, int],
    shown: Mapping[int, int],
    *,
    tags: tuple[ColorTags, ColorTags],
    reading: InputOptions | None = None,
    fields: bool = False,
    measured: bool = True,
) -> Iterator[Likeness]:
    """Decode two files in step; give one answer for each output frame.

    Args:
        source: a file, and the index of its video stream.
        output: likewise.
        shown: the number of the source frame that belongs to an output pts.
        tags: of the two files.
        fields: the source is interlaced and the output is not: only those lines are
            compared that the output takes over, whichever field that is.
        measured: False only decodes the output.

    Raises:
        InputError: a file cannot be read.
    """
    reference = _Reference(source, reading, tags)
    if measured:
        reference.until(0)
    for frame in decoded(*output, None):
        stamp = frame.pts if frame.pts is not None else frame.dts
        pts = NO_PTS if stamp is None else stamp
        number = shown.get(pts)
        if number is None or not measured:
            yield Likeness(pts=pts, number=number)
            continue
        reference.until(number + _REACH)
        near = {n: luma for n, luma in reference.kept if abs(n - number) <= _REACH}
        if number not in near:
            yield Likeness(pts=pts, number=number)
            continue
        luma = _reduced(_luma(frame, tags[1], tags[0]), near[number])
        yield _compared(pts, number, luma, near, fields=fields)


class _Reference:
    """The last few frames of the source, by number."""

    def __init__(
        self,
        source: tuple[Path, int],
        reading: InputOptions | None,
        tags: tuple[ColorTags, ColorTags],
    ) -> None:
        self._frames = decoded(*source, reading)
        self._tags = tags
        self._next = 0
        self.kept: deque[tuple[int, Tensor]] = deque(maxlen=2 * _REACH + 1)

    def until(self, number: int) -> None:
        while self._next <= number:
            frame = next(self._frames, None)
            if frame is None:
                return
            luma = _luma(frame, *self._tags)
            self.kept.append((self._next, luma))
            self._next += 1


def _luma(frame: av.VideoFrame, own: ColorTags, other: ColorTags) -> Tensor:
    """(H, W) float32 luma, from 0 for black to 255 for white whatever the codes."""
    layout, planes = frame_to_planes(frame)
    full = layout.family == "rgb" if own.full_range is None else own.full_range
    if layout.family == "rgb":
        # Luma by the other file's matrix, so that both mean the same by it.
        matrix = next((t.matrix for t in (other, own) if t.matrix not in (0, 2)), 1)
        rgb = planes_to_rgb([p[None] for p in planes], layout, replace(own, full_range=full))
        gray = replace(own, matrix=matrix, full_range=True)
        return rgb_to_planes(rgb, _GRAY, gray)[0][0].to(torch.float32) / 257
    unit = 2.0 ** (layout.depth - 8)
    codes = planes[0].to(torch.float32)
    light = codes / (2.0**layout.depth - 1) if full else (codes - 16 * unit) / (219 * unit)
    return light * 255


def _reduced(luma: Tensor, reference: Tensor) -> Tensor:
    """Bring an output's luma to the source's size, antialiased."""
    height, width = reference.shape
    scale = max(1, round(luma.shape[0] / height))
    extra = (luma.shape[0] - scale * height, luma.shape[1] - scale * width)
    if all(0 <= more <= 1 for more in extra):  # padded to an even size
        luma = luma[: scale * height, : scale * width]
    if luma.shape == reference.shape:
        return luma
    if all(0 <= more <= 1 for more in extra):
        return F.avg_pool2d(luma[None, None], scale)[0, 0]
    size = (height, width)
    return F.interpolate(luma[None, None], size, mode="bicubic", antialias=True)[0, 0]


def _compared(
    pts: int, number: int, luma: Tensor, near: Mapping[int, Tensor], *, fields: bool
) -> Likeness:
    errors = {n: _error(*_lines(luma, other, fields)) for n, other in near.items()}
    own = errors.pop(number)
    nearest = min(errors, key=lambda n: errors[n], default=number)
    mine, source = _lines(luma, near[number], fields)
    coarse, coarse_out = _coarse(source, _BLOCK), _coarse(mine, _BLOCK)
    return Likeness(
        pts=pts,
        number=number,
        psnr=10 * math.log10(255**2 / own) if own > 0 else math.inf,
        error=own,
        busy=_error(source, _smoothed(source)),
        drift=math.sqrt(_error(coarse, coarse_out)),
        nearest=nearest - number,
        nearest_error=errors.get(nearest, math.inf),
        flat=_spread(coarse) > 0.5 and _spread(coarse_out) < 0.1 * _spread(coarse),
    )


def _lines(luma: Tensor, other: Tensor, fields: bool) -> tuple[Tensor, Tensor]:
    """Both pictures; of fields, those lines that agree better."""
    if not fields:
        return luma, other
    parts = [(luma[first::2], other[first::2]) for first in (0, 1)]
    return min(parts, key=lambda part: _error(*part))


def _error(luma: Tensor, other: Tensor) -> float:
    return float((luma - other).square().mean())


def _smoothed(luma: Tensor) -> Tensor:
    return F.avg_pool2d(luma[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]


def _coarse(luma: Tensor, side: int) -> Tensor:
    height, width = luma.shape
    return F.adaptive_avg_pool2d(luma[None, None], (-(-height // side), -(-width // side)))[0, 0]


def _spread(luma: Tensor) -> float:
    return float(luma.std(correction=0))
