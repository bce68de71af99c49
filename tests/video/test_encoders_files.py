"""Encoders as they are chosen, by the files they write: Debian's FFmpeg reads them back."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import debian
import pytest
import torch
from av.stream import Disposition
from torch import Tensor

from hatvid.codepoints import CHROMA_LOCATIONS, MATRICES, PRIMARIES, TRANSFERS, name_of
from hatvid.options import EncodeOptions
from hatvid.video.color import ColorTags
from hatvid.video.containers import container_of
from hatvid.video.convert import PlaneLayout
from hatvid.video.encoders import EncoderChoice, choose_encoder
from hatvid.video.hdr import ContentLight, Hdr, MasteringDisplay
from hatvid.video.pictures import FrameTime
from hatvid.video.track import OutputFormat, VideoTrack

Probe = Callable[..., dict[str, Any]]

WIDTH, HEIGHT = 96, 64
FRAMES = 3

BT709 = ColorTags(matrix=1, full_range=False, primaries=1, transfer=1, chroma_location=1)
# All that is not the usual: full range, another location.
PHOTO = ColorTags(matrix=5, full_range=True, primaries=5, transfer=6, chroma_location=2)
HDR10 = ColorTags(matrix=9, full_range=False, primaries=9, transfer=16, chroma_location=3)
SRGB = ColorTags(matrix=0, full_range=True, primaries=1, transfer=13)

HDR = Hdr(
    mastering=MasteringDisplay(
        red=(34000, 16000),
        green=(13250, 34500),
        blue=(7500, 3000),
        white=(15635, 16450),
        max_luminance=10_000_000,
        min_luminance=50,
    ),
    light=ContentLight(max_cll=1000, max_fall=400),
)


def layout_of(pix_fmt: str) -> PlaneLayout:
    layout = PlaneLayout.packed(pix_fmt)
    assert layout is not None
    return layout


def tags_for(layout: PlaneLayout, tags: ColorTags) -> ColorTags:
    located = layout.log2_chroma_w or layout.log2_chroma_h
    location = tags.chroma_location if located else 0
    return replace(tags, chroma_location=location)


def chosen(
    path: Path,
    pix_fmt: str,
    tags: ColorTags = BT709,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    hdr: Hdr | None = None,
    pix_fmt_asked: str | None = None,
    **options: Any,
) -> EncoderChoice:
    source = layout_of(pix_fmt)
    tags = SRGB if source.family == "rgb" else tags_for(source, tags)
    return choose_encoder(
        EncodeOptions(pix_fmt=pix_fmt_asked, **options),
        container_of(path),
        source,
        width=size[0],
        height=size[1],
        tags=tags,
        hdr=hdr,
    )


def noise(layout: PlaneLayout, size: tuple[int, int], number: int) -> tuple[Tensor, ...]:
    """Every code of the depth may come: nothing but a lossless encoder keeps it."""
    generator = torch.Generator().manual_seed(number)
    width, height = size
    return tuple(
        torch.randint(0, 1 << layout.depth, shape, generator=generator).to(layout.dtype)
        for shape in layout.plane_shapes(height, width)
    )


def ramp(layout: PlaneLayout, size: tuple[int, int], number: int) -> tuple[Tensor, ...]:
    """Some detail, for demuxers that need data to know their format; no code is extreme."""
    return tuple(
        ((96 << layout.depth - 8) + (plane.to(torch.int32) >> 2)).to(layout.dtype)
        for plane in noise(layout, size, number)
    )


def write(
    path: Path,
    choice: EncoderChoice,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pictures: Callable[..., tuple[Tensor, ...]] = ramp,
) -> list[tuple[Tensor, ...]]:
    container = container_of(path)
    assert choice.tags is not None
    form = OutputFormat(
        container=container,
        encoder=choice,
        width=size[0],
        height=size[1],
        tags=choice.tags,
        time_base=Fraction(1, 25),
        rate=Fraction(25),
        sample_aspect_ratio=None,
    )
    frames = [pictures(choice.layout, size, number) for number in range(FRAMES)]
    muxer_options = dict(container.options)
    with av.open(path, "w", format=container.muxer, container_options=muxer_options) as output:
        track = VideoTrack(output, form, {}, Disposition.default)
        for number, planes in enumerate(frames):
            track.encode(planes, FrameTime(pts=number, duration=1), number, None)
        track.finish()
    return frames


# What is chosen by itself.

SOURCES = [
    *(("yuv420p", PHOTO), ("yuv420p10le", HDR10), ("yuv420p12le", BT709)),
    *(("yuv422p", PHOTO), ("yuv422p10le", HDR10), ("yuv422p12le", BT709)),
    *(("yuv444p", PHOTO), ("yuv444p10le", HDR10), ("yuv444p12le", BT709)),
    *(("gray", PHOTO), ("gray10le", BT709), ("gray12le", BT709)),
    *(("gbrp", SRGB), ("gbrp10le", SRGB), ("gbrp12le", SRGB)),
    *(("yuva420p", BT709), ("yuva444p10le", HDR10), ("gbrap", SRGB), ("ya8", BT709)),
]
NAMES = [pix_fmt for pix_fmt, _ in SOURCES]
# What FFmpeg's decoders make of them.
READ_AS = {
    ("libx264", "gray"): "yuv420p",  # with chroma of nothing but 128
    ("prores_ks", "yuva444p10le"): "yuva444p12le",  # ProRes 4444 does not tell its depth
    ("libvpx-vp9", "yuva420p"): "yuv420p",  # alpha is a second video, which libvpx alone reads
}


@pytest.mark.parametrize(("pix_fmt", "tags"), SOURCES, ids=NAMES)
@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "webm", "ts", "nut", "y4m"])
def test_what_is_chosen_is_what_a_file_is_read_as(
    ending: str, pix_fmt: str, tags: ColorTags, tmp_path: Path, ffprobe: Probe
) -> None:
    path = tmp_path / f"out.{ending}"
    choice = chosen(path, pix_fmt, tags)
    write(path, choice)
    [*frames] = ffprobe("-show_frames", "-select_streams", "v", path)["frames"]
    assert len(frames) == FRAMES
    found = frames[0]
    assert (found["width"], found["height"]) == (WIDTH, HEIGHT)
    wanted = READ_AS.get((choice.codec, choice.layout.pix_fmt), choice.layout.pix_fmt)
    assert found["pix_fmt"].replace("yuvj", "yuv") == wanted
    assert choice.tags is not None
    # Of what neither the container nor the codec tells, the user is told elsewhere; x264
    # tells no matrix where there is no chroma to decode.
    silent = (ending, choice.codec) in {("nut", "ffv1"), ("y4m", "rawvideo")}
    for key, value in told(choice).items():
        untold = silent or (key == "color_space" and choice.layout.family == "gray")
        assert found.get(key) == value or (untold and key not in found), key
    location = found.get("chroma_location")
    if (choice.layout.log2_chroma_w or choice.layout.log2_chroma_h) and not silent:
        # Where players look if nothing is said.
        assert (location or "left") == name_of(CHROMA_LOCATIONS, choice.tags.chroma_location)
    # The colours are those of the source, but for RGB that becomes YUV, unless it is said.
    source = layout_of(pix_fmt)
    if (choice.layout.family == "rgb") == (source.family == "rgb"):
        asked = tags_for(source, tags)
        kept = replace(asked, chroma_location=choice.tags.chroma_location)
        assert choice.tags == kept or said(choice, "colours")
        moved = asked.chroma_location not in (0, choice.tags.chroma_location)
        if moved and choice.layout.log2_chroma_w == source.log2_chroma_w > 0:
            assert said(choice, "chroma location")


def told(choice: EncoderChoice) -> dict[str, str]:
    tags = choice.tags
    assert tags is not None
    return {
        "color_range": "pc" if tags.full_range else "tv",
        "color_space": name_of(MATRICES, tags.matrix),
        "color_primaries": name_of(PRIMARIES, tags.primaries),
        "color_transfer": name_of(TRANSFERS, tags.transfer),
    }


def said(choice: EncoderChoice, what: str) -> bool:
    return any(what in note for note in choice.notes)


@pytest.mark.usefixtures("ffmpeg")
def test_gray_in_h264_is_read_without_colour(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    write(path, chosen(path, "gray", lossless=True, codec="libx264"))
    size = WIDTH * HEIGHT
    [chroma] = set(decoded(path, "-pix_fmt", "yuv420p")[size : size * 3 // 2])
    assert chroma == 128


@pytest.mark.usefixtures("ffmpeg")
def test_alpha_in_vp9_is_read_and_can_be_lossless(tmp_path: Path) -> None:
    path = tmp_path / "out.webm"
    frames = write(path, chosen(path, "yuva420p", lossless=True), pictures=noise)
    data = decoded(path, "-pix_fmt", "yuva420p", decoder="libvpx-vp9")
    assert data == packed(frames, "yuva420p")


@pytest.mark.parametrize("ending", ["ts", "nut", "mkv", "mp4"])
def test_a_chroma_location_that_h265_cannot_tell_is_not_taken(ending: str, tmp_path: Path) -> None:
    """H.265 tells it for 4:2:0 alone (annex E.3.1); others are read as left."""
    center = replace(BT709, chroma_location=2)
    choice = chosen(tmp_path / f"out.{ending}", "yuv422p10le", center)
    assert choice.codec == "libx265"
    assert choice.tags == BT709
    assert said(choice, "chroma location center -> left")


# Lossless.

LOSSLESS = [
    *(("libx264", pix_fmt) for pix_fmt in ("yuv420p", "yuv422p", "yuv444p", "gray")),
    *(("libx264", pix_fmt) for pix_fmt in ("yuv420p10le", "yuv444p10le", "gray10le")),
    ("libx264rgb", "gbrp"),
    *(("libx265", pix_fmt) for pix_fmt in ("yuv420p", "yuv422p10le", "yuv444p12le")),
    *(("libx265", pix_fmt) for pix_fmt in ("gray", "gbrp", "gbrp12le")),
    *(("libsvtav1", pix_fmt) for pix_fmt in ("yuv420p", "yuv420p10le")),
    *(("libvpx-vp9", pix_fmt) for pix_fmt in ("yuv420p", "yuv422p", "yuv444p", "gbrp")),
    *(("ffv1", pix_fmt) for pix_fmt in ("yuv420p", "yuv422p10le", "yuva444p10le", "yuv444p16le")),
    *(("ffv1", pix_fmt) for pix_fmt in ("gbrp", "gbrp12le", "gbrap16le", "gbrap", "ya8")),
    *(("jpeg2000", pix_fmt) for pix_fmt in ("yuv420p", "yuv422p10le", "yuv444p12le")),
]


@pytest.mark.parametrize(("codec", "pix_fmt"), LOSSLESS)
@pytest.mark.usefixtures("ffmpeg")
def test_lossless_loses_no_bit(codec: str, pix_fmt: str, tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    choice = chosen(path, pix_fmt, codec=codec, lossless=True)
    assert (choice.layout.depth, choice.notes) == (layout_of(pix_fmt).depth, ())
    frames = write(path, choice, pictures=noise)
    # As it lies: FFmpeg would scale luma to full range for gray, and rounds alpha in moving it.
    read = {
        "gray": ("-vf", "extractplanes=y"),
        "gray10le": ("-vf", "extractplanes=y"),
        "gbrap": ("-pix_fmt", "bgra"),
    }.get(pix_fmt, ("-pix_fmt", pix_fmt))
    assert decoded(path, *read) == packed(frames, read[1])


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("ffv1", "yuv420p", (97, 65)),
        ("ffv1", "yuv422p10le", (97, 65)),
        ("libvpx-vp9", "yuv420p", (97, 65)),
        ("libsvtav1", "yuv420p10le", (97, 65)),
        ("libx264", "yuv444p", (97, 65)),
        ("libx265", "gbrp", (97, 65)),
    ],
)
@pytest.mark.usefixtures("ffmpeg")
def test_odd_sizes_that_are_kept_lose_no_bit(
    codec: str, pix_fmt: str, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "out.mkv"
    choice = chosen(path, pix_fmt, BT709, size, codec=codec, lossless=True)
    assert (choice.multiple, choice.notes) == ((1, 1), ())
    frames = write(path, choice, size, noise)
    assert decoded(path, "-pix_fmt", pix_fmt) == packed(frames, pix_fmt)


@pytest.mark.usefixtures("ffmpeg")
def test_a_preset_does_not_end_lossless(tmp_path: Path) -> None:
    for codec, preset in (("libx264", "ultrafast"), ("libx265", "ultrafast"), ("libsvtav1", "12")):
        path = tmp_path / f"{codec}.mkv"
        choice = chosen(path, "yuv420p", codec=codec, lossless=True, preset=preset)
        frames = write(path, choice, pictures=noise)
        assert decoded(path, "-pix_fmt", "yuv420p") == packed(frames, "yuv420p")


def decoded(path: Path, *output: str, decoder: str | None = None) -> bytes:
    """All frames as Debian's FFmpeg decodes them."""
    read_by = ("-c:v", decoder) if decoder else ()
    return debian.ffmpeg(*read_by, "-i", path, *output, "-f", "rawvideo", "-")


