"""Frames given to NVENC as they lie on a GPU: packed and encoded on the CPU, CUDA by doubles."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.codec.hwaccel import HWAccel
from hypothesis import given, settings
from hypothesis import strategies as st

from hatvid.video import device_surfaces
from hatvid.video.color import ColorTags
from hatvid.video.convert import PlaneLayout, frame_to_planes, planes_to_frame
from hatvid.video.device_frames import SEMI_PLANAR, planar
from hatvid.video.device_surfaces import Surfaces, fill, halves, new_surface, surfaces_for

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


# Packing.


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(SEMI_PLANAR)),
    width=st.integers(1, 150).map(lambda n: 2 * n),
    height=st.integers(1, 20).map(lambda n: 2 * n),
    seed=st.integers(0, 1000),
)
def test_surfaces_hold_what_swscale_packs(name: str, width: int, height: int, seed: int) -> None:
    depth, planes = SEMI_PLANAR[name], noise(TWINS[name], width, height, seed)
    surface = new_surface(height, width, depth, CPU)
    fill(surface, planes, depth)
    expected = planes_to_frame(planes, layout_of(TWINS[name])).reformat(format=name, threads=1)
    kind = np.dtype(np.uint8 if depth == 8 else np.uint16)
    for half, plane in zip(halves(surface, width), expected.planes, strict=True):
        rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
        assert np.array_equal(half.reshape(-1, width).numpy(), rows[: len(half), :width])
    again = planar(*halves(surface, width), depth)
    assert all(torch.equal(a, b) for a, b in zip(again, planes, strict=True))


@pytest.mark.parametrize("name", list(SEMI_PLANAR))
@pytest.mark.parametrize(("width", "pitch"), [(64, 256), (256, 256), (258, 512)])
def test_chroma_follows_luma_at_once(name: str, width: int, pitch: int) -> None:
    """NVENC is told of luma's address and pitch alone, and finds chroma by them."""
    item = 1 if name == "nv12" else 2
    expected = -(-width * item // 256) * 256
    assert item > 1 or expected == pitch
    frame = Surfaces(CPU, name).frame(noise(TWINS[name], width, 16), 0)
    luma, chroma = frame.planes
    assert luma.line_size == chroma.line_size == expected
    assert chroma.buffer_ptr == luma.buffer_ptr + 16 * expected


@pytest.mark.parametrize("name", ["nv12", "p010le"])
def test_a_frame_shows_its_planes_without_a_copy(name: str) -> None:
    planes = noise(TWINS[name], 70, 38)
    surfaces = Surfaces(CPU, name)
    frame = surfaces.frame(planes, 7)
    layout, got = frame_to_planes(frame)
    assert layout == layout_of(TWINS[name])
    assert all(torch.equal(a, b) for a, b in zip(got, planes, strict=True))
    [surface] = surfaces._lent.values()
    surface.zero_()
    assert not any(plane.any() for plane in frame_to_planes(frame)[1])


def test_a_surface_is_used_again_after_its_packet_alone() -> None:
    surfaces, planes = Surfaces(CPU, "nv12"), noise("yuv420p", 64, 32)
    held = {pts: surfaces.frame(planes, pts) for pts in (10, 20, 30)}
    places = {pts: frame.planes[0].buffer_ptr for pts, frame in held.items()}
    assert len(set(places.values())) == 3
    surfaces.release(20)
    surfaces.release(20)  # a second packet of the same picture
    surfaces.release(99)  # of a frame that went through main memory
    assert surfaces.frame(planes, 40).planes[0].buffer_ptr == places[20]
    assert surfaces.frame(planes, 50).planes[0].buffer_ptr not in places.values()


def test_frames_are_waited_for(cuda_calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """NVENC reads in a stream of its own; the context of the frames is the current one."""
    given_to: dict[str, Any] = {}

    def from_dlpack(planes: Any, **arguments: Any) -> SimpleNamespace:
        cuda_calls.append("from_dlpack")
        given_to.update(arguments, shapes=[tuple(plane.shape) for plane in planes])
        return SimpleNamespace()

    def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        cuda_calls.append(f"surface on {device}")
        return torch.zeros(shape, dtype=dtype)

    double = SimpleNamespace(VideoFrame=SimpleNamespace(from_dlpack=from_dlpack))
    monkeypatch.setattr(device_surfaces, "av", double)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, _: self)
    surfaces = Surfaces(GPU, "nv12")
    surfaces.frame(noise("yuv420p", 64, 32), 0)
    assert cuda_calls == [
        "device cuda:1",
        "stream 0 of cuda:1",
        "surface on cuda:1",
        "from_dlpack",
        "leave stream 0 of cuda:1",
        "wait for stream 0 of cuda:1",
        "leave device cuda:1",
    ]
    context = given_to["cuda_context"]
    assert (context.device_id, context.primary_ctx, context.current_ctx) == (1, False, True)
    assert (given_to["format"], given_to["shapes"]) == ("nv12", [(32, 64), (16, 32, 2)])


# Choosing.


class Encoder:
    """A double of NVENC's context: what is set before it is opened, in the order."""

    def __init__(self) -> None:
        self.__dict__["said"] = []

    def __setattr__(self, name: str, value: object) -> None:
        self.said.append((name, value))

    def open(self) -> None:
        self.said.append(("open", None))


@pytest.fixture
def nvenc(monkeypatch: pytest.MonkeyPatch, cuda_calls: list[str]) -> Encoder:
    encoder = Encoder()

    def create(codec: str, mode: str, hwaccel: HWAccel) -> Encoder:
        cuda_calls.append(f"create {codec} {mode} {hwaccel.device_id} {hwaccel.options}")
        return encoder

    double = SimpleNamespace(
        CodecContext=SimpleNamespace(create=create), VideoCodecContext=Encoder, error=av.error
    )
    monkeypatch.setattr(device_surfaces, "av", double)
    return encoder


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc", "av1_nvenc"])
@pytest.mark.parametrize(
    ("pix_fmt", "name"), [("yuv420p", "nv12"), ("nv12", "nv12"), ("p010le", "p010le")]
)
def test_nvenc_is_tried_with_the_context_of_pytorch(
    codec: str, pix_fmt: str, name: str, nvenc: Encoder, cuda_calls: list[str]
) -> None:
    layout, notes = PlaneLayout.packed(pix_fmt), []
    assert layout is not None
    surfaces = surfaces_for(codec, layout, {"cq": "19"}, (64, 48), GPU, notes)
    assert surfaces is not None
    assert (surfaces.pix_fmt, surfaces.device, notes) == (name, GPU, [])
    shared = {"primary_ctx": "0", "current_ctx": "1"}
    assert cuda_calls == [
        "device cuda:1",
        "make cuda:1",
        f"create {codec} w 1 {shared}",
        "leave device cuda:1",
    ]
    assert nvenc.said[-1] == ("open", None)
    told = dict(nvenc.said)
    assert (told["width"], told["height"], told["sw_format"]) == (64, 48, name)
    assert told["options"] == {"cq": "19"}


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size", "device"),
    [
        ("libx265", "yuv420p", (64, 48), GPU),
        ("hevc_nvenc", "yuv444p", (64, 48), GPU),
        ("hevc_nvenc", "gbrp", (64, 48), GPU),
        ("hevc_nvenc", "yuv420p", (63, 48), GPU),
        ("hevc_nvenc", "yuv420p", (64, 47), GPU),
        ("hevc_nvenc", "yuv420p", (64, 48), CPU),
        ("hevc_nvenc", "yuv420p", (64, 48), None),
    ],
)
def test_all_others_go_through_main_memory_without_a_word(
    codec: str,
    pix_fmt: str,
    size: tuple[int, int],
    device: torch.device | None,
    nvenc: Encoder,
    cuda_calls: list[str],
) -> None:
    notes: list[str] = []
    assert surfaces_for(codec, layout_of(pix_fmt), {}, size, device, notes) is None
    assert (notes, cuda_calls, nvenc.said) == ([], [], [])


@pytest.mark.parametrize(
    "error",
    [
        OSError(38, "Function not implemented"),
        RuntimeError("CUDA error: unknown\nCompile with"),
        ValueError("no such option"),
    ],
)
def test_an_nvenc_that_refuses_is_said_in_one_line(
    error: Exception, nvenc: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Encoder) -> None:
        raise error

    monkeypatch.setattr(Encoder, "open", fail)
    notes: list[str] = []
    assert surfaces_for("hevc_nvenc", layout_of("yuv420p"), {}, (64, 48), GPU, notes) is None
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    assert notes == [
        f"hevc_nvenc takes no frames from the memory of cuda:1 ({reason}): they go through main "
        "memory"
    ]
