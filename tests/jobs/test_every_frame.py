"""Frames, times and copied packets of a whole job, with an engine that repeats pixels."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from torch import Tensor, nn

import hatvid
from hatvid.options import EngineOptions

WIDTH, HEIGHT, FRAMES = 64, 48, 23

CLIPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "b-frames": (".mp4", "libx264", {"x264-params": "bframes=4:b-adapt=0:keyint=9:log-level=0"}),
    "open GOP": (".mkv", "libx265", {"x265-params": "open-gop=1:bframes=4:keyint=8:log-level=0"}),
    "open GOP in ts": (".ts", "libx264", {"x264-params": "open-gop=1:bframes=3:keyint=8"}),
    "one delayed picture": (".mov", "mpeg4", {"bf": "2"}),
    "vp9": (".webm", "libvpx-vp9", {"lag-in-frames": "12", "cpu-used": "8"}),
}


class RepeatPixels(nn.Module):
    """Nearest neighbour, twice as large."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture(scope="module")
def repeat() -> hatvid.Upscaler:
    return hatvid.Upscaler(RepeatPixels(), scale=2, engine_options=EngineOptions(engine="eager"))


def picture(number: int) -> np.ndarray[Any, Any]:
    """A flat gray of its own for each frame."""
    planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    planes[:HEIGHT] = 20 + 9 * number
    return planes


def make(path: Path, codec: str, options: dict[str, str], start: int, gaps: list[int]) -> None:
    """A clip with AAC or Opus beside it; pts in 1/90000 s, ``gaps`` apart in turn."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=30, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = Fraction(1, 90000 if codec != "mpeg4" else 30000)
        audio = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000)
        audio.layout = "mono"
        pts = start
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), "yuv420p")
            frame.pts, frame.time_base = pts, video.codec_context.time_base
            container.mux(video.encode(frame))
            pts += gaps[number % len(gaps)]
        for number in range(30):
            sound = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32 if path.suffix != ".webm" else np.int16),
                "fltp" if path.suffix != ".webm" else "s16",
                "mono",
            )
            sound.sample_rate, sound.pts = 48000, number * 1024
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def frames(path: Path) -> list[tuple[Fraction, int]]:
    """(seconds, mean luma) of each frame that PyAV decodes."""
    with av.open(str(path)) as container:
        return [
            (
                Fraction(frame.pts)
                * Fraction(frame.time_base.numerator, frame.time_base.denominator),
                round(float(frame.to_ndarray()[: frame.height].mean())),
            )
            for frame in container.decode(video=0)
        ]


def sound(path: Path) -> list[tuple[Any, ...]]:
    """What makes up each audio packet, times in seconds."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.audio[0]) if p.size]
        tick = Fraction(1, packets[0].time_base.denominator)
        return [
            (
                bytes(p),
                None if p.pts is None else p.pts * tick,
                (p.duration or 0) * tick,
                bytes(p.get_sidedata("skip_samples")) if p.has_sidedata("skip_samples") else b"",
            )
            for p in packets
        ]


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_arrives_at_its_time(
    repeat: hatvid.Upscaler, tmp_path: Path, name: str
) -> None:
    suffix, codec, options = CLIPS[name]
    source, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    make(source, codec, options, start=0, gaps=[3000])
    receipt = hatvid.upscale(source, output, upscaler=repeat, crf=4)
    assert receipt.frames == FRAMES
    assert receipt.repeated == receipt.damaged == receipt.moved == ()
    before, after = frames(source), frames(output)
    assert [at for at, _ in after] == [at for at, _ in before]
    # The pictures too are the right ones, in the right order.
    assert all(abs(a - b) <= 1 for (_, a), (_, b) in zip(after, before, strict=True))
    assert sound(output) == sound(source)


