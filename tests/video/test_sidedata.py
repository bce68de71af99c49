"""Captions and the like, from the source's frames into the encoder's stream."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from hatvid.options import EncodeOptions, InputOptions
from hatvid.video.color import assumed
from hatvid.video.containers import format_of
from hatvid.video.convert import PlaneLayout, frame_to_planes
from hatvid.video.encoders import choose_encoder
from hatvid.video.pictures import FrameTime
from hatvid.video.sidedata import CARRIED, KINDS, carried, frame_beside
from hatvid.video.sink import OutputFormat, VideoSink
from hatvid.video.source import FrameBatch, VideoSource

WIDTH, HEIGHT, FRAMES = 64, 48, 6
START = b"\0\0\1"


def message(payload: bytes) -> bytes:
    """An H.264 SEI NAL unit of type 4, user data registered by T.35 (H.264, D.1.6)."""
    body = bytes([6, 4, len(payload)]) + payload + b"\x80"
    assert not any(body[n : n + 2] == b"\0\0" for n in range(len(body)))  # nothing to escape
    return START + body


def captions(number: int) -> bytes:
    """One pair of CEA-708 bytes of its own for each picture (ATSC A/53 part 4, 6.2.3)."""
    return b"\xb5\x00\x31GA94\x03\x41\xff\xfc\x94" + bytes([32 + number, 255])


AFD = b"\xb5\x00\x31DTG1\x41\xfa"  # active format 10, 16:9 (ETSI TS 101 154, annex B)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 with captions in every picture and AFD in every second one."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"preset": "ultrafast", "x264-params": "annexb=1:bframes=2:b-adapt=0"}
    encoder.color_range, encoder.colorspace = 1, 1
    packets = []
    for number in range(FRAMES):
        frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
        for plane in frame.planes:
            np.frombuffer(plane, np.uint8)[:] = 100 + 9 * number
        frame.pts = number
        packets += encoder.encode(frame)
    path = tmp_path_factory.mktemp("told") / "told.ts"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        output.start_encoding()
        for packet in [*packets, *encoder.encode(None)]:
            data = bytes(packet)
            slices = (data.find(START + bytes([head])) for head in (0x65, 0x41, 0x61, 0x01))
            at = min(place for place in slices if place >= 0)
            assert packet.pts is not None
            said = message(captions(packet.pts)) + (message(AFD) if packet.pts % 2 == 0 else b"")
            made = av.Packet(data[:at] + said + data[at:])
            made.stream, made.pts, made.dts = stream, packet.pts, packet.dts
            made.time_base, made.is_keyframe = Fraction(1, 25), packet.is_keyframe
            output.mux(made)
    return path


def side_data(path: Path, kind: str) -> list[list[bytes]]:
    """By frame, in order of presentation."""
    with av.open(str(path)) as container:
        return [
            [bytes(data) for data in frame.side_data[:] if data.type.name == kind]
            for frame in container.decode(video=0)
        ]


def convey(source_path: Path, path: Path, codec: str, *, scale: int = 2) -> VideoSink:
    """Each frame's pixels repeated, through a sink."""
    container = format_of(path.suffix[1:])
    with VideoSource(source_path, reading=InputOptions(progressive=True)) as source:
        info = source.info
        tags = assumed(info.tags, info.layout, info.height, info.width)
        width, height = info.width * scale, info.height * scale
        choice = choose_encoder(
            EncodeOptions(codec=codec),
            container,
            info.layout,
            width=width,
            height=height,
            tags=tags,
        )
        output = OutputFormat(
            container=container,
            encoder=choice,
            width=width,
            height=height,
            tags=choice.tags or tags,
            time_base=Fraction(1, 25),  # MPEG-2 takes no other clock
            rate=Fraction(25),
            sample_aspect_ratio=None,
        )
        with path.open("w+b") as file:
            sink = VideoSink(file, output, source)
            for item in source.items(FRAMES, sink.copied):
                assert isinstance(item, FrameBatch)
                planes = tuple(
                    plane.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
                    for plane in item.planes
                )
                times = tuple(FrameTime(pts=n, duration=1) for n in range(FRAMES))
                sink.write(FrameBatch(planes=planes, times=times, carriers=item.carriers))
            sink.finish()
    return sink


