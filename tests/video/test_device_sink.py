"""Whole files written as NVENC would be given them, by encoders of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.codec.hwaccel import HWAccel

from hatvid.options import EncodeOptions, InputOptions
from hatvid.video import encoding, sidedata
from hatvid.video.color import ColorTags
from hatvid.video.containers import format_of
from hatvid.video.convert import PlaneLayout, frame_to_planes
from hatvid.video.device_surfaces import Surfaces
from hatvid.video.encoders import choose_encoder
from hatvid.video.picture_sink import PictureSink
from hatvid.video.pictures import FrameTime
from hatvid.video.sink import OutputFormat, VideoSink
from hatvid.video.source import FrameBatch, VideoSource

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
TWINS = {"nv12": "yuv420p", "p010le": "yuv420p10le", "p016le": "yuv420p16le"}
BT709 = ColorTags(matrix=1, full_range=False, primaries=1, transfer=1, chroma_location=1)


def layout_of(pix_fmt: str) -> PlaneLayout:
    layout = PlaneLayout.of(pix_fmt)
    assert layout is not None
    return layout


def noise(pix_fmt: str, width: int, height: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    layout, random = layout_of(pix_fmt), np.random.default_rng(seed)
    kind = np.uint8 if layout.depth == 8 else np.uint16
    return tuple(
        torch.from_numpy(random.integers(0, 1 << layout.depth, shape, dtype=kind))
        for shape in layout.plane_shapes(height, width)
    )


# Whole files, with an encoder that takes such frames in main memory.


class InMainMemory(Surfaces):
    """Surfaces as NVENC is given them, for encoders of the CPU."""

    made = 0

    def accelerator(self) -> HWAccel | None:
        return None

    def frame(self, planes: Any, pts: int) -> av.VideoFrame:
        self.made += 1
        return super().frame(planes, pts)


def choose(monkeypatch: pytest.MonkeyPatch, name: str) -> InMainMemory:
    surfaces = InMainMemory(CPU, name)
    monkeypatch.setattr(encoding, "surfaces_for", lambda *_: surfaces)
    return surfaces


@contextmanager
def sink_for(
    path: Path, clip: Path, codec: str, pix_fmt: str, device: torch.device | None = None
) -> Iterator[VideoSink]:
    container = format_of(path.suffix[1:])
    options = EncodeOptions(codec=codec, lossless=True, pix_fmt=pix_fmt)
    choice = choose_encoder(options, container, layout_of(pix_fmt), width=64, height=48, tags=BT709)
    with VideoSource(clip, reading=InputOptions(progressive=True)) as opened:
        output = OutputFormat(
            container=container,
            encoder=choice,
            width=64,
            height=48,
            tags=BT709,
            time_base=Fraction(1, 1000),
            rate=Fraction(25),
            sample_aspect_ratio=None,
        )
        with path.open("w+b") as file:
            sink = VideoSink(file, output, opened, device=device)
            yield sink
            sink.finish()


def batch_of(planes: list[tuple[torch.Tensor, ...]], first: int, **more: Any) -> FrameBatch:
    return FrameBatch(
        planes=tuple(torch.stack(list(part)) for part in zip(*planes, strict=True)),
        times=tuple(FrameTime(pts=40 * (first + n), duration=40) for n in range(len(planes))),
        **more,
    )


def written(path: Path) -> tuple[list[int | None], list[tuple[torch.Tensor, ...]]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.pts for frame in frames], [frame_to_planes(frame)[1] for frame in frames]


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"),
    [("libx264", "yuv420p", "nv12"), ("libx265", "yuv420p10le", "p010le")],
)
def test_every_frame_arrives_by_way_of_surfaces(
    codec: str,
    pix_fmt: str,
    name: str,
    tmp_path: Path,
    make_clip: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, clip = tmp_path / "out.mkv", make_clip(tmp_path / "in.mkv")
    surfaces = choose(monkeypatch, name)
    frames = [noise(pix_fmt, 64, 48, seed) for seed in range(90)]
    with sink_for(path, clip, codec, pix_fmt) as sink:
        assert sink.on_device
        for first in range(0, len(frames), 3):
            sink.write(batch_of(frames[first : first + 3], first))
    stamps, got = written(path)
    assert stamps == [40 * n for n in range(len(frames))]
    for planes, expected in zip(got, frames, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(planes, expected, strict=True))
    # As many as the encoder looks ahead, not as many as there are frames.
    assert surfaces.made == len(frames)
    assert not surfaces._lent
    assert len(surfaces._free) < len(frames)


def test_side_data_goes_with_a_frame_of_main_memory(
    tmp_path: Path, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clip = tmp_path / "out.mkv", make_clip(tmp_path / "in.mkv")
    surfaces = choose(monkeypatch, "nv12")
    given_to: list[tuple[str, list[str]]] = []

    def beside(carrier: Any, planes: Any, layout: PlaneLayout, codec: str) -> av.VideoFrame:
        frame = sidedata.frame_beside(carrier, planes, layout, codec)
        given_to.append((frame.format.name, [kind.type.name for kind in frame.side_data[:]]))
        return frame

    monkeypatch.setattr(encoding, "frame_beside", beside)
    # What x264 writes beside its first picture stands for captions.
    monkeypatch.setitem(sidedata.CARRIED, "libx264", frozenset({"SEI_UNREGISTERED"}))
    with av.open(str(clip)) as container:
        carrier = next(container.decode(video=0))
    frames = [noise("yuv420p", 64, 48, seed) for seed in range(4)]
    with sink_for(path, clip, "libx264", "yuv420p") as sink:
        sink.write(batch_of(frames, 0, carriers=(None, carrier, None, None)))
    assert given_to == [("nv12", ["SEI_UNREGISTERED"])]
    assert surfaces.made == 3
    for planes, expected in zip(written(path)[1], frames, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(planes, expected, strict=True))


class Elsewhere(torch.Tensor):
    """A tensor that, as one on a GPU, NumPy cannot see before it is brought here."""

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self, **_: Any) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)


def test_a_software_encoder_gets_frames_from_a_gpu(
    tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    path, clip = tmp_path / "out.mkv", make_clip(tmp_path / "in.mkv")
    frames = [noise("yuv420p", 64, 48, seed) for seed in range(4)]
    batch = batch_of(frames, 0)
    far = tuple(plane.as_subclass(Elsewhere) for plane in batch.planes)
    with pytest.raises(TypeError):
        far[0].numpy()
    with sink_for(path, clip, "libx264", "yuv420p", GPU) as sink:
        assert not sink.on_device
        assert sink.notes == []
        sink.write(FrameBatch(planes=far, times=batch.times))
    for planes, expected in zip(written(path)[1], frames, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(planes, expected, strict=True))


def test_pictures_are_written_from_a_gpu(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    made: dict[str, bytes] = {}
    with VideoSource(make_clip(tmp_path / "in.mkv")) as opened:
        sink = PictureSink(
            tmp_path / "%03d.png",
            opened,
            tags=ColorTags(matrix=0, full_range=True),
            place=lambda path, data: made.update({path.name: data}),
        )
    planes = noise("gray", 8, 6)[0].unsqueeze(0).as_subclass(Elsewhere)
    sink.write(FrameBatch(planes=(planes,), times=(FrameTime(pts=0, duration=1),)))
    assert made["001.png"].startswith(b"\x89PNG")


def test_the_stream_is_added_with_the_context_of_pytorch(
    tmp_path: Path,
    make_clip: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    cuda_calls: list[str],
) -> None:
    clip = make_clip(tmp_path / "in.mkv")
    surfaces = choose(monkeypatch, "nv12")
    surfaces.device = GPU

    def accelerator() -> None:
        cuda_calls.append("accelerator")

    monkeypatch.setattr(surfaces, "accelerator", accelerator)
    with sink_for(tmp_path / "out.mkv", clip, "libx264", "yuv420p"):
        assert cuda_calls == ["device cuda:1", "make cuda:1", "accelerator", "leave device cuda:1"]