def packed(frames: list[tuple[Tensor, ...]], pix_fmt: str) -> bytes:
    """As the samples lie in frames of this format; of one plane, if it is none."""
    data = b""
    for planes in frames:
        if pix_fmt in ("bgra", "ya8"):
            order = (2, 1, 0, 3) if pix_fmt == "bgra" else (0, 1)
            data += torch.stack([planes[index] for index in order], -1).numpy().tobytes()
        else:
            order = {"gbr": (1, 2, 0, 3)}.get(pix_fmt[:3], (0, 1, 2, 3))[: len(planes)]
            data += b"".join(planes[index].numpy().tobytes() for index in order)
    return data


# Profiles and HDR metadata.


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "options", "profile"),
    [
        ("dnxhd", "yuv422p", {}, "DNXHR HQ"),
        ("dnxhd", "yuv422p10le", {}, "DNXHR HQX"),
        ("dnxhd", "yuv444p10le", {}, "DNXHR 444"),
        ("dnxhd", "gbrp10le", {}, "DNXHR 444"),
        ("dnxhd", "yuv422p", {"profile": "dnxhr_lb"}, "DNXHR LB"),
        ("prores_ks", "yuv422p10le", {}, "HQ"),
        ("prores_ks", "yuv444p10le", {}, "4444"),
        ("prores_ks", "yuva444p10le", {}, "4444"),
        ("prores_ks", "yuv422p10le", {"profile": "proxy"}, "Proxy"),
    ],
)
def test_profiles_follow_the_pixel_format(
    codec: str,
    pix_fmt: str,
    options: dict[str, str],
    profile: str,
    tmp_path: Path,
    ffprobe: Probe,
) -> None:
    path, size = tmp_path / "out.mov", (256, 120)
    choice = chosen(
        path, pix_fmt, size=size, codec=codec, pix_fmt_asked=pix_fmt, encoder_options=options
    )
    assert choice.notes == ()
    write(path, choice, size)
    [stream] = ffprobe("-show_streams", path)["streams"]
    assert stream["profile"] == profile
    assert (stream["width"], stream["height"]) == size


