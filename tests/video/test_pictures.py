"""Which packets promise a frame, and which of them are rightly without one.

Interlaced field pairs in packets of their own come from broadcasts that no encoder here
makes, so a decoder that follows a script plays them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from hatvid.errors import DecodeError
from hatvid.video.pictures import FrameTime, Pictures
from hatvid.video.source import FrameBatch, VideoSource

BROKEN = "broken"


@dataclass
class Packet:
    pts: int | None
    is_keyframe: bool = False
    duration: int = 1
    size: int = 9
    is_discard: bool = False
    dts: int | None = None
    opaque: object = None


@dataclass
class Frame:
    pts: int | None
    duration: int = 1
    is_corrupt: bool = False
    opaque: object = None
    key_frame: bool = False


@dataclass
class Script:
    """A decoder: for each packet in turn the frames it gives, or BROKEN."""

    answers: Iterator[Any]
    drained: list[list[Frame]] = field(default_factory=list)
    copy_opaque: bool = False

    def decode(self, packet: Packet | None) -> list[Frame]:
        if packet is None:
            if not self.drained:
                raise av.error.EOFError(0, "end")
            return self.drained.pop(0)
        answer = next(self.answers)
        if answer == BROKEN:
            raise av.error.InvalidDataError(1, "broken")
        assert isinstance(answer, list)
        return answer


@dataclass
class Stream:
    codec_context: Script
    time_base: Fraction = Fraction(1, 10)


def played(
    *script: tuple[Packet, Any],
    drained: Sequence[list[Frame]] = (),
    strict: bool = False,
    whole: bool = True,
) -> list[FrameTime]:
    stream: Any = Stream(Script(iter([answer for _, answer in script]), list(drained)))
    pictures = Pictures(Path("a.ts"), stream, strict=strict, whole=whole)
    times = []
    for packet, _ in script:
        given: Any = packet
        times += [time for _, time in pictures.feed(given)]
    return times + [time for _, time in pictures.finish()]


def key(pts: int, **more: Any) -> Packet:
    return Packet(pts, is_keyframe=True, **more)


def shown(times: list[FrameTime]) -> list[tuple[int, bool]]:
    return [(time.pts, time.repeated) for time in times]


def test_second_fields_are_no_lost_frames() -> None:
    times = played(
        (key(0), []),
        (Packet(1), [Frame(0, duration=2)]),
        (Packet(2), []),
        (Packet(3), [Frame(2, duration=2)]),
    )
    assert shown(times) == [(0, False), (2, False)]


def test_second_fields_are_no_lost_frames_after_an_error_either() -> None:
    times = played(
        (key(0), []),
        (Packet(1), [Frame(0, duration=2)]),
        (Packet(2, duration=2), BROKEN),
        (Packet(4), []),
        (Packet(5), [Frame(4, duration=2)]),
    )
    assert shown(times) == [(0, False), (2, True), (4, False)]


def test_a_frame_missing_without_an_error_is_not_made_up() -> None:
    times = played((key(0), [Frame(0)]), (Packet(1), []), (Packet(2), [Frame(2)]))
    assert shown(times) == [(0, False), (2, False)]


def test_what_an_error_takes_along_is_filled_until_a_key_frame() -> None:
    times = played(
        (key(0), [Frame(0)]),
        (Packet(1), BROKEN),
        (Packet(2), []),  # the decoder waits for a key frame, without another error
        (key(3), [Frame(3)]),
        (Packet(4), []),
        (Packet(5), [Frame(5)]),
    )
    assert shown(times) == [(0, False), (1, True), (2, True), (3, False), (5, False)]


def test_frames_that_wait_in_the_decoder_stay_in_their_places() -> None:
    times = played(
        (key(0), []),
        (Packet(3), []),
        (Packet(1), BROKEN),
        (Packet(2), [Frame(0)]),
        drained=[[Frame(2)], [Frame(3)]],
    )
    assert shown(times) == [(0, False), (1, True), (2, False), (3, False)]


def test_an_error_at_the_very_end_is_filled() -> None:
    times = played((key(0), [Frame(0)]), (Packet(1), BROKEN), (Packet(2), BROKEN))
    assert shown(times) == [(0, False), (1, True), (2, True)]


def test_pictures_before_the_first_key_frame_of_a_broadcast_promise_nothing() -> None:
    script = ((Packet(0), BROKEN), (Packet(1), BROKEN), (key(2), [Frame(2)]))
    assert shown(played(*script, whole=False)) == [(2, False)]
    assert shown(played(*script, whole=True)) == [(0, True), (1, True), (2, False)]


def test_packets_to_be_discarded_promise_nothing() -> None:
    times = played(
        (key(0, is_discard=True), BROKEN), (Packet(1, is_discard=True), []), (Packet(2), [Frame(2)])
    )
    assert shown(times) == [(2, False)]


def test_a_time_that_does_not_rise_is_moved_and_said() -> None:
    times = played(
        (key(0), [Frame(5)]),
        (Packet(1), [Frame(5)]),
        (Packet(2), [Frame(3)]),
        (Packet(3), [Frame(9)]),
    )
    assert [(time.pts, time.moved) for time in times] == [
        (5, False),
        (6, True),
        (7, True),
        (9, False),
    ]


def test_no_time_at_all_follows_the_frame_before() -> None:
    times = played(
        (Packet(None, is_keyframe=True), [Frame(None, duration=4)]),
        (Packet(None), [Frame(None, duration=4)]),
    )
    assert [(time.pts, time.moved) for time in times] == [(0, True), (4, True)]


def test_durations_that_the_file_does_not_tell_reach_to_the_next_frame() -> None:
    """The last frame lasts as long as the one before it."""
    times = played(
        (key(0), [Frame(0, duration=0)]),
        (Packet(3), [Frame(3, duration=2)]),
        (Packet(9), [Frame(9, duration=0)]),
        drained=[[Frame(10, duration=0)]],
    )
    assert [(time.pts, time.duration) for time in times] == [(0, 3), (3, 2), (9, 1), (10, 1)]


def test_frames_without_pts_have_the_decoding_times_of_packets_in_order() -> None:
    """What is decoded second is shown fifth; every packet is one frame."""
    times = played(
        *((Packet(None, dts=dts, is_keyframe=dts == 0), []) for dts in (0, 2, 4)),
        (Packet(None, dts=6), [Frame(None, opaque=0, key_frame=True)]),
        (Packet(None, dts=8), [Frame(None, opaque=6)]),
        drained=[[Frame(None, opaque=4)], [Frame(None, opaque=8)], [Frame(None, opaque=2)]],
    )
    assert [(time.pts, time.moved) for time in times] == [(n, False) for n in (0, 2, 4, 6, 8)]


def test_a_packet_without_a_frame_shifts_the_others_until_a_key_frame_only() -> None:
    """As of two fields in packets of their own."""
    times = played(
        (Packet(None, dts=0, is_keyframe=True), [Frame(None, opaque=0, key_frame=True)]),
        (Packet(None, dts=1), []),
        (Packet(None, dts=2), [Frame(None, opaque=2)]),
        (Packet(None, dts=3, is_keyframe=True), [Frame(None, opaque=3, key_frame=True)]),
        (Packet(None, dts=4), [Frame(None, opaque=4)]),
    )
    assert shown(times) == [(0, False), (1, False), (3, False), (4, False)]


def test_an_error_among_frames_without_pts_takes_its_own_time() -> None:
    times = played(
        (Packet(None, dts=0, is_keyframe=True), [Frame(None, opaque=0, key_frame=True)]),
        (Packet(None, dts=1), BROKEN),
        (Packet(None, dts=2), [Frame(None, opaque=2)]),
        (Packet(None, dts=3), [Frame(None, opaque=3)]),
    )
    assert shown(times) == [(0, False), (1, True), (2, False), (3, False)]


def test_strict_refuses_a_frame_that_is_damaged_only() -> None:
    script = ((key(0), [Frame(0)]), (Packet(12), [Frame(12, is_corrupt=True)]))
    assert [time.damaged for time in played(*script)] == [False, True]
    with pytest.raises(DecodeError, match=r"at 1\.200 s is damaged; leave out --strict"):
        played(*script, strict=True)


# The same of real files.


def remuxed(source: Path, target: Path, keep: Callable[[list[Any]], list[Any]]) -> Path:
    """A copy of some packets, not decoded."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as part:
        stream = whole.streams.video[0]
        twin = part.add_stream_from_template(stream)
        for packet in keep([packet for packet in whole.demux(stream) if packet.size]):
            packet.stream = twin
            part.mux(packet)
    return target


