"""Frames that stay in a GPU's memory: the arithmetic on the CPU, CUDA's calls by doubles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.codec.hwaccel import HWDevice
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.dlpack import from_dlpack

from hatvid.errors import OutOfMemoryError
from hatvid.video import batch as batching
from hatvid.video import device_frames
from hatvid.video.batch import batched
from hatvid.video.convert import PlaneLayout, frame_to_planes
from hatvid.video.device_frames import (
    SEMI_PLANAR,
    cuda_stream,
    hardware_decoder,
    planar,
    read_frame,
    shared_context,
)
from hatvid.video.pictures import FrameTime

GPU = torch.device("cuda", 1)
TWINS = {"nv12": "yuv420p", "p010le": "yuv420p10le", "p016le": "yuv420p16le"}


def noise_frame(name: str, width: int, height: int, seed: int = 0) -> av.VideoFrame:
    """A frame of noise in FFmpeg's own memory, rows padded as FFmpeg pads them."""
    noise, depth = np.random.default_rng(seed), SEMI_PLANAR[name]
    frame = av.VideoFrame(width, height, name)
    for plane in frame.planes:
        kind = np.uint8 if depth == 8 else np.uint16
        rows = np.frombuffer(plane, kind)
        rows[:] = noise.integers(0, 1 << depth, rows.shape, dtype=kind) << (
            0 if depth == 8 else 16 - depth
        )
    return frame


