"""Interlaced video: found by flags and pictures, and made progressive.

What a file says of its fields is often wrong, so FFmpeg's ``idet`` looks at the pictures
as well. Deinterlacing is FFmpeg's ``bwdif``.

Both work plane by plane. In interlaced 4:2:0 the chroma rows belong to the fields in turn
as the luma rows do, and each field's lie a quarter of a field's chroma row off from where
the chroma location of a frame puts them (Recommendation ITU-T H.264, figure 6-4). bwdif
keeps the rows of one field where they are and fills in the other's, so that error stays:
an eighth of a luma row on average, a quarter at most, seen from the frame's own siting.
What comes out is treated as progressive 4:2:0 of the location that is tagged.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from hatvid.errors import InputError
from hatvid.video.convert import PlaneLayout, frame_to_planes, planar_pix_fmt, planes_to_frame
from hatvid.video.pictures import FrameTime

__all__ = ["Deinterlacer", "FieldOrder", "Fields", "choices", "field_order", "judge"]

FieldOrder = Literal["progressive", "top first", "bottom first", "unknown"]

# AVFieldOrder. TB and BT name the field that is coded first, then the one shown first.
_AV_FIELD_ORDERS: dict[int, FieldOrder] = {
    1: "progressive",
    2: "top first",
    3: "bottom first",
    4: "bottom first",
    5: "top first",
}


# The numbers below come from runs over made-up material: woven and progressive pans of 1/f
# noise and of blurred noise (0.05 to 30 pixels a field, with noise of 0 to 30 codes),
# boxes moving before a still ground, text scrolling at 1 to 8 lines a picture and in
# 2:2 and 3:2 steps, typing, fades, cuts, telecine, and noise alone.

# idet compares the picture's lines with those of the fields before and after, and takes
# one order for better from a ratio of 1.04. In noise the ratio strays from 1 by up to
# 2 / sqrt(pixels) (one standard deviation; blocks of 8x2, white noise 1.2): four of them.
_RATIO = 1.04
_NOISE = 8.0

# Lines of progressive text that scroll by an even number are in the better order too, all
# of them. But woven fields comb as much by themselves as with the field nearest in time
# (0.97 to 1.03), scrolled text clearly less (1.06 to 1.9).
_COMBED = 1.04


_INTERLACED = ("top first", "bottom first")
_WORDS = {
    "progressive": "progressive",
    "top first": "interlaced, top field first",
    "bottom first": "interlaced, bottom field first",
}


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Whether a video's frames hold two fields of different times, and which is the earlier."""

    coded: FieldOrder
    """What the stream's parameters and the frames' flags say."""

    measured: FieldOrder
    """What the pictures look like; ``unknown`` where too few of them tell."""

    top: int = 0
    """Pictures whose upper field is the earlier, by idet."""

    bottom: int = 0
    """Pictures whose lower field is the earlier."""

    progressive: int = 0
    """Pictures whose fields are of one time."""

    undecided: int = 0
    """Pictures that do not tell: flat, still, or too noisy."""

    interlaced: bool
    """The decision."""

    top_first: bool = True
    """The field order to deinterlace with."""

    note: str | None = None
    """One line where flags and pictures disagree."""

    @property
    def pictures(self) -> int:
        """How many were looked at."""
        return self.top + self.bottom + self.progressive + self.undecided


def field_order(value: int) -> FieldOrder:
    """FFmpeg's AVFieldOrder, as ``CodecContext.field_order`` gives it, in words."""
    return _AV_FIELD_ORDERS.get(value, "unknown")


def judge(samples: Iterable[Iterable[av.VideoFrame]], coded: FieldOrder = "unknown") -> Fields:
    """Decide whether a video is interlaced.

    Args:
        samples: groups of consecutive decoded frames, from places all over the video. The
            first and the last of a group are only looked at beside their neighbours, so
            that 10 groups of 7 give 50 verdicts. A group may be lazy: three frames of
            it are held at once.
        coded: what the stream's parameters say, see :func:`field_order`. The flags of
            the frames are read here.

    Raises:
        InputError: the pixel format has no planar twin.
    """
    verdicts: Counter[str] = Counter()
    flags: Counter[FieldOrder] = Counter()
    for group in samples:
        idet: _Filter | None = None
        window: deque[NDArray[np.int32]] = deque(maxlen=3)
        for frame in group:
            flags[_flag(frame)] += 1
            luma, codes = _luma(frame)
            if idet is None or not idet.takes(luma):
                idet = _Filter(luma, "idet", _idet_options(frame.width, frame.height))
                window.clear()
            window.append(codes)
            for seen in idet.push(luma):
                if len(window) == 3:
                    verdicts[_verdict(seen, *window)] += 1
    return _decided(verdicts, _coded(coded, flags))