def test_hdr_metadata_of_a_choice_is_in_the_file(tmp_path: Path, ffprobe: Probe) -> None:
    for codec, options in (
        ("libx265", {"x265-params": "aq-mode=1"}),
        ("libsvtav1", {"svtav1-params": "tune=0"}),
    ):
        path = tmp_path / f"{codec}.mkv"
        choice = chosen(path, "yuv420p10le", HDR10, hdr=HDR, codec=codec, encoder_options=options)
        [[name, own]] = options.items()
        assert choice.options[name].endswith(f":{own}")
        write(path, choice)
        [frame, *_] = ffprobe("-show_frames", path)["frames"]
        data = {entry["side_data_type"]: entry for entry in frame["side_data_list"]}
        light = data["Content light level metadata"]
        assert (light["max_content"], light["max_average"]) == (1000, 400)
        display = data["Mastering display metadata"]
        found = [float(Fraction(display[key])) for key in ("red_x", "green_y", "white_point_x")]
        # AV1 counts in 2^-16.
        assert found == pytest.approx([0.68, 0.69, 0.3127], abs=2**-16)
        assert float(Fraction(display["max_luminance"])) == 1000


@pytest.mark.usefixtures("ffmpeg")
def test_hdr_metadata_of_h264_is_in_the_file(tmp_path: Path) -> None:
    """FFmpeg's parser of the bits names them, though its decoder of this age does not."""
    path = tmp_path / "out.mkv"
    write(path, chosen(path, "yuv420p10le", HDR10, hdr=HDR, codec="libx264"))
    command = (debian.need("ffmpeg"), "-i", path, "-c", "copy", "-bsf:v", "trace_headers")
    traced = subprocess.run(
        [*command, "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stderr
    lines = [line.split() for line in traced.splitlines() if line.startswith("[trace_headers")]
    values = {line[4]: int(line[-1]) for line in lines if line[-2] == "="}
    assert values["max_display_mastering_luminance"] == 10_000_000
    assert values["min_display_mastering_luminance"] == 50
    assert [values[f"display_primaries_x[{n}]"] for n in range(3)] == [13250, 7500, 34000]
    assert values["white_point_x"] == 15635
    assert values["max_content_light_level"] == 1000
    assert values["max_pic_average_light_level"] == 400
