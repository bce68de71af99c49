"""Colour against zimg, an implementation that shares nothing with hatvid's.

Each case covers every matrix at one layout. The samples are noise over the whole legal
range, so that neighbours differ as much as they can and most of the colours lie
outside the RGB cube; every sample is compared, those at the edges too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import vapoursynth as vs
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hatvid.errors import InputError
from hatvid.video.color import (
    ColorTags,
    alpha_to_rgb,
    assumed,
    matrix_name,
    planes_to_rgb,
    retagged,
    rgb_to_alpha,
    rgb_to_planes,
    with_edge_repeated,
)
from hatvid.video.convert import PlaneLayout, frame_to_planes, planes_to_frame

Planes = list[NDArray[np.integer]]

MATRICES = {"709": 1, "fcc": 4, "470bg": 5, "170m": 6, "240m": 7, "ycgco": 8, "2020": 9}
LEFT, CENTER, TOPLEFT, TOP, BOTTOMLEFT, BOTTOM = range(1, 7)
HEIGHT, WIDTH = 26, 38
RGB_TOLERANCE = 0.01 / 255


def layout_of(pix_fmt: str) -> PlaneLayout:
    layout = PlaneLayout.of(pix_fmt)
    assert layout is not None
    return layout


def zimg_format(layout: PlaneLayout) -> int:
    family = {"yuv": vs.YUV, "gray": vs.GRAY, "rgb": vs.RGB}[layout.family]
    across, down = layout.log2_chroma_w, layout.log2_chroma_h
    found = vs.core.query_video_format(family, vs.INTEGER, layout.depth, across, down)
    return int(found.id)


def zimg_clip(fmt: int, planes: list[NDArray[np.generic]], **props: int) -> vs.VideoNode:
    height, width = planes[0].shape

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        filled = f.copy()
        for index, plane in enumerate(planes):
            np.asarray(filled[index])[:] = plane
        return filled

    blank = vs.core.std.BlankClip(format=fmt, width=width, height=height, length=1)
    return blank.std.ModifyFrame(blank, fill).std.SetFrameProps(**props)


def zimg_planes(clip: vs.VideoNode) -> list[NDArray[np.generic]]:
    with clip.get_frame(0) as frame:
        return [np.asarray(plane).copy() for plane in frame]


# Catmull-Rom, as hatvid resamples chroma.
CUBIC = {
    "filter_param_a": 0,
    "filter_param_b": 0.5,
    "filter_param_a_uv": 0,
    "filter_param_b_uv": 0.5,
}


def zimg_to_rgb(planes: Planes, layout: PlaneLayout, tags: ColorTags) -> NDArray[np.float32]:
    """Decode by zimg; odd sizes as a corner of an even one, which VapourSynth asks for."""
    height, width = planes[0].shape
    across, down = 1 << layout.log2_chroma_w, 1 << layout.log2_chroma_h
    rest = ((0, -height % down), (0, -width % across))
    whole = [np.pad(planes[0], rest, "edge"), *planes[1:]]
    props = {"_Matrix": tags.matrix, "_Range": int(bool(tags.full_range))}
    if tags.chroma_location:
        props["_ChromaLocation"] = tags.chroma_location - 1
    clip = zimg_clip(zimg_format(layout), whole, **props)
    decoded = clip.resize.Bicubic(format=vs.RGBS, **CUBIC)
    return np.stack(zimg_planes(decoded))[:, :height, :width].astype(np.float32)


def zimg_from_rgb(rgb: NDArray[np.float32], layout: PlaneLayout, tags: ColorTags) -> Planes:
    """Encode by zimg; odd sizes with the picture mirrored beyond its edge first."""
    height, width = rgb.shape[1:]
    odd = height % 4 or width % 4
    more = ((0, 0), (0, -height % 4 + 16), (0, -width % 4 + 16))
    whole = np.pad(rgb, more, "symmetric") if odd else rgb
    clip = zimg_clip(vs.RGBS, list(whole), _Matrix=0)
    target = {} if layout.family == "rgb" else {"matrix": tags.matrix}
    if tags.chroma_location:
        target["chromaloc"] = tags.chroma_location - 1
    encoded = clip.resize.Bicubic(
        format=zimg_format(layout),
        range=int(bool(tags.full_range)),
        dither_type="none",
        **target,
        **CUBIC,
    )
    shapes = layout.plane_shapes(height, width)
    return [p[:h, :w] for p, (h, w) in zip(zimg_planes(encoded), shapes, strict=True)]


def noise(layout: PlaneLayout, height: int, width: int, full: bool, seed: int) -> Planes:
    """Every legal code is as likely as any other."""
    rng = np.random.default_rng(seed)
    unit = 1 << (layout.depth - 8)
    kind = np.uint8 if layout.depth == 8 else np.uint16
    planes = []
    for index, shape in enumerate(layout.plane_shapes(height, width)):
        top = 235 if index == 0 or layout.family == "rgb" else 240
        low, high = (0, (1 << layout.depth) - 1) if full else (16 * unit, top * unit)
        planes.append(rng.integers(low, high, shape, endpoint=True).astype(kind))
    return planes


def batched(planes: Planes) -> list[torch.Tensor]:
    return [torch.from_numpy(plane)[None] for plane in planes]


def check_both_ways(layout: PlaneLayout, height: int, width: int, tags: ColorTags) -> None:
    planes = noise(layout, height, width, bool(tags.full_range), seed=height * width)
    theirs = zimg_to_rgb(planes, layout, tags)
    ours = planes_to_rgb(batched(planes), layout, tags)
    assert ours.shape == (1, 3, height, width)
    assert ours.dtype == torch.float32
    if layout.family == "yuv" and theirs.size > 1000:
        # Else a clamped conversion would pass.
        assert theirs.min() < -0.1
        assert theirs.max() > 1.1
    np.testing.assert_allclose(ours[0].numpy(), theirs, rtol=0, atol=RGB_TOLERANCE)

    # Back from colours that are not in any way those of the planes.
    rng = np.random.default_rng(height + width)
    rgb = rng.uniform(-0.25, 1.25, (3, height, width)).astype(np.float32)
    if layout.family == "gray":
        rgb = np.repeat(rgb[:1], 3, axis=0)
    codes = rgb_to_planes(torch.from_numpy(rgb)[None], layout, tags)
    expected = zimg_from_rgb(rgb, layout, tags)
    differing = total = 0
    for mine, reference in zip(codes, expected, strict=True):
        assert mine.dtype == layout.dtype
        error = np.abs(mine[0].numpy().astype(int) - reference.astype(int))
        assert error.max() <= 1
        differing += int((error > 0).sum())
        total += error.size
    # Only a value on the border between two codes may be rounded otherwise. The border is
    # as wide as the fp32 of both: at 16 bit, 1/256 of a code.
    allowed = total // (100 if layout.depth == 16 else 1000)
    assert differing <= max(1, allowed), f"{differing} of {total} samples differ"


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("location", [LEFT, CENTER, TOPLEFT], ids=["left", "center", "topleft"])
@pytest.mark.parametrize("depth", ["", "10le", "12le"], ids=["8", "10", "12"])
@pytest.mark.parametrize("sampling", ["420", "422"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_subsampled(matrix: str, sampling: str, depth: str, location: int, full: bool) -> None:
    layout = layout_of(f"yuv{sampling}p{depth}")
    tags = ColorTags(matrix=MATRICES[matrix], full_range=full, chroma_location=location)
    check_both_ways(layout, HEIGHT, WIDTH, tags)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("depth", ["", "10le", "12le", "16le"], ids=["8", "10", "12", "16"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_444(matrix: str, depth: str, full: bool) -> None:
    layout = layout_of(f"yuv444p{depth}")
    tags = ColorTags(matrix=MATRICES[matrix], full_range=full)
    check_both_ways(layout, HEIGHT, WIDTH, tags)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 3), (17, 33), (25, 38), (26, 37)])
@pytest.mark.parametrize("location", range(1, 7))
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv440p", "yuv411p", "yuv410p"])
def test_odd_sizes_and_all_locations(pix_fmt: str, location: int, size: tuple[int, int]) -> None:
    tags = ColorTags(matrix=6, full_range=False, chroma_location=location)
    check_both_ways(layout_of(pix_fmt), *size, tags)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray12le", "gbrp", "gbrp10le"])
def test_gray_and_rgb(pix_fmt: str, full: bool) -> None:
    layout = layout_of(pix_fmt)
    tags = ColorTags(matrix=0 if layout.family == "rgb" else 1, full_range=full)
    check_both_ways(layout, 25, 37, tags)


@pytest.mark.parametrize("depth", [8, 10, 16])
def test_codes_are_cut_to_the_depth(depth: int) -> None:
    layout = layout_of("yuv444p" if depth == 8 else f"yuv444p{depth}le")
    rgb = torch.tensor([-9.0, 9.0, float("nan"), float("inf"), -float("inf")])
    rgb = rgb.view(1, 1, 1, 5).expand(1, 3, 1, 5)
    luma = rgb_to_planes(rgb, layout, ColorTags(matrix=1, full_range=False))[0]
    top = 2**depth - 1
    assert luma[0, 0].tolist() == [0, top, 0, top, 0]


REPEATED = [
    (pix_fmt + depth, location)
    for depth in ("", "10le")
    for pix_fmt, locations in (
        ("yuv420p", (LEFT, CENTER, TOPLEFT)),
        ("yuv422p", (LEFT, CENTER)),
        ("yuv444p", (0,)),
    )
    for location in locations
]


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", ["709", "470bg", "170m", "240m", "fcc", "ycgco", "2020"])
@pytest.mark.parametrize(
    ("pix_fmt", "location"), [*REPEATED, ("yuv420p12le", LEFT), ("yuv444p12le", 0)]
)
def test_a_network_that_repeats_pixels(
    pix_fmt: str, location: int, matrix: str, full: bool
) -> None:
    """The whole chain: what is not resampled comes back, chroma is where zimg puts it."""
    layout = layout_of(pix_fmt)
    tags = ColorTags(matrix=MATRICES[matrix], full_range=full, chroma_location=location)
    planes = noise(layout, HEIGHT, WIDTH, full, seed=5)
    rgb = planes_to_rgb(batched(planes), layout, tags)
    ours = rgb_to_planes(rgb.repeat_interleave(4, 2).repeat_interleave(4, 3), layout, tags)
    larger = zimg_to_rgb(planes, layout, tags).repeat(4, axis=1).repeat(4, axis=2)
    theirs = zimg_from_rgb(larger, layout, tags)
    for number, (mine, small, reference) in enumerate(zip(ours, planes, theirs, strict=True)):
        full_size = number == 0 or "444" in pix_fmt
        expected = small.repeat(4, 0).repeat(4, 1) if full_size else reference
        assert mine.shape[1:] == expected.shape
        assert np.abs(mine[0].numpy().astype(int) - expected.astype(int)).max() <= 1
    if "444" not in pix_fmt:  # or the siting were not tested
        other = replace(tags, chroma_location=CENTER if location == LEFT else LEFT)
        elsewhere = rgb_to_planes(torch.from_numpy(larger)[None], layout, other)
        assert np.abs(elsewhere[1][0].numpy().astype(int) - theirs[1].astype(int)).max() > 1


@pytest.mark.parametrize(
    "pix_fmt", ["nv12", "p010le", "uyvy422", "rgb24", "bgra", "gray16be", "yuv420p10be", "ya8"]
)
def test_packed_frames_mean_what_their_planes_mean(pix_fmt: str) -> None:
    """All the way from a frame in that packing."""
    packed = PlaneLayout.packed(pix_fmt)
    assert packed is not None
    stored = noise(packed, HEIGHT, WIDTH, False, seed=11)
    frame = planes_to_frame(tuple(torch.from_numpy(plane) for plane in stored), packed)
    assert frame.format.name == pix_fmt
    layout, planes = frame_to_planes(frame)
    tags = assumed(ColorTags(full_range=False), layout, HEIGHT, WIDTH)
    ours = planes_to_rgb([plane[None] for plane in planes], layout, tags)
    theirs = zimg_to_rgb(stored[: 1 if layout.family == "gray" else 3], layout, tags)
    np.testing.assert_allclose(ours[0].numpy(), theirs, rtol=0, atol=RGB_TOLERANCE)


@pytest.mark.parametrize("pix_fmt", ["yuva420p", "yuva444p10le", "gbrap", "gbrap16le", "ya8"])
def test_alpha_goes_beside(pix_fmt: str) -> None:
    """Opaque stays opaque, whatever the range of the colours; colours do not see it."""
    layout = layout_of(pix_fmt)
    planes = [torch.from_numpy(p)[None] for p in noise(layout, 6, 10, False, seed=3)]
    top = 2**layout.depth - 1
    planes[-1][0, 0, :3] = torch.tensor([0, top // 2, top]).to(layout.dtype)
    tags = assumed(ColorTags(full_range=False), layout, 6, 10)
    picture = alpha_to_rgb(planes, layout)
    assert picture.shape == (1, 3, 6, 10)
    for channel in picture[0]:
        assert channel[0, :3].tolist() == pytest.approx([0, (top // 2) / top, 1])
    assert torch.equal(rgb_to_alpha(picture, layout), planes[-1])
    assert rgb_to_alpha(picture * 2 - 0.5, layout)[0, 0, 0] == 0
    colours = rgb_to_planes(planes_to_rgb(planes, layout, tags), layout, tags)
    assert len(colours) == len(planes) - 1
    planes[-1] = torch.zeros_like(planes[-1])
    again = rgb_to_planes(planes_to_rgb(planes, layout, tags), layout, tags)
    assert all(torch.equal(one, two) for one, two in zip(colours, again, strict=True))


def test_an_odd_edge_is_repeated() -> None:
    picture = torch.arange(12.0).view(1, 1, 3, 4)
    assert with_edge_repeated(picture, 4, 4)[0, 0, -1].tolist() == [8, 9, 10, 11]
    assert with_edge_repeated(picture, 3, 5)[0, 0, :, -1].tolist() == [3, 7, 11]
    assert torch.equal(with_edge_repeated(picture, 3, 4), picture)


@pytest.mark.parametrize(
    ("source", "target", "matrix", "full", "location"),
    [
        ("yuv420p", "yuv420p", 9, True, TOPLEFT),
        ("yuv420p", "yuv444p10le", 9, True, 0),
        ("yuv444p", "yuv420p", 9, True, LEFT),
        ("gray", "yuv420p", 9, True, LEFT),
        ("yuv420p", "gray", 9, True, 0),
        ("yuv420p", "gbrp", 0, True, 0),
        ("gbrp", "yuv420p", 1, False, LEFT),
        ("gbrp", "gray", 1, False, 0),
    ],
)
def test_tags_of_another_layout(
    source: str, target: str, matrix: int, full: bool, location: int
) -> None:
    given_tags = ColorTags(
        matrix=9, full_range=True, primaries=9, transfer=16, chroma_location=TOPLEFT
    )
    tags = assumed(given_tags, layout_of(source), 360, 640)
    made = retagged(tags, layout_of(source), layout_of(target), 720, 1280)
    assert made == ColorTags(
        matrix=matrix, full_range=full, primaries=9, transfer=16, chroma_location=location
    )


@settings(deadline=None)
@given(
    codes=st.lists(st.integers(0, 255), min_size=24, max_size=24),
    matrix=st.sampled_from(sorted(MATRICES.values())),
    pix_fmt=st.sampled_from(["yuv420p", "yuv422p", "yuv444p"]),
    full=st.booleans(),
    location=st.sampled_from([LEFT, CENTER, TOPLEFT]),
)
def test_repetition_keeps_luma(
    codes: list[int], matrix: int, pix_fmt: str, full: bool, location: int
) -> None:
    """Chroma is resampled on both ways, but none of it may leak into luma."""
    layout = layout_of(pix_fmt)
    tags = ColorTags(matrix=matrix, full_range=full, chroma_location=location)
    shapes = layout.plane_shapes(4, 4)
    planes = [
        np.resize(np.roll(codes, 5 * index), shape).astype(np.uint8)
        for index, shape in enumerate(shapes)
    ]
    rgb = planes_to_rgb(batched(planes), layout, tags)
    larger = rgb.repeat_interleave(4, 2).repeat_interleave(4, 3)
    luma = rgb_to_planes(larger, layout, tags)[0][0].numpy().astype(int)
    expected = planes[0].repeat(4, 0).repeat(4, 1).astype(int)
    assert np.abs(luma - expected).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "matrix"),
    [
        (180, 320, 6),
        (480, 720, 6),
        (481, 720, 5),
        (576, 720, 5),
        (576, 1279, 5),
        (577, 720, 1),
        (576, 1280, 1),
        (2160, 3840, 1),
    ],
)
def test_untagged_matrix_goes_by_the_size(height: int, width: int, matrix: int) -> None:
    tags = assumed(ColorTags(), layout_of("yuv420p"), height, width)
    assert tags.matrix == matrix
    assert tags.full_range is False
    assert tags.chroma_location == LEFT


@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("location", range(1, 7))
def test_tags_are_kept(matrix: int, full: bool, location: int) -> None:
    tags = ColorTags(
        matrix=matrix, full_range=full, primaries=9, transfer=16, chroma_location=location
    )
    assert assumed(tags, layout_of("yuv420p10le"), 2160, 3840) == tags


@pytest.mark.parametrize("wrong", [0, 2, 3])
def test_a_matrix_that_tells_nothing_of_yuv_is_replaced(wrong: int) -> None:
    assert assumed(ColorTags(matrix=wrong), layout_of("yuv444p"), 1080, 1920).matrix == 1


@pytest.mark.parametrize("matrix", [10, 11, 12, 13, 14, 15, 16, 17, 99])
def test_an_unsupported_matrix_is_refused_by_name(matrix: int) -> None:
    with pytest.raises(InputError) as caught:
        assumed(ColorTags(matrix=matrix), layout_of("yuv420p"), 1080, 1920)
    assert matrix_name(matrix) in str(caught.value)
    assert "convert" in str(caught.value)


def test_rgb_needs_no_matrix_and_is_full_unless_tagged() -> None:
    layout = layout_of("gbrp")
    assert assumed(ColorTags(matrix=1), layout, 180, 320) == ColorTags(matrix=0, full_range=True)
    assert assumed(ColorTags(full_range=False), layout, 180, 320).full_range is False


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "gray"])
def test_chroma_that_is_not_subsampled_has_no_location(pix_fmt: str) -> None:
    tags = assumed(ColorTags(chroma_location=TOPLEFT), layout_of(pix_fmt), 180, 320)
    assert tags.chroma_location == 0
