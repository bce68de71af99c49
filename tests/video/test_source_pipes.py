"""What comes through a pipe comes once: nothing is reopened, nothing read is lost."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from hatvid.errors import InputError
from hatvid.options import InputOptions
from hatvid.selectors import TimePoint
from hatvid.video.scan import scan
from hatvid.video.source import FrameBatch, VideoSource


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Make standard input a pipe that some bytes come through, then its end."""
    opened: list[tuple[threading.Thread, Any]] = []

    def feed(data: bytes) -> None:
        reader, writer = os.pipe()

        def write() -> None:
            # The reader may have enough before all is written.
            with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "wb") as file:
                file.write(data)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        stdin = io.TextIOWrapper(os.fdopen(reader, "rb"))
        opened.append((thread, stdin))
        monkeypatch.setattr(sys, "stdin", stdin)

    yield feed
    for thread, stdin in opened:
        stdin.close()
        thread.join(timeout=10)
        assert not thread.is_alive()


PIPED = {
    "y4m": ("a.y4m", {"codec": "wrapped_avframe"}),
    "matroska": ("a.mkv", {"codec": "ffv1"}),
    "nut": ("a.nut", {"options": {"bf": "2", "preset": "medium"}}),
    "transport stream": ("a.ts", {"options": {"bf": "2", "preset": "medium"}}),
    "mp4 with its index in front": ("a.mp4", {"container": {"movflags": "faststart"}}),
    "fragmented mp4": ("a.mp4", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
}


@pytest.mark.parametrize("name", PIPED)
def test_every_frame_comes_through_a_pipe_at_its_time(
    name: str,
    tmp_path: Path,
    make_clip: Callable[..., Path],
    play: Callable[..., Any],
    piped: Callable[[bytes], None],
) -> None:
    file, options = PIPED[name]
    clip = make_clip(tmp_path / file, **options)
    piped(clip.read_bytes())
    through, whole = play(Path("-")), play(clip)
    assert through.numbers == list(range(24))
    assert through.times == whole.times
    assert through.info.time_base == whole.info.time_base
    assert through.info.tags == whole.info.tags
    assert str(through.info.path) == "-"


@pytest.mark.parametrize("suffix", ["mkv", "ts", "nut"])
def test_packets_that_lie_before_the_first_frame_come_through_too(
    tmp_path: Path,
    with_sound: Callable[..., Path],
    play: Callable[..., Any],
    piped: Callable[[bytes], None],
    suffix: str,
) -> None:
    """Which streams are copied is known only after the first frame has been read."""
    codecs = {"codec": "libx264", "audio": "mp2"} if suffix == "ts" else {}
    clip = with_sound(tmp_path / f"a.{suffix}", pts=range(12, 40), **codecs)
    piped(clip.read_bytes())
    through = play(Path("-"), copied=frozenset({1}))
    assert through.numbers == list(range(28))
    with av.open(str(clip)) as container:
        packets = [p for p in container.demux() if p.size]
    pictures = [n for n, p in enumerate(packets) if p.stream_index == 0]
    assert pictures[0] > 1, "no sound lies before the pictures"
    assert through.copied == [(1, p.pts) for p in packets if p.stream_index == 1]


@pytest.mark.parametrize(("start", "end"), [("5f", "9f"), ("0.5", "1"), ("0", "3f"), ("30f", None)])
def test_a_part_of_a_pipe_is_that_part_of_the_file(
    tmp_path: Path,
    with_sound: Callable[..., Path],
    play: Callable[..., Any],
    piped: Callable[[bytes], None],
    start: str,
    end: str | None,
) -> None:
    """Frames are counted as they come, and the sound waits for the frame that decides."""
    uneven = [0, 1, 2, *range(10, 43)]
    clip = with_sound(tmp_path / "a.mkv", pts=uneven)
    cut = {
        "start": TimePoint.parse(start),
        "end": None if end is None else TimePoint.parse(end),
        "copied": frozenset({1}),
    }
    piped(clip.read_bytes())
    through, whole = play(Path("-"), **cut), play(clip, **cut)
    assert through.numbers == whole.numbers
    assert through.copied == whole.copied
    assert through.residue == whole.residue
    assert through.copied


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le"])
def test_raw_video(
    tmp_path: Path,
    make_clip: Callable[..., Path],
    play: Callable[..., Any],
    piped: Callable[[bytes], None],
    pix_fmt: str,
) -> None:
    clip = make_clip(tmp_path / "a.nut", codec="rawvideo", pix_fmt=pix_fmt)
    with VideoSource(clip) as source:
        batches = [item for item in source.items(24, frozenset()) if isinstance(item, FrameBatch)]
    planes = [plane.numpy() for plane in batches[0].planes]
    piped(b"".join(plane[n].tobytes() for n in range(24) for plane in planes))
    rate = Fraction(30000, 1001)
    reading = InputOptions(
        format="rawvideo", video_size=(64, 48), pixel_format=pix_fmt, framerate=rate
    )
    played = play(Path("-"), reading=reading)
    assert played.numbers == list(range(24))
    assert played.info.layout.pix_fmt == pix_fmt
    assert played.info.bits == (10 if "10" in pix_fmt else 8)
    assert [t.pts * played.info.time_base for t in played.times] == [n / rate for n in range(24)]


def test_an_mp4_with_its_index_at_the_end_cannot_come_through_a_pipe(
    tmp_path: Path, make_clip: Callable[..., Path], piped: Callable[[bytes], None]
) -> None:
    # Noise, more of it than FFmpeg keeps to look back into.
    rng = np.random.default_rng(0)
    clip = make_clip(tmp_path / "a.mp4").read_bytes()
    at = clip.index(b"moov") - 4
    free = rng.bytes(4 << 20)
    piped(clip[:at] + (len(free) + 8).to_bytes(4, "big") + b"free" + free + clip[at:])
    with pytest.raises(InputError, match=r"through a pipe needs its index in front; .*faststart"):
        VideoSource(Path("-"))


def test_a_pipe_that_nothing_comes_through(piped: Callable[[bytes], None]) -> None:
    piped(b"")
    with pytest.raises(InputError, match="nothing came through the pipe"):
        VideoSource(Path("-"))


def test_a_playlist_through_a_pipe_opens_nothing(
    tmp_path: Path, make_clip: Callable[..., Path], piped: Callable[[bytes], None]
) -> None:
    secret = make_clip(tmp_path / "secret.ts")
    piped(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n".encode())
    with pytest.raises(InputError, match="is an HLS playlist"):
        VideoSource(Path("-"))


def test_a_named_pipe_is_a_pipe(
    tmp_path: Path, make_clip: Callable[..., Path], play: Callable[..., Any]
) -> None:
    clip = make_clip(tmp_path / "a.mkv")
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(
        target=lambda: (tmp_path / "pipe").write_bytes(clip.read_bytes()), daemon=True
    )
    thread.start()
    assert play(tmp_path / "pipe").times == play(clip).times
    thread.join(timeout=10)


def test_a_pipe_is_not_scanned(piped: Callable[[bytes], None]) -> None:
    piped(b"anything")
    with pytest.raises(InputError, match="can be read only once"):
        scan(Path("-"))
    assert sys.stdin.buffer.read() == b"anything"


def test_a_file_behind_standard_input_may_have_its_index_at_the_end(
    tmp_path: Path,
    make_clip: Callable[..., Path],
    play: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = make_clip(tmp_path / "a.mp4")
    with clip.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        assert play(Path("-")).numbers == list(range(24))
