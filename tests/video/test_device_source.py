"""Whole videos read as NVDEC would give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch

from hatvid.errors import InputError
from hatvid.options import InputOptions
from hatvid.video import opening, sidedata, source
from hatvid.video.pictures import Pictures
from hatvid.video.source import FrameBatch, VideoSource

GPU = torch.device("cuda", 1)


# A whole source.


class Decoded(Pictures):
    """Its frames are given as NVDEC would give them."""

    on_gpu: Callable[[av.VideoFrame], Any]
    name = "nv12"

    def feed(self, packet: Any) -> Iterator[Any]:
        return self._uploaded(super().feed(packet))

    def finish(self) -> Iterator[Any]:
        return self._uploaded(super().finish())

    def _uploaded(self, frames: Iterator[Any]) -> Iterator[Any]:
        for frame, time in frames:
            yield self.on_gpu(frame.reformat(format=self.name, threads=1)), time


@pytest.fixture
def nvdec(
    monkeypatch: pytest.MonkeyPatch,
    cuda_calls: list[str],
    on_gpu: Callable[[av.VideoFrame], Any],
) -> type[Decoded]:
    @contextmanager
    def decoder(name: str, device: torch.device | None, notes: list[str]) -> Iterator[None]:
        cuda_calls.append(f"decode on {name} {device}")
        notes.append(f"{name}: a double")
        yield None

    monkeypatch.setattr(opening, "hardware_decoder", decoder)
    monkeypatch.setattr(source, "Pictures", Decoded)
    monkeypatch.setattr(Decoded, "on_gpu", staticmethod(on_gpu), raising=False)
    return Decoded


def batches(path: Path, **arguments: Any) -> tuple[VideoSource, list[FrameBatch]]:
    with VideoSource(path, **arguments) as opened:
        items = list(opened.items(5, frozenset()))
    return opened, [item for item in items if isinstance(item, FrameBatch)]


@pytest.mark.parametrize(("pix_fmt", "name"), [("yuv420p", "nv12"), ("yuv420p10le", "p010le")])
def test_a_source_gives_the_same_from_either_memory(
    pix_fmt: str,
    name: str,
    tmp_path: Path,
    make_clip: Callable[..., Path],
    nvdec: type[Decoded],
    cuda_calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = make_clip(tmp_path / "a.mkv", codec="ffv1", pix_fmt=pix_fmt)
    monkeypatch.setattr(nvdec, "name", name)
    reading = InputOptions(hwaccel="cuda")
    with_gpu, got = batches(clip, reading=reading, device=GPU)
    assert cuda_calls[0] == "decode on cuda cuda:1"
    assert cuda_calls.count("plane 0") == 24
    assert cuda_calls.count("download") == 1  # the first, to tell of the video
    monkeypatch.undo()
    without, expected = batches(clip)
    assert with_gpu.info == without.info
    assert [b.times for b in got] == [b.times for b in expected]
    for batch, other in zip(got, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch.planes, other.planes, strict=True))


def test_what_carries_captions_lies_in_main_memory(
    tmp_path: Path,
    make_clip: Callable[..., Path],
    nvdec: type[Decoded],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # x264 writes its settings beside its first picture.
    monkeypatch.setitem(sidedata.KINDS, "SEI_UNREGISTERED", "settings")
    _, [first, *others] = batches(make_clip(tmp_path / "a.mkv"), device=GPU)
    assert isinstance(first.carriers[0], av.VideoFrame)
    assert [kind.type.name for kind in first.carriers[0].side_data[:]] == ["SEI_UNREGISTERED"]
    assert first.carriers[1:] == (None,) * 4
    assert not any(batch.carriers for batch in others)


def test_frames_to_deinterlace_are_decoded_into_main_memory(
    tmp_path: Path,
    make_clip: Callable[..., Path],
    nvdec: type[Decoded],
    cuda_calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = make_clip(tmp_path / "a.mkv", codec="ffv1")
    monkeypatch.setattr(source, "Pictures", Pictures)
    reading = InputOptions(hwaccel="cuda", deinterlace="frame")
    _, got = batches(clip, reading=reading, device=GPU)
    assert cuda_calls[0] == "decode on cuda None"
    assert sum(len(batch.times) for batch in got) == 24


def test_a_stream_that_nvdec_refuses_is_told(
    tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    """FFmpeg then decodes in software, without a word."""
    clip = make_clip(tmp_path / "a.mp4", pix_fmt="yuv420p10le")
    with VideoSource(clip, reading=InputOptions(hwaccel="cuda"), device=GPU) as opened:
        opened.notes.clear()
        context = SimpleNamespace(name="h264", profile="High 10", is_hwaccel=True)
        opened.stream = SimpleNamespace(codec_context=context)  # type: ignore[assignment]
        opened._tell_of_device()
        assert opened.notes == ["cuda does not decode this h264 (High 10): decoding on the CPU"]


def test_no_gpu_is_one_note_and_all_frames(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    gone = torch.device("cuda", 99 if torch.cuda.is_available() else 0)
    opened, got = batches(
        make_clip(tmp_path / "a.mp4"), reading=InputOptions(hwaccel="cuda"), device=gone
    )
    assert sum(len(batch.times) for batch in got) == 24
    [note] = opened.notes
    assert note.startswith("no cuda device to decode on (")
    assert "\n" not in note
    with pytest.raises(InputError):
        VideoSource(tmp_path / "b.mp4", reading=InputOptions(hwaccel="cuda"), device=gone)
