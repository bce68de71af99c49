"""A part of a video, decoded on its own, is what a whole decode gives: bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hatvid.jobs.segment import Segment, plan_segments, start_key
from hatvid.options import InputOptions, StreamOptions
from hatvid.video import window
from hatvid.video.pictures import FrameTime
from hatvid.video.scan import scan
from hatvid.video.source import FrameBatch, VideoSource
from hatvid.video.window import AstrayError, Window, WindowSource

FRAMES = 60
UNEVEN = tuple(accumulate(islice(cycle([3003, 1501, 9000, 4711]), FRAMES - 1), initial=4500))
EARLY = tuple(range(-20, FRAMES - 20))
OPEN_H264 = {"preset": "medium", "x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12"}
OPEN_HEVC = "log-level=none:keyint=12:min-keyint=12:open-gop=1:bframes=4"
CLIPS: dict[str, tuple[str, dict[str, Any]]] = {
    "x264": ("a.mp4", {"options": {"preset": "medium", "bf": "3", "g": "12"}}),
    "open GOP x264": ("a.mkv", {"options": OPEN_H264}),
    "open GOP x264 in ts": ("a.ts", {"options": OPEN_H264}),
    "open GOP x265": ("a.mkv", {"codec": "libx265", "options": {"x265-params": OPEN_HEVC}}),
    "open GOP x265 in mp4": ("a.mp4", {"codec": "libx265", "options": {"x265-params": OPEN_HEVC}}),
    "intra refresh": ("a.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "options": {"lag-in-frames": "12", "g": "12"}}),
    "mpeg2 ts": ("a.ts", {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}),
    "uneven": (
        "a.mp4",
        {"pts": UNEVEN, "time_base": Fraction(1, 90000), "options": {"bf": "2", "g": "12"}},
    ),
    "one key frame": ("a.mp4", {"options": {"preset": "medium", "g": "1000"}}),
    "no index": ("a.flv", {"options": {"preset": "medium", "bf": "2", "g": "12"}}),
    "late start": ("a.mkv", {"pts": tuple(range(500, 500 + FRAMES)), "options": {"g": "12"}}),
    "hidden by an edit list": (
        "a.mp4",
        {"pts": tuple(range(-20, FRAMES - 20)), "options": {"g": "12"}},
    ),
    "intra only": ("a.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "no pts": ("a.avi", {"options": {"preset": "medium", "bf": "2", "g": "12"}}),
}

Shown = list[tuple[FrameTime, tuple[Tensor, ...]]]


def frames(batches: Iterator[Any]) -> Shown:
    return [
        (time, tuple(plane[number] for plane in batch.planes))
        for batch in batches
        if isinstance(batch, FrameBatch)
        for number, time in enumerate(batch.times)
    ]


def same(one: Shown, other: Shown) -> bool:
    return [time for time, _ in one] == [time for time, _ in other] and all(
        torch.equal(a, b)
        for (_, planes), (_, others) in zip(one, other, strict=True)
        for a, b in zip(planes, others, strict=True)
    )


class Parts:
    """A clip, its segments, and ways to read them."""

    def __init__(
        self, path: Path, reading: InputOptions | None = None, length: str = "1/2"
    ) -> None:
        self.path = path
        self.reading = reading or InputOptions()
        with VideoSource(path, reading=self.reading) as source:
            self.info, self.kind = source.info, source.kind
            self.whole = frames(source.items(3, frozenset()))
        self.scan = scan(path)
        self.fields = 2 if self.reading.deinterlace == "field" else 1
        shown = [pts for pts in self.scan.pts if pts * self.fields >= self.info.start]
        ticks = int(Fraction(length) / self.scan.time_base)
        self.segments = plan_segments(shown, self.scan.key_frames, ticks)

    def read(self, segment: Segment, *, begin: bool = False) -> Shown:
        key = start_key(self.scan.pts, self.scan.key_frames, segment.first)
        part = Window(
            first=segment.first * self.fields,
            end=None if segment.end is None else segment.end * self.fields,
            key=None if begin or key is None else key * self.fields,
            promised=tuple(pts * self.fields for pts in self.scan.pts if segment.owns(pts)),
        )
        with WindowSource(
            self.path,
            self.info,
            self.kind,
            part,
            reading=self.reading,
            streams=StreamOptions(),
        ) as source:
            return frames(source.items(4))


@pytest.fixture
def clip(tmp_path: Path, make_clip: Callable[..., Path]) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        file, how = CLIPS[name]
        return make_clip(tmp_path / file, **{"pts": tuple(range(FRAMES)), **how})

    return make


@pytest.mark.parametrize("name", CLIPS)
def test_segments_are_a_whole_decode_cut_up(name: str, clip: Callable[[str], Path]) -> None:
    parts = Parts(clip(name))
    assert len(parts.segments) >= 3
    assert len(parts.whole) == (FRAMES - 20 if "hidden" in name else FRAMES)
    read: Shown = []
    for segment in parts.segments:
        try:
            assert parts.scan.steady
            read += parts.read(segment)
        except (AssertionError, AstrayError):
            assert name in ("no pts", "intra refresh"), "it had to be read from the beginning"
            read += parts.read(segment, begin=True)
    assert same(read, parts.whole)


@pytest.mark.parametrize("name", ["open GOP x265", "x264", "mpeg2 ts"])
def test_segments_are_decoded_from_a_key_frame_near_them(
    name: str, clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(clip(name))
    fed = []
    feed = window.Pictures.feed
    monkeypatch.setattr(
        window.Pictures, "feed", lambda self, packet: fed.append(packet) or feed(self, packet)
    )
    segment = parts.segments[-1]
    assert same(parts.read(segment), parts.whole[-segment.frames :])
    assert segment.frames < len(fed) < FRAMES - 10


@pytest.mark.parametrize("mode", ["frame", "field"])
def test_deinterlaced_segments(mode: Any, clip: Callable[[str], Path]) -> None:
    parts = Parts(clip("x264"), InputOptions(deinterlace=mode))
    read = [frame for segment in parts.segments for frame in parts.read(segment)]
    assert same(read, parts.whole)
    assert len(read) == FRAMES * parts.fields


def test_other_frames_than_promised_are_found_out(clip: Callable[[str], Path]) -> None:
    parts = Parts(clip("x264"))
    one = parts.segments[1]
    for promised in (parts.scan.pts[:5], (), parts.scan.pts):
        parts.scan = replace(parts.scan, pts=promised)
        window_of = Window(first=one.first, end=one.end, key=0, promised=promised)
        with (
            WindowSource(
                parts.path,
                parts.info,
                parts.kind,
                window_of,
                reading=parts.reading,
                streams=StreamOptions(),
            ) as source,
            pytest.raises(AstrayError),
        ):
            list(source.items(4))


def test_batches_end_at_breaks(clip: Callable[[str], Path]) -> None:
    parts = Parts(clip("x264"))
    breaks = tuple(segment.first for segment in parts.segments[1:])
    part = Window(first=parts.info.start, end=None, key=None, breaks=breaks)
    with WindowSource(
        parts.path, parts.info, parts.kind, part, reading=parts.reading, streams=StreamOptions()
    ) as source:
        batches = [batch for batch in source.items(7) if isinstance(batch, FrameBatch)]
    firsts = [batch.times[0].pts for batch in batches]
    assert set(breaks) <= set(firsts)
    for batch in batches:
        owners = {s.number for s in parts.segments for t in batch.times if s.owns(t.pts)}
        assert len(owners) == 1
    assert same(frames(iter(batches)), parts.whole)