def sides(frame: av.VideoFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """Luma and chroma as views of FFmpeg's memory, chroma rounded up."""
    kind = np.uint8 if frame.format.name == "nv12" else np.uint16
    luma, chroma = (
        torch.from_numpy(np.frombuffer(p, kind).reshape(-1, p.line_size // kind(0).itemsize))
        for p in frame.planes
    )
    width, height = -(-frame.width // 2), -(-frame.height // 2)
    both = chroma[:height, : 2 * width].unflatten(1, (width, 2))
    return luma[: frame.height, : frame.width], both


# Arithmetic.


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(SEMI_PLANAR)),
    width=st.integers(2, 70),
    height=st.integers(2, 40),
    seed=st.integers(0, 1000),
)
def test_planes_are_those_of_swscale(name: str, width: int, height: int, seed: int) -> None:
    frame = noise_frame(name, width, height, seed)
    expected = frame_to_planes(frame.reformat(format=TWINS[name], threads=1))[1]
    got = planar(*sides(frame), SEMI_PLANAR[name])
    for plane, other in zip(got, expected, strict=True):
        assert plane.is_contiguous()
        assert plane.dtype == other.dtype
        assert torch.equal(plane, other)


def test_every_code_of_ten_bits_comes_back() -> None:
    """The words of the upper half would be negative in int16, and none may be rounded."""
    codes = torch.arange(1024, dtype=torch.int32)
    words = (codes << 6).to(torch.uint16).reshape(32, 32)
    chroma = words.reshape(16, 16, 4)[..., :2]
    luma, cb, _ = planar(words, chroma, 10)
    assert torch.equal(luma.flatten().to(torch.int32), codes)
    assert torch.equal(cb.flatten().to(torch.int32), codes[::4])


@pytest.mark.parametrize("name", list(SEMI_PLANAR))
def test_planes_are_copies(name: str) -> None:
    frame = noise_frame(name, 64, 32)
    luma, chroma = (from_dlpack(plane.__dlpack__()) for plane in frame.planes)
    planes = planar(luma, chroma, SEMI_PLANAR[name])
    before = [plane.clone() for plane in planes]
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = 0
    assert all(torch.equal(plane, old) for plane, old in zip(planes, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_frames_become_a_batch(dtype: torch.dtype) -> None:
    top = torch.iinfo(dtype).max
    frames = [torch.tensor([[0, n], [top - n, top]]).to(dtype) for n in range(3)]
    times = [FrameTime(pts=n, duration=1) for n in range(3)]
    batch = batched([((f, f[:1]), t, None) for f, t in zip(frames, times, strict=True)])
    assert [plane.dtype for plane in batch.planes] == [dtype, dtype]
    assert batch.planes[0].tolist() == [frame.tolist() for frame in frames]
    assert batch.planes[1].tolist() == [frame[:1].tolist() for frame in frames]
    assert (batch.times, batch.carriers) == (tuple(times), ())


def test_a_batch_is_complete_when_it_is_given(cuda_calls: list[str]) -> None:
    """Its planes are used in streams that do not wait for FFmpeg's."""
    far = torch.empty(2, 2, device="meta")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "cuda_stream", lambda _: cuda_stream(GPU))
        batched([((far,), FrameTime(pts=0, duration=1), None)])
    assert cuda_calls[1:4] == [
        "stream 0 of cuda:1",
        "leave stream 0 of cuda:1",
        "wait for stream 0 of cuda:1",
    ]


# One frame, by doubles.


@pytest.mark.parametrize("name", list(SEMI_PLANAR))
def test_a_frame_is_read_where_it_lies(
    name: str, cuda_calls: list[str], on_gpu: Callable[[av.VideoFrame], Any]
) -> None:
    frame = noise_frame(name, 38, 22)
    layout, planes = read_frame(on_gpu(frame))
    assert cuda_calls == [
        "device cuda:1",
        "stream 0 of cuda:1",
        "plane 0",
        "plane 1",
        "leave stream 0 of cuda:1",
        "wait for stream 0 of cuda:1",
        "leave device cuda:1",
    ]
    expected_layout, expected = frame_to_planes(frame)
    assert layout == expected_layout == PlaneLayout.of(TWINS[name])
    assert all(torch.equal(a, b) for a, b in zip(planes, expected, strict=True))


@pytest.mark.parametrize(
    ("width", "height", "name"), [(37, 22, "nv12"), (38, 21, "p010le"), (38, 22, "yuv444p")]
)
def test_what_dlpack_does_not_carry_is_brought_to_main_memory(
    width: int,
    height: int,
    name: str,
    cuda_calls: list[str],
    on_gpu: Callable[[av.VideoFrame], Any],
) -> None:
    """Of an odd side it would leave out the last chroma samples."""
    frame = noise_frame("nv12" if name == "yuv444p" else name, width, height)
    if name == "yuv444p":
        frame = frame.reformat(format="yuv444p", threads=1)
    layout, planes = read_frame(on_gpu(frame))
    assert cuda_calls == ["download"]
    assert [tuple(p.shape) for p in planes] == list(layout.plane_shapes(height, width))
    assert all(torch.equal(a, b) for a, b in zip(planes, frame_to_planes(frame)[1], strict=True))


def test_a_frame_in_main_memory_is_read_there(cuda_calls: list[str]) -> None:
    frame = noise_frame("p010le", 38, 22)
    layout, planes = read_frame(frame)
    assert (layout, cuda_calls) == (frame_to_planes(frame)[0], [])
    assert torch.equal(planes[0], frame_to_planes(frame)[1][0])


def test_memory_that_runs_out_is_told_as_such(cuda_calls: list[str]) -> None:
    """A job begins again with smaller tiles then."""
    with (
        pytest.raises(OutOfMemoryError, match=r"^the memory of cuda:1 ran out.*smaller --tile"),
        cuda_stream(GPU),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")


# Opening.


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, cuda_calls: list[str]) -> list[str]:
    def device(name: str, **arguments: Any) -> None:
        cuda_calls.append(f"open {name} {arguments}")

    monkeypatch.setattr(device_frames, "HWDevice", device)
    return cuda_calls


SHARED = {"primary_ctx": "0", "current_ctx": "1"}


def test_cuda_shares_the_context_of_pytorch(opened: list[str]) -> None:
    notes: list[str] = []
    with hardware_decoder("cuda", GPU, notes) as hardware:
        opened.append("av.open")
    assert opened == [
        "device cuda:1",
        "make cuda:1",
        f"open cuda { ({'device': 1, 'options': SHARED}) }",
        "av.open",
        "leave device cuda:1",
    ]
    assert hardware is not None
    assert (hardware.is_hw_owned, hardware.device_id) == (True, 1)
    assert (hardware.options, hardware.allow_software_fallback, notes) == (SHARED, True, [])


@pytest.mark.parametrize(
    ("name", "device"), [("qsv", GPU), ("cuda", None), ("cuda", torch.device("cpu"))]
)
def test_other_devices_give_frames_in_main_memory(
    name: str, device: torch.device | None, opened: list[str]
) -> None:
    with hardware_decoder(name, device, []) as hardware:
        pass
    assert opened == [f"open {name} {{}}"]
    assert hardware is not None
    assert not hardware.is_hw_owned


def test_ffmpeg_takes_these_options_together() -> None:
    """PyAV would add primary_ctx=1 to the frames that stay, which FFmpeg refuses beside it."""
    with pytest.raises(av.error.ArgumentError):
        HWDevice("cuda", device=0, options={"current_ctx": "1", "primary_ctx": "1"})
    try:
        HWDevice("cuda", device=0, options=shared_context(torch.device("cuda", 0)).options)
    except av.error.ArgumentError:
        pytest.fail("FFmpeg does not take the options")
    except (av.error.FFmpegError, OSError):
        pass  # no GPU here


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Found no NVIDIA driver on your system.\nPlease"),
        AssertionError("Torch not compiled with CUDA enabled"),
    ],
)
def test_a_context_that_fails_is_said_in_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    def fail(device: object) -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    notes: list[str] = []
    with hardware_decoder("cuda", GPU, notes) as hardware:
        assert hardware is None
    reason = str(error).splitlines()[0]
    assert notes == [f"no cuda device to decode on ({reason}): decoding on the CPU"]
    assert not any("open" in call for call in opened)


def test_an_error_of_ffmpeg_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, cuda_calls: list[str]
) -> None:
    def fail(name: str, **_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(device_frames, "HWDevice", fail)
    notes: list[str] = []
    with hardware_decoder("cuda", GPU, notes) as hardware:
        assert hardware is None
    assert notes == ["no cuda device to decode on (Operation not supported): decoding on the CPU"]


def test_an_error_of_the_file_is_not_one_of_the_device(opened: list[str]) -> None:
    notes: list[str] = []
    with pytest.raises(ValueError, match="the file"), hardware_decoder("cuda", GPU, notes):
        raise ValueError("the file")
    assert notes == []