def test_leading_pictures_of_an_open_gop_are_no_lost_frames(
    make_clip: Callable[..., Path], numbers: Callable[[FrameBatch], list[int]], tmp_path: Path
) -> None:
    """A file cut at such a key frame holds pictures that refer to what is cut away."""
    params = "log-level=none:scenecut=0:keyint=8:min-keyint=8:open-gop=1:bframes=4:b-adapt=0"
    whole = make_clip(tmp_path / "a.mkv", codec="libx265", options={"x265-params": params})

    def from_second_key(packets: list[Any]) -> list[Any]:
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
        return packets[keys[1] :]

    part = remuxed(whole, tmp_path / "b.mkv", from_second_key)
    with av.open(str(part)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert min(stamps) < stamps[0], "there are no leading pictures"
    with VideoSource(part) as source:
        batches = [item for item in source.items(1, frozenset()) if isinstance(item, FrameBatch)]
    times = [batch.times[0] for batch in batches]
    assert [time.pts for time in times] == sorted(pts for pts in stamps if pts >= stamps[0])
    assert not any(time.repeated for time in times)
    shown = [numbers(batch)[0] for batch in batches]
    assert shown == list(range(24 - len(shown), 24))


def test_pictures_that_the_decoder_marks_as_corrupt_are_kept_and_named(
    make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    """Without a key frame before them, frames are drawn upon gray."""
    options = {"g": "6", "bf": "0", "x264-params": "scenecut=0"}
    whole = make_clip(tmp_path / "a.mp4", options=options)
    part = remuxed(whole, tmp_path / "b.ts", lambda packets: packets[2:])
    with VideoSource(part) as source:
        times = [t for item in source.items(4, frozenset()) for t in item.times]  # type: ignore[union-attr]
    assert [time.damaged for time in times] == [True] * 4 + [False] * 18
    with pytest.raises(DecodeError, match="damaged"), VideoSource(part, strict=True) as source:
        list(source.items(4, frozenset()))