def test_the_source_is_as_meant(told: Path) -> None:
    found = side_data(told, "A53_CC")
    assert [data[0][1:3] for data in found] == [captions(n)[-3:-1] for n in range(FRAMES)]
    assert [len(data) for data in side_data(told, "AFD")] == [1, 0] * (FRAMES // 2)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264", ".mkv"),
        ("libx264", ".mp4"),
        ("libx264", ".ts"),
        ("libx265", ".mkv"),
        ("libx265", ".mp4"),
        ("mpeg2video", ".ts"),
    ],
)
def test_captions_stay_with_their_pictures(
    codec: str, suffix: str, told: Path, ffprobe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    sink = convey(told, path, codec)
    assert side_data(path, "A53_CC") == side_data(told, "A53_CC")
    # What the encoder does not write is told; nothing else is.
    assert sink.side_data_lost == {"active format description": FRAMES // 2}
    found = ffprobe("-select_streams", "v:0", "-show_frames", path)["frames"]
    kinds = [{entry["side_data_type"] for entry in frame["side_data_list"]} for frame in found]
    assert all("ATSC A53 Part 4 Closed Captions" in kind for kind in kinds)
    assert len(kinds) == FRAMES


@pytest.mark.parametrize("codec", ["ffv1", "libsvtav1", "libvpx-vp9"])
def test_what_an_encoder_does_not_write_is_counted(codec: str, told: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    sink = convey(told, path, codec)
    assert sink.side_data_lost == {
        "closed captions": FRAMES,
        "active format description": FRAMES // 2,
    }
    assert side_data(path, "A53_CC") == [[]] * FRAMES


def test_the_pictures_are_not_those_of_the_carrier(told: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    convey(told, path, "libx264")
    with av.open(str(path)) as container:
        shown = [frame_to_planes(frame)[1][0].float().mean() for frame in container.decode(video=0)]
    assert [round(float(mean)) for mean in shown] == pytest.approx(
        [100 + 9 * n for n in range(FRAMES)], abs=1
    )


def test_what_is_listed_is_what_the_encoders_write(told: Path, tmp_path: Path) -> None:
    # Every encoder that can be opened here; the others need an NVIDIA GPU.
    for codec in ("libx264", "libx265", "mpeg2video", "ffv1", "libvpx-vp9", "libsvtav1"):
        path = tmp_path / f"{codec}.mkv"
        convey(told, path, codec, scale=1)
        for kind in ("A53_CC", "AFD"):
            assert any(side_data(path, kind)) == carried(codec, kind), (codec, kind)
    assert {kind for kinds in CARRIED.values() for kind in kinds} <= KINDS.keys()


# The frame that is made.


def carrier_of(told: Path) -> av.VideoFrame:
    with av.open(str(told)) as container:
        return next(container.decode(video=0))


def planes_of(layout: PlaneLayout, height: int, width: int) -> tuple[torch.Tensor, ...]:
    noise = np.random.default_rng(5)
    kind = np.uint8 if layout.depth == 8 else np.uint16
    return tuple(
        torch.from_numpy(noise.integers(0, 1 << layout.depth, shape, dtype=kind))
        for shape in layout.plane_shapes(height, width)
    )


@pytest.mark.parametrize("size", [(2 * WIDTH, 2 * HEIGHT), (131, 97), (WIDTH, HEIGHT), (17, 9)])
@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv444p10le", "yuv422p", "gray", "gbrp", "nv12", "yuva420p", "rgb24"]
)
def test_every_sample_is_the_planes(pix_fmt: str, size: tuple[int, int], told: Path) -> None:
    layout = PlaneLayout.packed(pix_fmt)
    assert layout is not None
    planes = planes_of(layout, size[1], size[0])
    carrier = carrier_of(told)
    before = [bytes(plane) for plane in carrier.planes]
    frame = frame_beside(carrier, planes, layout, "libx264")
    assert (frame.width, frame.height, frame.format.name) == (*size, pix_fmt)
    for made, plane in zip(frame_to_planes(frame)[1], planes, strict=True):
        assert torch.equal(made, plane)
    assert [data.type.name for data in frame.side_data[:]].count("A53_CC") == 1
    # The encoder shall not follow the old picture's type, nor the source's frame change.
    assert frame.pict_type == av.video.frame.PictureType.NONE
    assert [bytes(plane) for plane in carrier.planes] == before


@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_without_anything_to_carry(codec: str, told: Path) -> None:
    layout = PlaneLayout.of("yuv420p")
    assert layout is not None
    planes = planes_of(layout, HEIGHT, WIDTH)
    carrier = None if codec == "libx264" else carrier_of(told)
    frame = frame_beside(carrier, planes, layout, codec)
    assert len(frame.side_data) == 0
    for made, plane in zip(frame_to_planes(frame)[1], planes, strict=True):
        assert torch.equal(made, plane)