def choices(fields: Fields) -> str:
    """The line that stops a job: why the video counts as interlaced, and what may be done."""
    order, count = ("top", fields.top) if fields.top_first else ("bottom", fields.bottom)
    reasons = []
    if fields.coded == f"{order} first":
        reasons.append("its flags")
    if fields.measured == f"{order} first":
        reasons.append(f"{count} of {fields.pictures} pictures")
    film = ""
    # In 3:2 pulldown one frame of five shares no field with the frames beside it.
    if fields.measured in _INTERLACED and 10 * fields.progressive >= fields.pictures:
        film = f"; {fields.progressive} are progressive, as in telecined film"
    return (
        f"the video is interlaced ({order} field first by {' and by '.join(reasons)}{film}); "
        "choose --deinterlace frame, --deinterlace field (twice the rate) or --progressive"
    )


def _flag(frame: av.VideoFrame) -> FieldOrder:
    if not frame.interlaced_frame:
        return "progressive"
    # PyAV shows that a frame is flagged, but not which field is the first.
    select = _Filter(frame, "select", r"eq(interlace_type\,TOPFIRST)")
    return "top first" if select.push(frame) else "bottom first"


def _coded(parameters: FieldOrder, flags: Counter[FieldOrder]) -> FieldOrder:
    """Flags of the frames tell more than parameters, but not every codec has them."""
    interlaced = flags["top first"] + flags["bottom first"]
    if 2 * interlaced >= max(1, flags.total()):
        return "top first" if flags["top first"] >= flags["bottom first"] else "bottom first"
    return parameters


def _luma(frame: av.VideoFrame) -> tuple[av.VideoFrame, NDArray[np.int32]]:
    """The luma, or of RGB the green, as idet takes it and as numbers."""
    layout, planes = frame_to_planes(frame)
    plane = planes[1 if layout.family == "rgb" else 0]
    gray = PlaneLayout.of("gray" if layout.depth == 8 else "gray16le")
    assert gray is not None
    return planes_to_frame((plane,), gray), plane.numpy().astype(np.int32)


def _idet_options(width: int, height: int) -> str:
    return f"intl_thres={max(_RATIO, 1 + _NOISE / math.sqrt(width * height)):.4f}"


def _verdict(
    frame: av.VideoFrame,
    before: NDArray[np.int32],
    picture: NDArray[np.int32],
    after: NDArray[np.int32],
) -> str:
    """idet's ``tff``, ``bff``, ``progressive`` or ``undetermined``, checked for combing."""
    verdict = frame.metadata["lavfi.idet.single.current_frame"]
    if verdict not in ("tff", "bff"):
        return verdict
    # The field that idet holds for the nearer in time, in place of the picture's own.
    near = picture.copy()
    first, second = (0, 1) if verdict == "tff" else (1, 0)
    near[first::2] = after[first::2]
    near[second::2] = before[second::2]
    around = picture[:-2] + picture[2:]
    own = np.abs(around - 2 * picture[1:-1]).sum()
    other = np.abs(around - 2 * near[1:-1]).sum()
    return verdict if other <= _COMBED * own else "undetermined"


def _decided(verdicts: Counter[str], coded: FieldOrder) -> Fields:
    top, bottom = verdicts["tff"], verdicts["bff"]
    progressive = verdicts["progressive"]
    total = verdicts.total()
    most, least = max(top, bottom), min(top, bottom)
    measured: FieldOrder = "unknown"
    # A tenth, because one interlaced part of a film needs a choice too. Chance, and text
    # that moves at every second picture, give both orders: real fields hardly the other
    # one, and more of theirs than two standard deviations of tossing a coin.
    if 10 * most >= total and 5 * least <= most and (most - least) ** 2 >= 4 * max(1, most + least):
        measured = "top first" if top > bottom else "bottom first"
    # To overrule a flag takes more: a mistake here would leave the fields woven.
    elif 2 * progressive >= max(total, 6) and 20 * (top + bottom) <= total:
        measured = "progressive"
    decision = coded if measured == "unknown" else measured
    if coded in _INTERLACED and measured in _INTERLACED and 2 * most < total:
        decision = coded
    note = None
    if measured != "unknown" and coded not in ("unknown", measured):
        count = {"top first": top, "bottom first": bottom}.get(measured, progressive)
        note = (
            f"flagged as {_WORDS[coded]}, but the pictures are {_WORDS[measured]} "
            f"(idet: {count} of {total})"
        )
        if decision != measured:
            note += ", too few to overrule the flags"
    return Fields(
        coded=coded,
        measured=measured,
        top=top,
        bottom=bottom,
        progressive=progressive,
        undecided=verdicts["undetermined"],
        interlaced=decision in _INTERLACED,
        top_first=decision != "bottom first",
        note=note,
    )


