"""Samples through whole lossless jobs: repeated where nothing is resampled, zimg's elsewhere."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import vapoursynth as vs
from numpy.typing import NDArray

import hatvid
from hatvid.video.convert import PlaneLayout, frame_to_planes, planes_to_frame

Planes = list[NDArray[Any]]

HEIGHT, WIDTH = 26, 40
MATRICES = {"601": 6, "709": 1, "2020": 9}
LEFT, CENTER, TOPLEFT = 1, 2, 3
# Catmull-Rom, as hatvid resamples chroma.
CUBIC = {
    "filter_param_a": 0,
    "filter_param_b": 0.5,
    "filter_param_a_uv": 0,
    "filter_param_b_uv": 0.5,
}


def noise(layout: PlaneLayout, full: bool, seed: int) -> Planes:
    """Every legal code is as likely as any other, so that most lie outside the RGB cube."""
    rng = np.random.default_rng(seed)
    unit = 1 << (layout.depth - 8)
    planes = []
    for number, shape in enumerate(layout.plane_shapes(HEIGHT, WIDTH)):
        low, high = 16 * unit, (240 if number else 235) * unit
        if full:
            low, high = 0, (1 << layout.depth) - 1
        kind = np.uint8 if layout.depth == 8 else np.uint16
        planes.append(rng.integers(low, high, shape, kind, endpoint=True))
    return planes


def write(path: Path, layout: PlaneLayout, frames: list[Planes], **tags: int) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"qp": "0"})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, layout.pix_fmt
        context.time_base = Fraction(1, 25)
        context.colorspace, context.color_range = tags["matrix"], tags["range"]
        context.chroma_sample_location = tags["location"]
        for number, planes in enumerate(frames):
            frame = planes_to_frame(tuple(map(torch.from_numpy, planes)), layout)
            frame.pts = number
            frame.colorspace, frame.color_range = tags["matrix"], tags["range"]
            frame.chroma_location = tags["location"]
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def read(path: Path) -> tuple[list[Planes], dict[str, int]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    first = frames[0]
    tags = {
        "matrix": int(first.colorspace),
        "range": int(first.color_range),
        "location": int(first.chroma_location),
    }
    return [[plane.numpy() for plane in frame_to_planes(frame)[1]] for frame in frames], tags


def same(told: dict[str, int], tags: dict[str, int], layout: PlaneLayout) -> bool:
    """H.264 and H.265 tell where chroma lies in 4:2:0 alone."""
    if layout.log2_chroma_h == 0:
        told = {**told, "location": tags["location"]}
    return told == tags


def zimg_clip(fmt: int, planes: Planes, **props: int) -> vs.VideoNode:
    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        filled = f.copy()
        for index, plane in enumerate(planes):
            np.asarray(filled[index])[:] = plane
        return filled

    height, width = planes[0].shape
    blank = vs.core.std.BlankClip(format=fmt, width=width, height=height, length=1)
    return blank.std.ModifyFrame(blank, fill).std.SetFrameProps(**props)


def zimg_doubled(planes: Planes, layout: PlaneLayout, tags: dict[str, int]) -> Planes:
    """By zimg to RGB, each pixel repeated, by zimg to YUV of the same kind."""
    fmt = vs.core.query_video_format(
        vs.YUV, vs.INTEGER, layout.depth, layout.log2_chroma_w, layout.log2_chroma_h
    ).id
    full, location = tags["range"] == 2, tags["location"] - 1
    told = {"_Matrix": tags["matrix"], "_Range": int(full), "_ChromaLocation": location}
    decoded = zimg_clip(fmt, planes, **told).resize.Bicubic(format=vs.RGBS, **CUBIC)
    with decoded.get_frame(0) as frame:
        larger = [np.asarray(plane).repeat(2, 0).repeat(2, 1) for plane in frame]
    encoded = zimg_clip(vs.RGBS, larger, _Matrix=0).resize.Bicubic(
        format=fmt,
        matrix=tags["matrix"],
        range=int(full),
        chromaloc=location,
        dither_type="none",
        **CUBIC,
    )
    with encoded.get_frame(0) as frame:
        return [np.asarray(plane).copy() for plane in frame]


CASES = [
    (pix_fmt + depth, location)
    for depth in ("", "10le")
    for pix_fmt, location in (
        ("yuv420p", LEFT),
        ("yuv420p", CENTER),
        ("yuv420p", TOPLEFT),
        ("yuv422p", LEFT),
        ("yuv444p", 0),
    )
]


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(("pix_fmt", "location"), CASES)
def test_a_lossless_job_moves_no_sample_by_more_than_one(
    pix_fmt: str, location: int, matrix: str, full: bool, repeat: hatvid.Upscaler, tmp_path: Path
) -> None:
    layout = PlaneLayout.of(pix_fmt)
    assert layout is not None
    frames = [noise(layout, full, seed) for seed in (1, 2)]
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    tags = {"matrix": MATRICES[matrix], "range": 2 if full else 1, "location": location}
    write(source, layout, frames, **tags)
    written, told = read(source)
    assert same(told, tags, layout)
    np.testing.assert_equal(written, frames)
    hatvid.upscale(source, output, upscaler=repeat, codec="libx265", lossless=True)
    larger, told = read(output)
    assert same(told, tags, layout)
    for planes, ours in zip(frames, larger, strict=True):
        for number, (small, mine) in enumerate(zip(planes, ours, strict=True)):
            if number == 0 or not location:
                expected = small.repeat(2, 0).repeat(2, 1)
            else:
                expected = zimg_doubled(planes, layout, tags)[number]
            assert mine.shape == expected.shape
            assert np.abs(mine.astype(int) - expected.astype(int)).max() <= 1
