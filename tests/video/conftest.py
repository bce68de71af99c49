"""Tiny clips whose every frame shows its own number, made by PyAV's encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hatvid.video.pictures import FrameTime
from hatvid.video.source import FrameBatch, SourceInfo, VideoSource

WIDTH, HEIGHT = 64, 48
_BITS, _SIDE = 8, 16  # 4 x 2 blocks of 16x16 luma samples, one bit each


def numbered(number: int, depth: int = 8) -> NDArray[np.uint16]:
    """A luma plane that shows ``number`` (0 to 255) in blocks that survive any encoder."""
    plane = np.full((HEIGHT, WIDTH), 128, np.uint16)
    for bit in range(_BITS):
        top, left = bit // 4 * _SIDE, bit % 4 * _SIDE
        plane[top : top + _SIDE, left : left + _SIDE] = 200 if number >> bit & 1 else 56
    # Something that moves, so that motion compensation has work to do.
    plane[2 * _SIDE :] = np.roll(np.arange(WIDTH) * 3 + 32, number * 3)
    return (plane << (depth - 8)).astype(np.uint16)


def number_of(luma: NDArray[np.integer], depth: int = 8) -> int:
    number = 0
    for bit in range(_BITS):
        top, left = bit // 4 * _SIDE, bit % 4 * _SIDE
        block = luma[top + 4 : top + _SIDE - 4, left + 4 : left + _SIDE - 4]
        number |= int(block.mean() > 128 << (depth - 8)) << bit
    return number


def video_frame(number: int, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
    depth = frame.format.components[0].bits
    kind = np.uint8 if depth == 8 else np.uint16
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
        rows[:] = 128 << (depth - 8)
        if index == 0:
            rows[:, : plane.width] = numbered(number, depth)
    return frame


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """Write a clip. Frame k shows the number k and has the pts ``pts[k]``."""

    def make(
        path: Path,
        *,
        codec: str = "libx264",
        pts: Sequence[int] = tuple(range(24)),
        time_base: Fraction = Fraction(1, 24),
        options: dict[str, str] | None = None,
        container: dict[str, str] | None = None,
        pix_fmt: str = "yuv420p",
        format: str | None = None,  # noqa: A002 - av.open's name
    ) -> Path:
        options = {"preset": "ultrafast", "crf": "12"} | (options or {})
        if not codec.startswith("libx26"):
            options = {k: v for k, v in options.items() if k not in ("preset", "crf")}
        with av.open(f"file:{path}", "w", format=format, options=container or {}) as output:
            stream = output.add_stream(codec, rate=24, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
            stream.codec_context.time_base = time_base
            if codec == "mpeg2video":
                stream.codec_context.bit_rate = 2_000_000
            stream.time_base = time_base
            for number, stamp in enumerate(pts):
                frame = video_frame(number, pix_fmt)
                frame.pts, frame.time_base = stamp, time_base
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return path

    return make


@pytest.fixture(scope="session")
def with_sound() -> Callable[..., Path]:
    """Write numbered frames of 24 a second and as much sound; frame k is at ``pts[k]`` / 24 s."""

    def make(
        path: Path,
        *,
        pts: Sequence[int] = tuple(range(36)),
        codec: str = "ffv1",
        audio: str = "flac",
        container: dict[str, str] | None = None,
    ) -> Path:
        with av.open(str(path), "w", options=container or {}) as output:
            video = output.add_stream(codec, rate=24)
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            video.codec_context.time_base = Fraction(1, 24)
            sound = output.add_stream(audio, rate=48000, layout="mono")
            sound.codec_context.open(strict=False)
            size = sound.codec_context.frame_size
            known = [form.name for form in sound.codec_context.codec.audio_formats or ()]
            kind = "s16" if "s16" in known else "fltp"
            for number, stamp in enumerate(pts):
                frame = video_frame(number)
                frame.pts, frame.time_base = stamp, Fraction(1, 24)
                output.mux(video.encode(frame))
            for begin in range(0, (pts[-1] + 1) * 2000, size):
                silence = np.zeros((1, size), np.int16 if kind == "s16" else np.float32)
                part = av.AudioFrame.from_ndarray(silence, kind, "mono")
                part.sample_rate, part.pts, part.time_base = 48000, begin, Fraction(1, 48000)
                output.mux(sound.encode(part))
            output.mux(video.encode(None))
            output.mux(sound.encode(None))
        return path

    return make


@pytest.fixture(scope="session")
def numbers() -> Callable[[FrameBatch], list[int]]:
    """The numbers that the frames of a batch show."""

    def read(batch: FrameBatch) -> list[int]:
        depth = 8 if batch.planes[0].element_size() == 1 else 10
        return [number_of(plane.numpy(), depth) for plane in batch.planes[0]]

    return read


@dataclass(frozen=True)
class Played:
    """All that a source gave."""

    info: SourceInfo
    numbers: list[int]
    times: list[FrameTime]
    copied: list[tuple[int, int | None]]
    ended_early: str | None
    notes: list[str]
    residue: dict[int, tuple[Fraction, Fraction]]

    @property
    def pts(self) -> list[int]:
        return [time.pts for time in self.times]

    @property
    def repeated(self) -> list[int]:
        return [time.pts for time in self.times if time.repeated]


@pytest.fixture(scope="session")
def play(numbers: Callable[[FrameBatch], list[int]]) -> Callable[..., Played]:
    def run(
        path: Path, *, batch: int = 4, copied: frozenset[int] = frozenset(), **cut: Any
    ) -> Played:
        shown, times, packets = [], [], []
        with VideoSource(path, **cut) as source:
            for item in source.items(batch, copied):
                if isinstance(item, FrameBatch):
                    assert 1 <= len(item.times) <= batch
                    shown += numbers(item)
                    times += item.times
                else:
                    packets.append((item.stream_index, item.pts))
            return Played(
                source.info,
                shown,
                times,
                packets,
                source.ended_early,
                list(source.notes),
                source.residue,
            )

    return run


@pytest.fixture
def cuda_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A double of what hatvid/video uses of torch.cuda, and the calls of it in their order."""
    calls: list[str] = []

    @contextmanager
    def entered(name: str) -> Iterator[None]:
        calls.append(name)
        yield
        calls.append(f"leave {name}")

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def synchronize(self) -> None:
            calls.append(f"wait for {self.name}")

    monkeypatch.setattr(torch.cuda, "device", lambda device: entered(f"device {device}"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: entered(stream.name))
    monkeypatch.setattr(
        torch.cuda, "default_stream", lambda device: Stream(f"stream 0 of {device}")
    )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append(f"make {device}"))
    return calls


