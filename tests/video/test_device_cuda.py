"""NVDEC and NVENC themselves: frames that never leave the GPU."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from hatvid.options import EncodeOptions, InputOptions
from hatvid.video.color import ColorTags
from hatvid.video.containers import format_of
from hatvid.video.convert import PlaneLayout, frame_to_planes, planes_to_frame
from hatvid.video.device_frames import cuda_context
from hatvid.video.device_surfaces import Surfaces, surfaces_for
from hatvid.video.encoders import choose_encoder
from hatvid.video.pictures import FrameTime
from hatvid.video.sink import OutputFormat, VideoSink
from hatvid.video.source import FrameBatch, VideoSource

pytestmark = pytest.mark.needs_cuda

GPU = torch.device("cuda", 0)
BT709 = ColorTags(matrix=1, full_range=False, primaries=1, transfer=1, chroma_location=1)
ON_GPU = InputOptions(hwaccel="cuda", progressive=True)
ON_CPU = InputOptions(progressive=True)


def read(
    path: Path, reading: InputOptions, device: torch.device | None
) -> tuple[VideoSource, list[FrameBatch]]:
    with VideoSource(path, reading=reading, device=device) as source:
        items = list(source.items(5, frozenset()))
    return source, [item for item in items if isinstance(item, FrameBatch)]


def noise(pix_fmt: str, frames: int, height: int, width: int) -> tuple[torch.Tensor, ...]:
    layout = PlaneLayout.of(pix_fmt)
    assert layout is not None
    random = torch.Generator().manual_seed(frames)
    return tuple(
        torch.randint(0, 1 << layout.depth, (frames, *shape), generator=random).to(layout.dtype)
        for shape in layout.plane_shapes(height, width)
    )


def encoded(path: Path, codec: str, pix_fmt: str) -> Path:
    """24 frames of coarse noise, larger than the least that NVDEC takes (144 for HEVC)."""
    layout = PlaneLayout.of(pix_fmt)
    assert layout is not None
    planes = noise(pix_fmt, 24, 24, 32)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=24, options={"preset": "fast", "crf": "20"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 256, 192, pix_fmt
        for number in range(24):
            blocks = (plane[number].to(torch.int32) for plane in planes)
            large = (b.repeat_interleave(8, 0).repeat_interleave(8, 1) for b in blocks)
            frame = planes_to_frame(tuple(b.to(layout.dtype) for b in large), layout)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [("libx264", "yuv420p"), ("libx265", "yuv420p"), ("libx265", "yuv420p10le")],
)
def test_nvdec_gives_the_planes_of_the_cpu(codec: str, pix_fmt: str, tmp_path: Path) -> None:
    """Both decoders are exact by their standards."""
    clip = encoded(tmp_path / "a.mp4", codec, pix_fmt)
    torch.zeros(1, device=GPU)  # PyTorch makes the context, with flags of its own
    source, got = read(clip, ON_GPU, GPU)
    assert source.notes == []
    _, expected = read(clip, ON_CPU, None)
    assert [batch.times for batch in got] == [batch.times for batch in expected]
    for batch, other in zip(got, expected, strict=True):
        for plane, exact in zip(batch.planes, other.planes, strict=True):
            assert plane.device == GPU
            assert plane.dtype == exact.dtype
            assert torch.equal(plane.cpu(), exact)


def test_what_nvdec_refuses_is_decoded_on_the_cpu(tmp_path: Path) -> None:
    """No GPU decodes H.264 of 4:4:4 and 10 bit."""
    clip = encoded(tmp_path / "a.mp4", "libx264", "yuv444p10le")
    source, got = read(clip, ON_GPU, GPU)
    [note] = source.notes
    assert note.startswith("cuda does not decode this h264 (")
    _, expected = read(clip, ON_CPU, None)
    for batch, other in zip(got, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch.planes, other.planes, strict=True))


def test_planes_outlive_the_decoder(tmp_path: Path) -> None:
    """Its surfaces are written again and freed; copies are not."""
    clip = encoded(tmp_path / "a.mp4", "libx264", "yuv420p")
    with VideoSource(clip, reading=ON_GPU, device=GPU) as source:
        items = source.items(1, frozenset())
        first = next(items)
        assert isinstance(first, FrameBatch)
        before = [plane.clone() for plane in first.planes]
        for _ in items:
            pass
    assert all(torch.equal(a, b) for a, b in zip(first.planes, before, strict=True))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "p010le"])
@pytest.mark.parametrize("size", [(256, 128), (322, 182)])
@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_nvenc_takes_planes_where_they_lie(
    where: str,
    size: tuple[int, int],
    pix_fmt: str,
    tmp_path: Path,
    make_clip: Callable[..., Path],
) -> None:
    """Its lossless mode gives each sample back: luma and chroma were found, of each frame."""
    container, frames = format_of("mkv"), 70
    source_layout = PlaneLayout.of("yuv420p10le" if pix_fmt == "p010le" else pix_fmt)
    assert source_layout is not None
    width, height = size
    choice = choose_encoder(
        EncodeOptions(codec="hevc_nvenc", lossless=True, pix_fmt=pix_fmt),
        container,
        source_layout,
        width=width,
        height=height,
        tags=BT709,
    )
    planes = noise(source_layout.pix_fmt, frames, height, width)
    path = tmp_path / "out.mkv"
    with VideoSource(make_clip(tmp_path / "in.mkv"), reading=ON_CPU) as source:
        output = OutputFormat(
            container=container,
            encoder=choice,
            width=width,
            height=height,
            tags=BT709,
            time_base=Fraction(1, 1000),
            rate=Fraction(25),
            sample_aspect_ratio=None,
        )
        with path.open("w+b") as file:
            sink = VideoSink(file, output, source, device=GPU)
            assert sink.on_device, sink.notes
            for begin in range(0, frames, 5):
                times = tuple(FrameTime(pts=40 * n, duration=40) for n in range(begin, begin + 5))
                part = tuple(plane[begin : begin + 5].to(where, copy=True) for plane in planes)
                sink.write(FrameBatch(planes=part, times=times))
                for plane in part:
                    plane.zero_()  # they may be overwritten once they were given
            sink.finish()
    with av.open(str(path)) as written:
        decoded = list(written.decode(video=0))
    assert [frame.pts for frame in decoded] == [40 * n for n in range(frames)]
    for number, frame in enumerate(decoded):
        for plane, expected in zip(frame_to_planes(frame)[1], planes, strict=True):
            assert torch.equal(plane, expected[number])


def test_an_nvenc_that_refuses_is_one_note() -> None:
    notes: list[str] = []
    layout = PlaneLayout.of("yuv420p")
    assert layout is not None
    assert surfaces_for("hevc_nvenc", layout, {"preset": "none"}, (64, 48), GPU, notes) is None
    assert len(notes) == 1


def test_a_frame_is_the_memory_of_its_surface() -> None:
    surfaces = Surfaces(GPU, "nv12")
    planes = [plane[0].to(GPU) for plane in noise("yuv420p", 1, 64, 64)]
    with cuda_context(GPU):
        frame = surfaces.frame(planes, 0)
    assert frame.format.name == "cuda"
    assert frame.sw_format is not None
    assert frame.sw_format.name == "nv12"
    [surface] = surfaces._lent.values()
    luma, chroma = frame.planes
    assert luma.buffer_ptr == surface.data_ptr()
    assert chroma.buffer_ptr == surface.data_ptr() + 64 * luma.line_size
