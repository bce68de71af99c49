"""Interlaced video: found by flags and pictures, and made progressive.

What a file says of its fields is often wrong, so FFmpeg's ``idet`` looks at the pictures
as well. Deinterlacing is FFmpeg's ``bwdif``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import av
from av.filter import Graph

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
        samples: groups of consecutive decoded frames, from places all over the video;
            about 50 frames in groups of 5 or more tell reliably. The groups may be lazy:
            no more than three frames of a group are held.
        coded: what the stream's parameters say, see :func:`field_order`. The flags of
            the frames are read here.

    Raises:
        InputError: the pixel format has no planar twin.
    """
    verdicts: Counter[str] = Counter()
    flags: Counter[FieldOrder] = Counter()
    for group in samples:
        idet: _Filter | None = None
        for frame in group:
            flags[_flag(frame)] += 1
            luma = _luma(frame)
            if idet is None or not idet.takes(luma):
                if idet is not None:
                    verdicts.update(map(_verdict, idet.drain()))
                idet = _Filter(luma, "idet", "")
            verdicts.update(map(_verdict, idet.push(luma)))
        if idet is not None:
            verdicts.update(map(_verdict, idet.drain()))
    return _decided(verdicts, _coded(coded, flags))


def choices(fields: Fields) -> str:
    """The line that stops a job: why the video counts as interlaced, and what may be done."""
    order = "top field first" if fields.top_first else "bottom field first"
    reasons = []
    if fields.coded in ("top first", "bottom first"):
        reasons.append("its flags")
    if fields.measured in ("top first", "bottom first"):
        count = fields.top if fields.top_first else fields.bottom
        reasons.append(f"{count} of {fields.pictures} pictures")
    return (
        f"the video is interlaced ({order} by {' and by '.join(reasons)}); choose --deinterlace "
        "frame, --deinterlace field (twice the rate) or --progressive"
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


def _luma(frame: av.VideoFrame) -> av.VideoFrame:
    """What idet looks at: the luma, or of RGB the green."""
    layout, planes = frame_to_planes(frame)
    gray = PlaneLayout.of("gray" if layout.depth == 8 else "gray16le")
    assert gray is not None
    return planes_to_frame((planes[1 if layout.family == "rgb" else 0],), gray)


def _verdict(frame: av.VideoFrame) -> str:
    return frame.metadata["lavfi.idet.single.current_frame"]


def _decided(verdicts: Counter[str], coded: FieldOrder) -> Fields:
    top, bottom = verdicts["tff"], verdicts["bff"]
    progressive = verdicts["progressive"]
    total = verdicts.total()
    most, least = max(top, bottom), min(top, bottom)
    measured: FieldOrder = "unknown"
    if (
        5 * most >= top + bottom + progressive
        and 10 * most >= total
        and (most - least) ** 2 >= 4 * max(1, most + least)
    ):
        measured = "top first" if top > bottom else "bottom first"
    elif 2 * progressive >= max(total, 6) and 20 * (top + bottom) <= total:
        measured = "progressive"
    decision = coded if measured == "unknown" else measured
    note = None
    if measured != "unknown" and coded not in ("unknown", measured):
        count = {"top first": top, "bottom first": bottom}.get(measured, progressive)
        note = (
            f"flagged as {_WORDS[coded]}, but the pictures are {_WORDS[measured]} "
            f"(idet: {count} of {total})"
        )
    return Fields(
        coded=coded,
        measured=measured,
        top=top,
        bottom=bottom,
        progressive=progressive,
        undecided=verdicts["undetermined"],
        interlaced=decision in ("top first", "bottom first"),
        top_first=decision != "bottom first",
        note=note,
    )


_WORDS = {
    "progressive": "progressive",
    "top first": "interlaced, top field first",
    "bottom first": "interlaced, bottom field first",
}


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
        pictures = []
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
        frames = []
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