class Deinterlacer:
    """Makes progressive pictures of interlaced ones, through bwdif.

    Feed every frame, then call :meth:`finish`. One frame is held back, because bwdif
    looks at the next one too. The pictures keep the frames' colour tags and side data, but
    closed captions go with the first field only; their format is the frames' own, or its
    planar twin (see :func:`~hatvid.video.convert.planar_pix_fmt`). The times given
    beside them count; the pictures' own pts mean nothing.

    Args:
        mode: ``frame`` gives one picture of each frame, at its very time; ``field`` one of
            each field: the first at the frame's pts, the second midway to the next
            frame's, or after half of the last frame's duration.
        fields: which field is the earlier.
        time_base: of the times fed.
    """

    def __init__(
        self, mode: Literal["frame", "field"], fields: Fields, *, time_base: Fraction
    ) -> None:
        self._double = mode == "field"
        parity = "tff" if fields.top_first else "bff"
        self._options = f"mode=send_{mode}:parity={parity}:deint=all"
        self.time_base = time_base / 2 if self._double else time_base
        """Of the times given: half the source's for ``field``, so that every pts is whole."""
        self._bwdif: _Filter | None = None
        self._held: FrameTime | None = None
        self._gap = 1

    def feed(
        self, frame: av.VideoFrame, time: FrameTime
    ) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        """Take one frame, give the pictures of the one before it.

        Raises:
            InputError: bwdif cannot work on this size or pixel format.
        """
        name = frame.format.name
        planar = planar_pix_fmt(name) or name
        if planar != name:
            # One thread: FFmpeg's slices race, and overwrite samples at their borders.
            frame = frame.reformat(format=planar, threads=1)
        pictures: list[av.VideoFrame] = []
        if self._bwdif is None or not self._bwdif.takes(frame):
            if self._bwdif is not None:
                pictures = self._bwdif.drain()
            self._bwdif = self._build(frame)
        pictures += self._bwdif.push(frame)
        if self._held is not None:
            self._gap = time.pts - self._held.pts
            yield from self._timed(pictures, self._held, self._gap)
        self._held = time

    def finish(self) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        """Give the pictures of the last frame."""
        if self._bwdif is not None and self._held is not None:
            last, self._held = self._held, None
            yield from self._timed(self._bwdif.drain(), last, last.duration or self._gap)

    def _build(self, frame: av.VideoFrame) -> _Filter:
        try:
            return _Filter(frame, "bwdif", self._options)
        except av.error.ArgumentError as error:
            raise InputError(
                f"pictures of {frame.width}x{frame.height} are too small to deinterlace; take "
                "them as they are with --progressive"
            ) from error

    def _timed(
        self, pictures: list[av.VideoFrame], time: FrameTime, gap: int
    ) -> Iterator[tuple[av.VideoFrame, FrameTime]]:
        """The pictures of the frame at ``time``, which lasts ``gap``."""
        assert self._bwdif is not None
        times = [time]
        if self._double:
            # In half units the first field's pts doubles, and each lasts the whole gap.
            first = 2 * time.pts
            times = [replace(time, pts=pts, duration=gap) for pts in (first, first + gap)]
        for number, (picture, at) in enumerate(zip(pictures, times, strict=True)):
            if number and "A53_CC" in {kind.name for kind in picture.side_data}:
                drop = _Filter(picture, "sidedata", "mode=delete:type=A53_CC")
                [picture] = drop.push(picture)
            yield picture, at


class _Filter:
    """One FFmpeg filter, for frames of one size and format."""

    def __init__(self, frame: av.VideoFrame, name: str, options: str) -> None:
        self._shape = _shape(frame)
        width, height, pix_fmt = self._shape
        graph = Graph()
        self._source = graph.add(
            "buffer", video_size=f"{width}x{height}", pix_fmt=pix_fmt, time_base="1/1"
        )
        self._sink = graph.add("buffersink")
        graph.link_nodes(self._source, graph.add(name, options), self._sink).configure()

    def takes(self, frame: av.VideoFrame) -> bool:
        return self._shape == _shape(frame)

    def push(self, frame: av.VideoFrame) -> list[av.VideoFrame]:
        self._source.push(frame)
        return self._pulled()

    def drain(self) -> list[av.VideoFrame]:
        self._source.push(None)
        return self._pulled()

    def _pulled(self) -> list[av.VideoFrame]:
        frames: list[av.VideoFrame] = []
        while True:
            try:
                frame = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return frames
            assert isinstance(frame, av.VideoFrame)
            # FFmpeg converts in silence what a filter does not take.
            if frame.format.name != self._shape[2]:
                raise InputError(
                    f"pixel format {self._shape[2]} cannot be deinterlaced; convert the video to "
                    f"{frame.format.name} first, or take it as it is with --progressive"
                )
            frames.append(frame)


def _shape(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
