"""YUV, GRAY and integer RGB through the filter: the command line's frames, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import vapoursynth as vs
from hatvid_vs import upscale
from torch import Tensor

import hatvid
from hatvid.video.convert import frame_to_planes

HEIGHT, WIDTH = 48, 64
EAGER: dict[str, Any] = {"engine": "eager", "precision": "fp32", "threads": 1}

ClipOf = Callable[..., vs.VideoNode]
PlanesIn = Callable[[vs.VideoFrame], list[Tensor]]


def write(
    path: Path,
    *,
    pix_fmt: str = "yuv420p",
    codec: str = "ffv1",
    pts: tuple[int, ...] = (0, 1, 2),
    time_base: Fraction = Fraction(1, 25),
    options: dict[str, str] | None = None,
    **tags: int,
) -> Path:
    """A clip of noise that moves, in codes of any value."""
    rng = np.random.default_rng(len(pix_fmt))
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        context = stream.codec_context
        context.time_base = time_base
        for name, value in tags.items():
            setattr(context, name, value)
        for number, stamp in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 5 * number, 1), "rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = stamp, time_base
            for name, value in tags.items():
                setattr(frame, {"chroma_sample_location": "chroma_location"}.get(name, name), value)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def frames_in(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(path)) as container:
        yield from container.decode(video=0)


KINDS: dict[str, dict[str, Any]] = {
    "709 limited": {"colorspace": 1, "color_range": 1},
    "601 full": {"colorspace": 6, "color_range": 2},
    "2020, 10 bit": {"colorspace": 9, "color_range": 1, "pix_fmt": "yuv420p10le"},
    "4:2:2, 12 bit, full": {"colorspace": 5, "color_range": 2, "pix_fmt": "yuv422p12le"},
    "4:4:4, 16 bit": {"colorspace": 1, "color_range": 1, "pix_fmt": "yuv444p16le"},
    "4:1:1": {"colorspace": 6, "color_range": 1, "pix_fmt": "yuv411p"},
    "untagged": {},
    "gray": {"pix_fmt": "gray"},
    "gray, 16 bit, full": {"pix_fmt": "gray16le", "color_range": 2},
    "RGB, 10 bit": {"pix_fmt": "gbrp10le"},
    "RGB, 16 bit": {"pix_fmt": "gbrp16le"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_the_command_line(
    tmp_path: Path, planes_in: PlanesIn, network: str, kind: str
) -> None:
    source = write(tmp_path / "in.mkv", **KINDS[kind])
    options: dict[str, Any] = {"model": network, "tile": 32, "batch": 4, **EAGER}
    hatvid.upscale(source, tmp_path / "out.mkv", codec="ffv1", verify="none", **options)
    larger = upscale(vs.core.bs.VideoSource(str(source), cachemode=0), **options)
    wanted = list(frames_in(tmp_path / "out.mkv"))
    assert len(wanted) == larger.num_frames
    for frame, other in zip(larger.frames(), wanted, strict=True):
        planes = planes_in(frame)
        for mine, theirs in zip(planes, frame_to_planes(other)[1], strict=True):
            assert torch.equal(mine, theirs)
        assert planes[0].unique().numel() > 50
        if other.format.name.startswith("yuv"):
            assert frame.props["_Matrix"] == int(other.colorspace)
            assert int(frame.props["_Range"]) == int(other.color_range) - 1


H264 = {"preset": "ultrafast", "crf": "10"}
FILES: dict[str, dict[str, Any]] = {
    "open GOP": {
        "codec": "libx264",
        "pts": tuple(range(20)),
        "options": {
            "preset": "fast",
            "crf": "10",
            "x264-params": "open-gop=1:b-adapt=0:bframes=3:scenecut=0:keyint=8:min-keyint=8",
        },
    },
    "open GOP in HEVC": {
        "codec": "libx265",
        "pts": tuple(range(20)),
        "options": {
            "preset": "ultrafast",
            "x265-params": "log-level=none:keyint=8:min-keyint=8:open-gop=1:bframes=4:b-adapt=0"
            ":scenecut=0",
        },
    },
    "VFR": {
        "codec": "libx264",
        "pts": (0, 40, 80, 180, 200, 233, 300, 1300),
        "time_base": Fraction(1, 1000),
        "options": H264,
    },
}


@pytest.mark.parametrize("kind", FILES)
def test_files_read_by_bestsource(
    tmp_path: Path, planes_in: PlanesIn, network: str, kind: str
) -> None:
    """Backward too: what is decoded from an open GOP must not hang on where reading began."""
    source = write(tmp_path / "in.mkv", colorspace=1, color_range=1, **FILES[kind])
    options: dict[str, Any] = {"model": network, "tile": 0, "batch": 3, **EAGER}
    hatvid.upscale(source, tmp_path / "out.mkv", codec="ffv1", verify="none", **options)
    wanted = list(frames_in(tmp_path / "out.mkv"))
    clip = vs.core.bs.VideoSource(str(source), cachemode=0)
    larger = upscale(clip, num_streams=2, **options)
    assert len(wanted) == larger.num_frames == len(FILES[kind]["pts"])
    for order in (range(len(wanted)), reversed(range(len(wanted)))):
        for number in order:
            with larger.get_frame(number) as frame:
                for mine, theirs in zip(
                    planes_in(frame), frame_to_planes(wanted[number])[1], strict=True
                ):
                    assert torch.equal(mine, theirs)
    steps = [
        Fraction(frame.props["_DurationNum"], frame.props["_DurationDen"])
        for frame in larger[:-1].frames()
    ]
    times = [frame.pts * frame.time_base for frame in wanted]
    assert steps == [after - before for before, after in pairwise(times)]


# -- What frames say, and what is said in its place. --------------------------------------


@pytest.fixture(scope="module")
def noise() -> list[Tensor]:
    """One frame of 4:2:0."""
    random = torch.Generator().manual_seed(5)
    sizes = [(HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (HEIGHT // 2, WIDTH // 2)]
    return [torch.randint(0, 256, (1, *size), generator=random).byte() for size in sizes]


@pytest.fixture
def shown(noise: list[Tensor], clip_of: ClipOf, network: str, planes_in: PlanesIn) -> Any:
    """Planes and properties of the larger frame of a clip with these properties."""

    def run(props: dict[str, int], **options: Any) -> tuple[list[Tensor], dict[str, Any]]:
        clip = clip_of(noise, vs.YUV420P8, **props)
        frame = upscale(clip, model=network, tile=0, **EAGER, **options).get_frame(0)
        return planes_in(frame), dict(frame.props)

    return run


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


LIMITED_709 = {"_Matrix": 1, "_Range": 0, "_ChromaLocation": 0}


@pytest.mark.parametrize("change", [{"_Matrix": 6}, {"_Range": 1}, {"_ChromaLocation": 2}])
def test_each_property_counts_and_an_option_overrules_it(
    shown: Any, change: dict[str, int]
) -> None:
    plain, props = shown(LIMITED_709)
    assert {name: int(props[name]) for name in LIMITED_709} == LIMITED_709
    changed, _ = shown(LIMITED_709 | change)
    assert not same(plain, changed)
    overruled, props = shown(
        LIMITED_709 | change, matrix_in_s="709", range_in_s="limited", chromaloc_in_s="left"
    )
    assert same(plain, overruled)
    assert {name: int(props[name]) for name in LIMITED_709} == LIMITED_709


@pytest.mark.filterwarnings("ignore:The _ColorRange frame property:DeprecationWarning")
def test_the_old_property_of_range_counts_the_other_way_round(shown: Any) -> None:
    full, _ = shown(LIMITED_709 | {"_Range": 1})
    tags = {"_Matrix": 1, "_ChromaLocation": 0}
    assert same(shown(tags | {"_ColorRange": 0})[0], full)
    assert not same(shown(tags | {"_ColorRange": 1})[0], full)


@pytest.mark.parametrize("untagged", [{}, {"_Matrix": 2}, {"_Matrix": 0}])
def test_what_is_not_said_is_assumed_and_tagged(shown: Any, untagged: dict[str, int]) -> None:
    planes, props = shown(untagged)
    assert {name: int(props[name]) for name in LIMITED_709} == LIMITED_709 | {"_Matrix": 6}
    assert same(planes, shown(LIMITED_709 | {"_Matrix": 6})[0])


def test_it_is_told_once(clip_of: ClipOf, network: str) -> None:
    told: list[str] = []
    handle = vs.core.add_log_handler(lambda kind, text: told.append(text))
    try:
        gray = clip_of([torch.zeros(5, 16, 16, dtype=torch.uint8)], vs.GRAY8)
        for _ in upscale(gray, model=network, tile=0, **EAGER).frames():
            pass
    finally:
        vs.core.remove_log_handler(handle)
    assert [text for text in told if "hatvid" in text] == [
        "hatvid: colours: unspecified unspecified -> smpte170m limited, and tagged so"
    ]


def test_each_frame_is_read_by_its_own_properties(
    noise: list[Tensor], clip_of: ClipOf, network: str, planes_in: PlanesIn
) -> None:
    kinds = [{"_Matrix": 1, "_Range": 0}, {"_Matrix": 6, "_Range": 1}, {"_Matrix": 9, "_Range": 0}]
    clips = [clip_of(noise, vs.YUV420P8, **kind) for kind in kinds]
    options: dict[str, Any] = {"model": network, "tile": 0, "batch": 3, **EAGER}
    together = upscale(vs.core.std.Splice(clips), **options)
    for clip, frame in zip(clips, together.frames(), strict=True):
        alone = upscale(clip, **options).get_frame(0)
        assert same(planes_in(frame), planes_in(alone))
        assert frame.props["_Matrix"] == alone.props["_Matrix"]


@pytest.mark.parametrize(
    ("props", "says"),
    [({"_Matrix": 10}, "bt2020c is not supported; convert"), ({"_Matrix": 99}, "matrix 99")],
)
def test_a_matrix_without_a_formula(shown: Any, props: dict[str, int], says: str) -> None:
    with pytest.raises(vs.Error, match=rf"hatvid: .*{says}"):
        shown(props)


def test_a_size_that_the_format_does_not_hold(
    noise: list[Tensor], clip_of: ClipOf, network: str
) -> None:
    clip = clip_of(noise, vs.YUV420P8)
    with pytest.raises(vs.Error, match=r"^hatvid: YUV420P8 has no size of 127x96; .*2 times"):
        upscale(clip, model=network, width=127, height=96)
