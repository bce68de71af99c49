"""Interlaced made progressive: samples against Debian's ffmpeg, times to the tick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

import av
import numpy as np
import pytest

from hatvid.errors import InputError
from hatvid.video.fields import Deinterlacer, Fields
from hatvid.video.pictures import FrameTime

type Mode = Literal["frame", "field"]
MODES: tuple[Mode, ...] = ("frame", "field")

TICK = Fraction(1, 90000)


def order(*, top_first: bool = True) -> Fields:
    return Fields(coded="unknown", measured="unknown", interlaced=True, top_first=top_first)


def random_frame(seed: int, width: int, height: int, pix_fmt: str) -> av.VideoFrame:
    """Smooth and rough areas, something else in every field."""
    noise = np.random.default_rng(seed)
    frame = av.VideoFrame(width, height, pix_fmt)
    depth = frame.format.components[0].bits
    kind = np.uint8 if depth == 8 else np.uint16
    for plane in frame.planes:
        rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
        coarse = noise.integers(0, 1 << depth, (plane.height // 6 + 1, rows.shape[1] // 8 + 1))
        ground = coarse.repeat(6, 0).repeat(8, 1)[: plane.height, : rows.shape[1]]
        fine = noise.integers(0, 1 << depth - 3, rows.shape)
        rows[:] = np.minimum(ground + fine, (1 << depth) - 1)
    return frame


def samples(frame: av.VideoFrame) -> bytes:
    """The samples of all planes, without what pads the rows, as rawvideo holds them."""
    bits = {"rgb24": (24,), "yuyv422": (16,), "nv12": (8, 16)}.get(frame.format.name)
    parts = []
    for number, plane in enumerate(frame.planes):
        depth = bits[number] if bits else frame.format.components[0].bits
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        parts.append(rows[:, : plane.width * -(-depth // 8)].tobytes())
    return b"".join(parts)


def deinterlaced(
    frames: Sequence[av.VideoFrame],
    mode: Mode,
    *,
    top_first: bool = True,
    times: Sequence[FrameTime] | None = None,
) -> list[tuple[av.VideoFrame, FrameTime]]:
    if times is None:
        times = [FrameTime(pts=3600 * number, duration=3600) for number in range(len(frames))]
    deinterlacer = Deinterlacer(mode, order(top_first=top_first), time_base=TICK)
    made = []
    for frame, time in zip(frames, times, strict=True):
        made += deinterlacer.feed(frame, time)
    return made + list(deinterlacer.finish())


@pytest.fixture(scope="session")
def bwdif(ffmpeg: Callable[..., bytes]) -> Callable[..., bytes]:
    """What the bwdif of Debian's ffmpeg makes of frames, as raw video of a planar format."""

    def run(frames: Sequence[av.VideoFrame], planar: str, mode: Mode, *, top_first: bool) -> bytes:
        first = frames[0]
        graph = f"format={planar},bwdif=send_{mode}:{'tff' if top_first else 'bff'}:all"
        return ffmpeg(
            *("-f", "rawvideo", "-pix_fmt", first.format.name),
            *("-s", f"{first.width}x{first.height}", "-r", "25", "-i", "-", "-vf", graph),
            *("-fps_mode", "passthrough", "-f", "rawvideo", "-"),
            given=b"".join(samples(frame) for frame in frames),
        )

    return run


FORMATS = [
    ("yuv420p", "yuv420p", 96, 64),
    ("yuv420p10le", "yuv420p10le", 96, 64),
    ("yuv444p", "yuv444p", 63, 49),
    ("yuv420p", "yuv420p", 63, 49),
    ("yuv422p", "yuv422p", 33, 31),
    ("gray", "gray", 40, 33),
    ("gbrp", "gbrp", 50, 36),
    ("nv12", "yuv420p", 64, 48),
    ("yuyv422", "yuv422p", 64, 48),
    ("rgb24", "gbrp", 50, 36),
]