def test_uneven_times_and_a_late_start(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    options = {"x264-params": "bframes=3:keyint=12"}
    make(source, "libx264", options, start=4500, gaps=[3003, 1501, 9000, 4711])
    hatvid.upscale(source, output, upscaler=repeat)
    assert [at for at, _ in frames(output)] == [at for at, _ in frames(source)]
    steps = {b - a for (a, _), (b, _) in zip(frames(source)[:-1], frames(source)[1:], strict=True)}
    assert len(steps) == 4


def test_a_coarser_clock_rounds_each_time_once_and_says_so(
    repeat: hatvid.Upscaler, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mkv"
    make(source, "libx264", {}, start=0, gaps=[3003])
    receipt = hatvid.upscale(source, output, upscaler=repeat)
    assert any("1 ms" in note for note in receipt.notes)
    for (before, _), (after, _) in zip(frames(source), frames(output), strict=True):
        assert abs(before - after) <= Fraction(1, 2000)


def test_a_broken_packet_repeats_the_frame_before(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    make(source, "libx264", {"x264-params": "bframes=0:keyint=1"}, start=0, gaps=[3000])
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        assert packets[9].pos is not None
        start, size = packets[9].pos, packets[9].size
    data[start : start + size] = bytes(size)
    source.write_bytes(data)
    receipt = hatvid.upscale(source, output, upscaler=repeat, crf=4)
    assert receipt.frames == FRAMES
    assert receipt.repeated == (0.3,)
    levels = [level for _, level in frames(output)]
    assert abs(levels[9] - levels[8]) <= 1
    assert levels[10] - levels[9] > 10
    with pytest.raises(hatvid.HatvidError, match=r"at 0\.300 s cannot be decoded"):
        hatvid.upscale(source, tmp_path / "strict.mp4", upscaler=repeat, strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


PEAK = """
import resource, sys
import hatvid
from hatvid.options import EngineOptions, ReuseOptions
sys.path.insert(0, sys.argv[1])
from test_every_frame import RepeatPixels
# What is kept for reuse is bounded: it is full after a few frames of either clip.
reuse = ReuseOptions(memory=16)
eager = EngineOptions(engine="eager")
up = hatvid.Upscaler(RepeatPixels(), scale=2, engine_options=eager, reuse=reuse)
receipt = hatvid.upscale(sys.argv[2], sys.argv[3], upscaler=up, preset="ultrafast")
print(receipt.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    clip = Path(__file__).parents[1] / "data/bunny_320x180.mp4"
    peaks = {}
    for times in (1, 10):
        source = tmp_path / f"{times}.mp4"
        _repeated(clip, source, times)
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                PEAK,
                str(Path(__file__).parent),
                source,
                tmp_path / f"o{times}.mp4",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        count, peak = map(int, done.stdout.split())
        peaks[count] = peak
    assert peaks[720] < 1.05 * peaks[72]


def _repeated(clip: Path, target: Path, times: int) -> None:
    with av.open(str(clip)) as source, av.open(str(target), "w") as output:
        pictures = list(source.decode(video=0))
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(times * len(pictures)):
            frame = pictures[number % len(pictures)]
            frame.pts, frame.time_base = number, Fraction(1, 25)
            frame.pict_type = 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def test_a_file_cut_short_is_told(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    make(tmp_path / "made.mp4", "libx264", {"x264-params": "bframes=0:keyint=1"}, 0, [3000])
    with (
        av.open(str(tmp_path / "made.mp4")) as source,
        av.open(str(whole), "w", options={"movflags": "faststart"}) as output,
    ):
        twin = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = twin
                output.mux(packet)
    with av.open(str(whole)) as source:
        packets = [p for p in source.demux(video=0) if p.size]
    assert packets[15].pos is not None
    cut.write_bytes(whole.read_bytes()[: packets[15].pos])
    assert not hatvid.upscale(whole, tmp_path / "a.mp4", upscaler=repeat).notes[1:]
    receipt = hatvid.upscale(cut, tmp_path / "b.mp4", upscaler=repeat)
    assert receipt.frames == 15
    assert any("ends early" in note for note in receipt.notes)
    with pytest.raises(hatvid.HatvidError, match="strict"):
        hatvid.upscale(cut, tmp_path / "c.mp4", upscaler=repeat, strict=True)


def test_a_part_with_sound_and_no_picture_is_refused(
    repeat: hatvid.Upscaler, tmp_path: Path
) -> None:
    source = tmp_path / "in.mp4"
    make(source, "libx264", {}, start=0, gaps=[1500])  # 0.38 s of pictures, 0.64 s of sound
    with pytest.raises(hatvid.HatvidError, match="no frame lies between"):
        hatvid.upscale(source, tmp_path / "out.mp4", upscaler=repeat, start="0.5")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("suffix", [".ts", ".flv"])
def test_sound_that_a_container_cannot_hold_is_refused(
    repeat: hatvid.Upscaler, tmp_path: Path, suffix: str
) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=44100)
        audio.layout = "mono"
        container.mux(video.encode(av.VideoFrame.from_ndarray(picture(0), "yuv420p")))
        silence = np.zeros((1, 1764), np.int16)
        frame = av.AudioFrame.from_ndarray(silence, "s16", "mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(audio.encode(frame))
        container.mux(video.encode(None))
    with pytest.raises(hatvid.HatvidError, match=r"cannot hold pcm_s16le audio .*\.mkv"):
        hatvid.upscale(source, tmp_path / f"out{suffix}", upscaler=repeat)
