"""Segments as files: every packet comes back as the encoder made it, at its very time."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from hatvid.options import EncodeOptions
from hatvid.video.batch import FrameBatch
from hatvid.video.color import ColorTags
from hatvid.video.containers import format_of
from hatvid.video.convert import PlaneLayout
from hatvid.video.encoder_segments import clean_memory, rate_over_all, with_threads
from hatvid.video.encoders import EncoderChoice, choose_encoder
from hatvid.video.encoding import OutputFormat, VideoEncoder
from hatvid.video.pictures import FrameTime
from hatvid.video.segment_file import SegmentWriter, read_packets, unfit

LAYOUT = PlaneLayout.packed("yuv420p")
TAGS = ColorTags(matrix=1, full_range=False, primaries=1, transfer=1, chroma_location=1)
STAMPS = (0, 3, 4, 9, 10, 11, 30, 31, 40, 41, 42, 55)


def choice(codec: str | None = None, container: str = "mkv", **options: Any) -> EncoderChoice:
    assert LAYOUT is not None
    return choose_encoder(EncodeOptions(codec=codec, **options), format_of(container), LAYOUT)


def form(encoder: EncoderChoice, container: str, tick: Fraction) -> OutputFormat:
    return OutputFormat(
        container=format_of(container),
        encoder=encoder,
        width=64,
        height=48,
        tags=replace(TAGS, full_range=encoder.codec == "mjpeg"),
        time_base=tick,
        rate=Fraction(24),
        sample_aspect_ratio=None,
    )


def batch(shift: int) -> FrameBatch:
    noise = torch.Generator().manual_seed(3)
    shapes = LAYOUT.plane_shapes(48, 64) if LAYOUT is not None else []
    planes = tuple(
        torch.randint(16, 235, (len(STAMPS), *shape), generator=noise).to(torch.uint8)
        for shape in shapes
    )
    times = tuple(
        FrameTime(pts=pts + shift, duration=number + 1) for number, pts in enumerate(STAMPS)
    )
    return FrameBatch(planes=planes, times=times)


@pytest.mark.parametrize("tick", [Fraction(1, 24), Fraction(1001, 30000), Fraction(1, 90000)])
@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("libx264", "mp4"),
        ("libx264", "ts"),
        ("libx265", "mkv"),
        ("libvpx-vp9", "webm"),
        ("libsvtav1", "mkv"),
        ("ffv1", "mkv"),
        ("mjpeg", "mov"),
    ],
)
@pytest.mark.parametrize("shift", [0, 100_000])
def test_packets_come_back_as_the_encoder_made_them(
    codec: str, container: str, tick: Fraction, shift: int, tmp_path: Path
) -> None:
    encoder = with_threads(choice(codec, container), 1)
    wanted = form(encoder, container, tick)
    path = tmp_path / "segment.nut"
    with path.open("w+b") as file:
        writer = SegmentWriter(file, wanted, shift=7)
        writer.write(batch(shift + 7))
        facts = writer.finish()
    assert facts.times == tuple((pts + shift, n + 1) for n, pts in enumerate(STAMPS))
    direct = []
    with av.open(io.BytesIO(), "w", format=wanted.container.muxer) as output:
        again = VideoEncoder(output, wanted)
        assert again.extradata == facts.extradata
        for number, time in enumerate(batch(shift).times):
            planes = tuple(plane[number] for plane in batch(shift).planes)
            direct += [(p.pts, bytes(p)) for p in again.encode(planes, time, time.pts, None)]
        direct += [(p.pts, bytes(p)) for p in again.finish()]
        output.start_encoding()
    assert [(p.pts, bytes(p)) for p in read_packets(path, facts.lead, tick)] == direct


@pytest.mark.parametrize(
    ("codec", "container", "why"),
    [
        ("prores_ks", "mov", "does not support"),
        (None, "y4m", "no times"),
        ("libx264", "mp4", None),
    ],
)
def test_what_cannot_be_stored_is_known_before(
    codec: str | None, container: str, why: str | None
) -> None:
    found = unfit(form(choice(codec, container), container, Fraction(1, 24)))
    assert found is None if why is None else why in (found or "")


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_constant_quality_and_lossless_are_the_same_everywhere(codec: str) -> None:
    for options in (
        {},
        {"crf": 20},
        {"lossless": True},
        {"preset": "5" if "av1" in codec else None},
    ):
        assert rate_over_all(choice(codec, **options)) is None
    assert rate_over_all(choice("ffv1")) is None
    assert rate_over_all(choice("mjpeg")) is None


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"b": "2M"}),
        ("libx264", {"maxrate": "2M"}),
        ("libx264", {"flags": "+pass1"}),
        ("libx264", {"x264-params": "ref=3:vbv-bufsize=900"}),
        ("libx264", {"x264-params": "bitrate=900"}),
        ("libx265", {"x265-params": "vbv-maxrate=900:vbv-bufsize=900"}),
        ("libx265", {"x265-params": "pass=1"}),
        ("libsvtav1", {"svtav1-params": "rc=1:tbr=900"}),
        ("libvpx-vp9", {"b": "1M"}),
        ("mpeg4", {}),
        ("mpeg2video", {}),
    ],
)
def test_rates_and_passes_are_of_the_whole(codec: str, options: dict[str, str]) -> None:
    container = "ts" if codec == "mpeg2video" else "mkv"
    assert rate_over_all(choice(codec, container, encoder_options=options)) is not None


def test_threads_are_fixed_unless_the_user_fixed_them() -> None:
    assert with_threads(choice("libx264"), 5).options["threads"] == "5"
    given = choice("libx265", encoder_options={"x265-params": "pools=2", "threads": "3"})
    fixed = with_threads(given, 5).options
    assert fixed["threads"] == "3"
    assert fixed["x265-params"].split(":")[-2:] == ["pools=2", "frame-threads=1"]
    assert with_threads(choice("libsvtav1"), 4).options["svtav1-params"].endswith("lp=4")


@pytest.mark.parametrize("codec", ["libx264", "libx264rgb"])
def test_x264_does_without_avx512_where_it_reads_what_lay_in_memory(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    for width in (1280, 1920, 3840, 128, 113):  # 113 pixels are in eight macroblocks
        assert clean_memory(codec, width, {"crf": "16"}) == {"crf": "16"}
    for width in (720, 1440, 96, 112, 129):
        told = clean_memory(codec, width, {"x264-params": "ref=2"})["x264-params"].split(":")
        assert told[0] == "ref=2"
        assert told[1].startswith("asm=")
        assert "avx2" in told[1]
        assert "avx512" not in told[1]
    for mine in ({"x264-params": "asm=avx512"}, {"x264opts": "ref=1:no-asm"}):
        assert clean_memory(codec, 720, mine) == mine
    assert clean_memory("libx265", 720, {}) == {}
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    assert clean_memory(codec, 720, {}) == {}
