"""Interlaced or not, and in which order: made-up pictures of known fields, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import av
import numpy as np
import pytest
from av.filter import Graph
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hatvid.errors import InputError
from hatvid.video.fields import FieldOrder, Fields, choices, field_order, judge

HEIGHT, WIDTH = 144, 176
_GROUPS, _GROUP = 3, 10  # 24 verdicts

type Picture = NDArray[np.float64]
type Scene = Callable[[float], Picture]
"""What a camera sees at a time, counted in fields."""


def texture(seed: int, slope: float = 1.0) -> Picture:
    """Noise whose amplitude falls as 1/f**slope, in codes of 8 bit, twice the picture's size."""
    shape = (2 * HEIGHT, 2 * WIDTH)
    spectrum = np.fft.rfft2(np.random.default_rng(seed).normal(size=shape))
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = np.inf
    values = np.fft.irfft2(spectrum / frequency**slope, shape)
    return np.clip(128 + 45 * values / values.std(), 16, 235)


def pan(across: float, down: float = 0.0, seed: int = 1, slope: float = 1.0) -> Scene:
    """A camera that moves by so many pixels a field, over something periodic."""
    spectrum = np.fft.rfft2(texture(seed, slope))
    rows = np.fft.fftfreq(2 * HEIGHT)[:, None]
    columns = np.fft.rfftfreq(2 * WIDTH)[None]

    def seen(time: float) -> Picture:
        turned = spectrum * np.exp(2j * np.pi * time * (across * columns + down * rows))
        return np.fft.irfft2(turned, (2 * HEIGHT, 2 * WIDTH))[:HEIGHT, :WIDTH]

    return seen


def box(speed: float, size: int = 40) -> Scene:
    """Something small that crosses a still ground."""
    ground, thing = texture(2)[:HEIGHT, :WIDTH], 255 - texture(3)[:size, :size]

    def seen(time: float) -> Picture:
        picture = ground.copy()
        left = int(20 + speed * time) % (WIDTH - size)
        picture[50 : 50 + size, left : left + size] = thing
        return picture

    return seen