class OnGpu:
    """A frame of NVDEC as PyAV gives it, its samples in main memory."""

    def __init__(self, frame: av.VideoFrame, calls: list[str]) -> None:
        self._frame = frame
        self._calls = calls
        self.format = SimpleNamespace(name="cuda", components=())
        self.sw_format = SimpleNamespace(name=frame.format.name)
        self.planes = [SimpleNamespace(**self._plane(n)) for n in range(len(frame.planes))]

    def _plane(self, number: int) -> dict[str, Any]:
        def export(*, stream: int | None = None) -> object:
            if stream is not None:  # as PyAV does
                raise NotImplementedError("CUDA stream synchronization is not supported.")
            self._calls.append(f"plane {number}")
            return self._frame.planes[number].__dlpack__()

        return {
            "__dlpack__": export,
            "__dlpack_device__": lambda: (2, 1),
            "buffer_size": self._frame.planes[number].buffer_size,
        }

    def reformat(self, *, format: str) -> av.VideoFrame:  # noqa: A002 - PyAV's name
        assert format == self.sw_format.name
        self._calls.append("download")
        return self._frame

    def __getattr__(self, name: str) -> Any:
        return getattr(self._frame, name)


@pytest.fixture
def on_gpu(cuda_calls: list[str]) -> Callable[[av.VideoFrame], OnGpu]:
    """A frame as NVDEC would give it; what is asked of it is among the ``cuda_calls``."""
    return lambda frame: OnGpu(frame, cuda_calls)