@pytest.mark.parametrize("top_first", [True, False], ids=["top", "bottom"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("pix_fmt", "planar", "width", "height"), FORMATS)
def test_the_samples_are_those_of_bwdif(
    pix_fmt: str,
    planar: str,
    width: int,
    height: int,
    mode: Mode,
    top_first: bool,
    bwdif: Callable[..., bytes],
) -> None:
    frames = [random_frame(seed, width, height, pix_fmt) for seed in range(5)]
    expected = bwdif(frames, planar, mode, top_first=top_first)
    made = deinterlaced(frames, mode, top_first=top_first)
    assert {picture.format.name for picture, _ in made} == {planar}
    shown = b"".join(samples(picture) for picture, _ in made)
    count = 5 if mode == "frame" else 10
    if "10" not in planar:
        assert len(made) == count
        assert shown == expected
        return
    # Debian's FFmpeg 5.1 makes the rows at the edge of more than 8 bits in another way.
    theirs, ours = (np.frombuffer(data, "<u2").reshape(count, -1) for data in (expected, shown))
    begin = 0
    for rows, columns in ((height, width), (height // 2, width // 2), (height // 2, width // 2)):
        end = begin + rows * columns
        first, second = (part[:, begin:end].reshape(count, rows, -1) for part in (theirs, ours))
        np.testing.assert_array_equal(first[:, 6:-6], second[:, 6:-6])
        begin = end
    assert begin == ours.shape[1] == theirs.shape[1]


def between(frame: av.VideoFrame, pix_fmt: str) -> av.VideoFrame:
    """Codes from 64 to 191, whatever the depth: nothing that is made of them is clipped."""
    made = av.VideoFrame(frame.width, frame.height, pix_fmt)
    kind = np.uint8 if made.format.components[0].bits == 8 else np.uint16
    for old, new in zip(frame.planes, made.planes, strict=True):
        codes = np.frombuffer(old, np.uint8).reshape(old.height, -1)[:, : old.width]
        rows = np.frombuffer(new, kind).reshape(new.height, -1)
        rows[:, : new.width] = codes // 2 + 64
    return made


@pytest.mark.parametrize("height", [32, 33])
@pytest.mark.parametrize("mode", MODES)
def test_10_bit_is_as_8_bit_up_to_the_edge(mode: Mode, height: int) -> None:
    # The 8 bit are those of Debian's ffmpeg at the edge, too.
    shown = {}
    for pix_fmt, kind in (("yuv420p", np.uint8), ("yuv420p10le", np.uint16)):
        frames = [between(random_frame(n, 48, height, "yuv420p"), pix_fmt) for n in range(4)]
        parts = [samples(picture) for picture, _ in deinterlaced(frames, mode)]
        shown[pix_fmt] = np.frombuffer(b"".join(parts), kind)
    np.testing.assert_array_equal(shown["yuv420p"], shown["yuv420p10le"])


def test_one_field_stays_as_it_is() -> None:
    frames = [random_frame(seed, 32, 24, "gray") for seed in range(3)]
    for top_first in (True, False):
        made = [picture for picture, _ in deinterlaced(frames, "field", top_first=top_first)]
        for number, frame in enumerate(frames):
            rows = np.frombuffer(frame.planes[0], np.uint8).reshape(24, -1)
            for picture, field in zip(
                made[2 * number :][:2], (not top_first, top_first), strict=True
            ):
                shown = np.frombuffer(picture.planes[0], np.uint8).reshape(24, -1)
                np.testing.assert_array_equal(rows[field::2, :32], shown[field::2, :32])


# Times.

# Pictures of uneven length that begin late; the file says nothing of some durations.
UNEVEN = [
    FrameTime(pts=1001, duration=0),
    FrameTime(pts=2002, duration=1001),
    FrameTime(pts=5005, duration=1001, repeated=True),
    FrameTime(pts=5006, duration=1, damaged=True),
    FrameTime(pts=9009, duration=777),
]


def test_a_picture_of_each_frame_has_its_time() -> None:
    frames = [random_frame(seed, 16, 16, "gray") for seed in range(5)]
    assert [time for _, time in deinterlaced(frames, "frame", times=UNEVEN)] == UNEVEN


@pytest.mark.parametrize(("duration", "last"), [(777, 777), (0, 4003)])
def test_the_second_field_lies_midway(duration: int, last: int) -> None:
    frames = [random_frame(seed, 16, 16, "gray") for seed in range(5)]
    times = [*UNEVEN[:-1], FrameTime(pts=9009, duration=duration)]
    made = [time for _, time in deinterlaced(frames, "field", times=times)]
    # In ticks of half the length. The last frame lasts as it says, or as the one before it.
    gaps = [1001, 3003, 1, 4003, last]
    expected = []
    for time, gap in zip(times, gaps, strict=True):
        expected += [(2 * time.pts, gap), (2 * time.pts + gap, gap)]
    assert [(time.pts, time.duration) for time in made] == expected
    # No gap and no overlap: each lasts until the next begins.
    ends = [time.pts + time.duration for time in made]
    assert ends[:-1] == [time.pts for time in made[1:]]
    assert [time.repeated for time in made] == [False] * 4 + [True] * 2 + [False] * 4
    assert [time.damaged for time in made] == [False] * 6 + [True] * 2 + [False] * 2


@pytest.mark.parametrize(("mode", "expected"), [("frame", TICK), ("field", TICK / 2)])
def test_the_clock_of_the_times(mode: Mode, expected: Fraction) -> None:
    assert Deinterlacer(mode, order(), time_base=TICK).time_base == expected


@pytest.mark.parametrize("mode", MODES)
def test_a_single_frame(mode: Mode) -> None:
    made = deinterlaced([random_frame(1, 16, 16, "gray")], mode)
    assert (
        sum(time.duration for _, time in made) == 3600 * len(made) == 3600 * (1 + MODES.index(mode))
    )
    assert made[0][1].pts == 0


@pytest.mark.parametrize("mode", MODES)
def test_no_frame_at_all(mode: Mode) -> None:
    deinterlacer = Deinterlacer(mode, order(), time_base=TICK)
    assert list(deinterlacer.finish()) == []


# Sizes.


@pytest.mark.parametrize("mode", MODES)
def test_a_change_of_size_or_format_is_an_end_and_a_beginning(mode: Mode) -> None:
    parts = [
        [random_frame(seed, 32, 24, "yuv420p") for seed in range(3)],
        [random_frame(seed, 48, 24, "yuv420p") for seed in range(1)],
        [random_frame(seed, 48, 24, "yuv444p") for seed in range(4)],
    ]
    made = deinterlaced([frame for part in parts for frame in part], mode)
    expected = [samples(picture) for part in parts for picture, _ in deinterlaced(part, mode)]
    assert [samples(picture) for picture, _ in made] == expected
    assert [time.pts for _, time in made] == [3600 * number for number in range(len(made))]


@pytest.mark.parametrize(
    ("pix_fmt", "width", "height"),
    [("gray", 3, 4), ("yuv444p", 3, 4), ("yuv422p", 5, 4), ("yuv420p", 5, 7)],
)
def test_the_smallest_pictures(pix_fmt: str, width: int, height: int) -> None:
    frames = [random_frame(seed, width, height, pix_fmt) for seed in range(3)]
    made = deinterlaced(frames, "field")
    assert [(picture.width, picture.height) for picture, _ in made] == [(width, height)] * 6
    for smaller in ((width - 1, height), (width, height - 1)):
        with pytest.raises(InputError, match=r"\d+x\d+ are too small .* --progressive"):
            deinterlaced([random_frame(0, *smaller, pix_fmt)], "field")


def test_formats_that_bwdif_does_not_know_are_refused() -> None:
    frames = [random_frame(seed, 16, 16, "gray12le") for seed in range(2)]
    with pytest.raises(InputError, match=r"gray12le cannot be deinterlaced; .* --progressive"):
        deinterlaced(frames, "frame")


# What frames carry.


def with_captions(frames: int) -> list[av.VideoFrame]:
    """Decoded from H.264 with closed captions, other ones in each frame (ATSC A/53 part 4)."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"preset": "ultrafast", "x264-params": "annexb=1"}
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    packets, decoded = [], []
    for number in range(frames):
        frame = random_frame(number, 64, 48, "yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    for number, packet in enumerate([*packets, *encoder.encode(None)]):
        captions = b"\xb5\x00\x31GA94\x03\x41\xff\xfc\x94" + bytes([32 + number, 255])
        message = b"\0\0\1\x06\x04" + bytes([len(captions)]) + captions + b"\x80"
        data = bytes(packet)
        at = data.index(b"\0\0\1" + (b"\x65" if number == 0 else b"\x41"))
        decoded += decoder.decode(av.Packet(data[:at] + message + data[at:]))
    return decoded + decoder.decode(None)


def captions_of(frame: av.VideoFrame) -> list[bytes]:
    return [bytes(data) for data in frame.side_data[:] if data.type.name == "A53_CC"]


@pytest.mark.parametrize("mode", MODES)
def test_captions_go_with_the_first_picture_of_a_frame(mode: Mode) -> None:
    frames = with_captions(4)
    expected = [captions_of(frame) for frame in frames]
    assert [words[0][2] for words in expected] == [32, 33, 34, 35]
    found = [captions_of(picture) for picture, _ in deinterlaced(frames, mode)]
    if mode == "frame":
        assert found == expected
    else:
        assert found[::2] == expected
        assert found[1::2] == [[]] * 4


@pytest.mark.parametrize("mode", MODES)
def test_colour_tags_stay(mode: Mode) -> None:
    frames = [random_frame(seed, 16, 16, "yuv420p") for seed in range(2)]
    names = ("colorspace", "color_range", "color_primaries", "color_trc", "chroma_location")
    values = (9, 1, 9, 16, 3)
    for frame in frames:
        for name, value in zip(names, values, strict=True):
            setattr(frame, name, value)
    for picture, _ in deinterlaced(frames, mode):
        assert tuple(int(getattr(picture, name)) for name in names) == values
        assert not picture.interlaced_frame