def page(size: int) -> Picture:
    """Rows of text in that size, white on black, thirty pictures high."""
    image = Image.new("L", (WIDTH, 30 * HEIGHT), 20)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    letters = np.random.default_rng(size)
    for top in range(4, image.height, size * 3 // 2):
        text = "".join(letters.choice(list("abcdefghijklmnopqrstuvwxyz  ABCETH"), 40))
        draw.text((int(letters.integers(2, 30)), top), text, fill=235, font=font)
    return np.asarray(image, np.float64)


def scrolled(size: int, lines: int) -> Scene:
    """Text that scrolls by so many lines a field."""
    text = page(size)
    return lambda time: text[int(lines * time) : int(lines * time) + HEIGHT]


def woven(scene: Scene, *, top_first: bool = True) -> Iterator[Picture]:
    """Frames of two fields, each with what was seen at its own time."""
    time = 0
    while True:
        pictures = scene(time), scene(time + 1)
        upper, lower = pictures if top_first else reversed(pictures)
        frame = upper.copy()
        frame[1::2] = lower[1::2]
        yield frame
        time += 2


def progressive(scene: Scene) -> Iterator[Picture]:
    time = 0
    while True:
        yield scene(time)
        time += 2


def telecined(scene: Scene) -> Iterator[Picture]:
    """Film of 24 pictures a second, shown for three fields and two in turn (3:2 pulldown)."""
    fields: list[Picture] = []
    picture = 0
    while True:
        while len(fields) < 2:
            fields += [scene(2.5 * picture)] * (2 + picture % 2)
            picture += 1
        frame = fields[0].copy()
        frame[1::2] = fields[1][1::2]
        fields = fields[2:]
        yield frame


def noisy(pictures: Iterator[Picture], codes: float) -> Iterator[Picture]:
    noise = np.random.default_rng(7)
    for picture in pictures:
        yield picture + noise.normal(0, codes, picture.shape)


def frame_of(picture: Picture, pix_fmt: str = "gray") -> av.VideoFrame:
    """The picture as luma (in RGB as green), the other components flat."""
    if pix_fmt == "rgb24":  # whose components share a plane
        return frame_of(picture, "gbrp").reformat(format=pix_fmt)
    height, width = picture.shape
    frame = av.VideoFrame(width, height, pix_fmt)
    shift = frame.format.components[0].bits - 8
    kind = np.uint16 if shift else np.uint8
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
        rows[:] = 128 << shift
        if index == 0:
            codes = np.clip(np.round(picture * (1 << shift)), 0, 255 << shift)
            rows[:, :width] = codes.astype(kind)
    return frame


def flagged(frame: av.VideoFrame, mode: str) -> av.VideoFrame:
    """The frame with the flags that FFmpeg's ``setfield`` gives it."""
    graph = Graph()
    source = graph.add_buffer(template=frame, time_base="1/1")
    sink = graph.add("buffersink")
    graph.link_nodes(source, graph.add("setfield", mode), sink).configure()
    source.push(frame)
    made = sink.pull()
    assert isinstance(made, av.VideoFrame)
    return made


def judged(
    pictures: Iterator[Picture],
    coded: FieldOrder = "unknown",
    *,
    pix_fmt: str = "gray",
    flags: str | None = None,
) -> Fields:
    frames = (frame_of(picture, pix_fmt) for picture in pictures)
    if flags is not None:
        frames = (flagged(frame, flags) for frame in frames)
    return judge((islice(frames, _GROUP) for _ in range(_GROUPS)), coded)


MOVING: dict[str, Scene] = {
    **{f"pan by {speed}": pan(speed) for speed in (0.25, 0.5, 1, 3, 8, 20)},
    **{f"tilt by {speed}": pan(0, speed) for speed in (1, 2.5, 7)},
    "pan of fine texture": pan(2, seed=4, slope=0.5),
    "pan of soft texture": pan(3, 0.5, seed=5, slope=1.6),
    **{f"a box by {speed}": box(speed) for speed in (3, 10)},
    "a large box by 1": box(1, 60),
    "credits by 1": scrolled(13, 1),
    "credits by 2": scrolled(18, 2),
}


@pytest.mark.parametrize("top_first", [True, False], ids=["top first", "bottom first"])
@pytest.mark.parametrize("name", MOVING)
def test_woven_fields_are_found_in_their_order(name: str, top_first: bool) -> None:
    found = judged(woven(MOVING[name], top_first=top_first))
    assert found.measured == ("top first" if top_first else "bottom first")
    assert (found.interlaced, found.top_first) == (True, top_first)
    assert found.coded == "unknown"
    assert found.note is None
    assert found.pictures == _GROUPS * (_GROUP - 2)


@pytest.mark.parametrize("name", MOVING)
def test_progressive_pictures_are_not_interlaced(name: str) -> None:
    found = judged(progressive(MOVING[name]))
    assert not found.interlaced
    assert found.measured in ("progressive", "unknown")
    assert found.top == found.bottom == 0


@pytest.mark.parametrize("size", [8, 10, 13, 18, 24])
@pytest.mark.parametrize("lines", [1, 2, 3, 4, 6])
def test_progressive_text_may_scroll_by_any_number_of_lines(size: int, lines: int) -> None:
    # By 2 * lines a picture: of an even number the rows seem to fit the next field's.
    assert not judged(progressive(scrolled(size, lines))).interlaced


@pytest.mark.parametrize("codes", [2, 10, 30])
@pytest.mark.parametrize("order", ["top first", "bottom first", "progressive"])
def test_noise_over_what_moves(codes: float, order: FieldOrder) -> None:
    scene = pan(3)
    pictures = (
        progressive(scene) if order == "progressive" else woven(scene, top_first=order[0] == "t")
    )
    found = judged(noisy(pictures, codes))
    assert found.interlaced == (order != "progressive")
    if found.interlaced:
        assert found.measured == order


def still(value: Picture) -> Iterator[Picture]:
    while True:
        yield value


def cuts(every: int) -> Iterator[Picture]:
    number = 0
    while True:
        yield texture(10 + number // every)[:HEIGHT, :WIDTH]
        number += 1


def on_twos(scene: Scene) -> Iterator[Picture]:
    number = 0
    while True:
        yield scene(number // 2 * 4)
        number += 1


STILL: dict[str, Callable[[], Iterator[Picture]]] = {
    "flat": lambda: still(np.full((HEIGHT, WIDTH), 128.0)),
    "still": lambda: still(texture(6)[:HEIGHT, :WIDTH]),
    "flat with noise": lambda: noisy(still(np.full((HEIGHT, WIDTH), 128.0)), 5),
    "still with noise": lambda: noisy(still(texture(6)[:HEIGHT, :WIDTH]), 10),
    "noise alone": lambda: noisy(still(np.full((HEIGHT, WIDTH), 128.0)), 60),
    "small noise": lambda: noisy(still(np.full((26, 34), 128.0)), 60),
    "tiny noise": lambda: noisy(still(np.full((16, 16), 128.0)), 60),
    "a cut at every picture": lambda: cuts(1),
    "a cut at every second picture": lambda: cuts(2),
    "drawn on twos": lambda: on_twos(pan(3)),
    "text on twos": lambda: on_twos(scrolled(13, 1)),
    # Too little of the picture combs.
    "a small slow box, woven": lambda: woven(box(1, 20)),
}


@pytest.mark.parametrize("name", STILL)
def test_what_hardly_moves_is_not_called_interlaced(name: str) -> None:
    found = judged(STILL[name]())
    assert not found.interlaced
    assert found.note is None


@pytest.mark.parametrize("coded", ["top first", "bottom first"])
@pytest.mark.parametrize("name", STILL)
def test_what_hardly_moves_keeps_an_interlaced_flag(name: str, coded: FieldOrder) -> None:
    found = judged(STILL[name](), coded)
    if "cut" in name or "drawn" in name:  # whose pictures are seen to be whole
        assert not found.interlaced
    else:
        assert (found.interlaced, found.top_first) == (True, coded == "top first")
        assert found.measured == "unknown"


def test_telecined_film_says_how_much_of_it_is_progressive() -> None:
    found = judged(telecined(pan(3)))
    assert found.interlaced
    # Of five frames the third and the fourth are woven, and only the first shares no field
    # with the frame before or after; in each group of ten the ends give no verdict.
    assert (found.top, found.bottom, found.progressive) == (4 * _GROUPS, 0, _GROUPS)
    assert f"top field first by {found.top} of {found.pictures} pictures" in choices(found)
    assert f"; {found.progressive} are progressive, as in telecined film)" in choices(found)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "gbrp", "rgb24", "nv12", "yuv422p"])
def test_other_pixel_formats(pix_fmt: str) -> None:
    found = judged(woven(pan(3), top_first=False), pix_fmt=pix_fmt)
    assert found.measured == "bottom first"
    assert judged(progressive(pan(3)), pix_fmt=pix_fmt).measured == "progressive"


def test_an_interlaced_flag_over_progressive_pictures_is_overruled() -> None:
    found = judged(progressive(pan(3)), "top first", flags="tff")
    assert (found.coded, found.measured) == ("top first", "progressive")
    assert not found.interlaced
    assert found.note == (
        "flagged as interlaced, top field first, but the pictures are progressive "
        f"(idet: {found.progressive} of {found.pictures})"
    )


def test_a_progressive_flag_over_woven_fields_is_overruled() -> None:
    found = judged(woven(pan(3), top_first=False), "progressive", flags="prog")
    assert (found.coded, found.measured) == ("progressive", "bottom first")
    assert (found.interlaced, found.top_first) == (True, False)
    assert found.note == (
        "flagged as progressive, but the pictures are interlaced, bottom field first "
        f"(idet: {found.bottom} of {found.pictures})"
    )
    assert "bottom field first by " in choices(found)
    assert "its flags" not in choices(found)


def test_the_wrong_order_in_the_flags_is_overruled() -> None:
    found = judged(woven(pan(3)), "bottom first", flags="bff")
    assert (found.coded, found.measured) == ("bottom first", "top first")
    assert (found.interlaced, found.top_first) == (True, True)
    assert found.note is not None
    assert "flagged as interlaced, bottom field first, but" in found.note


@pytest.mark.parametrize(("flags", "expected"), [("tff", "top first"), ("bff", "bottom first")])
def test_flags_of_frames_count_before_parameters(flags: str, expected: str) -> None:
    found = judged(STILL["still"](), "progressive", flags=flags)
    assert found.coded == expected
    assert found.top_first == (flags == "tff")
    assert choices(found).startswith(
        f"the video is interlaced ({expected.split()[0]} field first by its flags); choose "
    )


def test_few_pictures_do_not_overrule_the_order_in_the_flags() -> None:
    parts = [STILL["still"](), woven(pan(3)), STILL["flat"]()]
    groups = ((frame_of(picture) for picture in islice(part, _GROUP)) for part in parts)
    found = judge(groups, "bottom first")
    assert (found.coded, found.measured, found.top) == ("bottom first", "top first", _GROUP - 2)
    assert (found.interlaced, found.top_first) == (True, False)
    assert found.note is not None
    assert found.note.endswith("(idet: 8 of 24), too few to overrule the flags")
    assert choices(found).startswith(
        "the video is interlaced (bottom field first by its flags); choose "
    )


@pytest.mark.parametrize("coded", ["top first", "bottom first", "progressive"])
def test_where_both_orders_are_seen_the_flags_decide(coded: FieldOrder) -> None:
    parts = [woven(pan(3)), woven(pan(3, seed=9)), woven(pan(2), top_first=False)]
    groups = ((frame_of(picture) for picture in islice(part, 20)) for part in parts)
    found = judge(groups, coded)
    assert (found.top, found.bottom, found.measured) == (36, 18, "unknown")
    assert found.interlaced == (coded != "progressive")
    assert found.top_first == (coded != "bottom first")


def test_small_noise_never_looks_interlaced() -> None:
    # Each alone is judged by few pictures, so that chance has a hundred chances.
    noise = np.random.default_rng(11)
    for _ in range(100):
        group = [frame_of(noise.uniform(0, 255, (26, 34))) for _ in range(_GROUP)]
        found = judge([group])
        assert not found.interlaced, found


def test_few_interlaced_pictures_of_a_long_video_need_a_choice() -> None:
    # One part of three is interlaced.
    parts = [progressive(pan(3)), woven(pan(3)), progressive(pan(2, seed=9))]
    found = judge([frame_of(picture) for picture in islice(part, 12)] for part in parts)
    assert (found.measured, found.top, found.progressive) == ("top first", 10, 20)
    assert found.interlaced


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_too_few_frames_tell_nothing(frames: int) -> None:
    group = [frame_of(picture) for picture in islice(woven(pan(3)), frames)]
    found = judge([group])
    assert (found.pictures, found.measured, found.interlaced) == (0, "unknown", False)
    assert judge([group], "bottom first").top_first is False


def test_a_change_of_size_begins_anew() -> None:
    large = [frame_of(picture) for picture in islice(woven(pan(3)), 8)]
    small = [frame_of(picture[:96, :128]) for picture in islice(woven(pan(3)), 8)]
    found = judge([large + small])
    assert (found.top, found.pictures) == (12, 12)


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_tiny_pictures_are_judged_without_an_error(width: int, height: int) -> None:
    noise = np.random.default_rng(3)
    group = [frame_of(noise.uniform(0, 255, (height, width))) for _ in range(6)]
    assert not judge([group]).interlaced


def test_pixel_formats_of_no_planes_are_refused() -> None:
    with pytest.raises(InputError, match="pixel format"):
        judge([[av.VideoFrame(16, 16, "bayer_rggb8")]])


def test_field_orders_in_words() -> None:
    # AVFieldOrder of libavcodec/defs.h: UNKNOWN, PROGRESSIVE, TT, BB, TB, BT. The second
    # letter is the field shown first.
    words = ", ".join(field_order(value) for value in range(6))
    assert words == "unknown, progressive, top first, bottom first, bottom first, top first"
    assert field_order(99) == "unknown"
