"""Other streams beside the video, pipes, full disks and readers that go, as the sink meets them."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from hatvid.errors import OutputError
from hatvid.options import EncodeOptions, InputOptions, StreamOptions
from hatvid.selectors import TimePoint
from hatvid.video.color import assumed
from hatvid.video.containers import format_of
from hatvid.video.encoders import choose_encoder
from hatvid.video.sink import OutputFormat, VideoSink
from hatvid.video.source import VideoSource
from hatvid.video.streams import plan_streams

Probe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def film(pyav: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of uneven pictures from 23 ms on, two sounds and text."""
    folder = tmp_path_factory.mktemp("film")
    text = folder / "a.srt"
    text.write_text(
        "1\n00:00:00,250 --> 00:00:00,750\none\n\n2\n00:00:01,000 --> 00:00:01,500\ntwo\n"
    )
    path = folder / "film.mkv"
    pyav(
        # All 23 ms late, as FFmpeg does it where sound would begin before zero.
        *("-itsoffset", "0.023", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2"),
        *("-itsoffset", "0.023", "-f", "lavfi", "-i", "sine=440:d=2"),
        *("-itsoffset", "0.023", "-f", "lavfi", "-i", "sine=660:d=2"),
        *("-itsoffset", "0.023", "-i", text),
        *("-map", "0", "-map", "1", "-map", "2", "-map", "3", "-vf", "select='mod(n,5)-3'"),
        *("-fps_mode", "passthrough", "-enc_time_base", "1:1000", "-c:v", "ffv1", "-g", "1"),
        *("-c:a:0", "aac", "-c:a:1", "ac3", path),
    )
    return path


X264 = ("mp4", "mov", "mkv", "nut", "ts", "flv")
ALONE = ("webm", "flv", "y4m")  # which do not hold the film's sound


class Pipe(io.RawIOBase):
    """Only ever goes on; from some byte on it fails, or when it is flushed."""

    def __init__(
        self, *, fails_at: int | None = None, error: int = errno.ENOSPC, flush: bool = True
    ) -> None:
        self.data = b""
        self.failed = 0
        self._at, self._error, self._flush = fails_at, error, flush

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._at is not None and len(self.data) + len(data) > self._at:
            self.failed += 1
            raise OSError(self._error, os.strerror(self._error))
        self.data += bytes(data[:4096])  # as a pipe takes less than it is given
        return min(4096, len(data))

    def flush(self) -> None:
        if not self._flush:
            raise OSError(self._error, os.strerror(self._error))


class Disk(io.BytesIO):
    """A file that takes so many bytes and no more."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        super().__init__()
        self._room, self._error = room, error

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._room:
            raise OSError(self._error, os.strerror(self._error))
        return super().write(data)


def sinking(
    file: Any, form: str, source: VideoSource, *, codec: str | None = None, cut: bool = False
) -> VideoSink:
    """A sink for frames of the source's own size."""
    info, container = source.info, format_of(form)
    tags = assumed(info.tags, info.layout, info.height, info.width)
    options = EncodeOptions(
        codec=codec, preset="ultrafast" if codec is None and form in X264 else None
    )
    choice = choose_encoder(
        options, container, info.layout, width=info.width, height=info.height, tags=tags
    )
    output = OutputFormat(
        container=container,
        encoder=choice,
        width=info.width,
        height=info.height,
        tags=choice.tags or tags,
        time_base=info.time_base,
        rate=info.average_rate,
        sample_aspect_ratio=info.sample_aspect_ratio,
    )
    return opened(file, output, source, cut=cut)


def opened(file: Any, output: OutputFormat, source: VideoSource, *, cut: bool = False) -> VideoSink:
    muxer = output.container.muxer
    alone = muxer in (format_of(form).muxer for form in ALONE)
    streams = StreamOptions(audio=not alone, subtitles=not alone)
    plan = plan_streams(source.container, source.stream, streams, muxer, cut=cut)
    return VideoSink(cast(BinaryIO, file), output, source, cut=cut, plan=plan)


def convey(file: Any, form: str, path: Path, codec: str | None = None, **cut: Any) -> VideoSink:
    """All of a source through a sink, the frames as they are."""
    with VideoSource(path, reading=InputOptions(progressive=True), **cut) as source:
        sink = sinking(file, form, source, codec=codec, cut=bool(cut))
        try:
            for item in source.items(4, sink.copied):
                sink.write(item)
            sink.finish()
        except BaseException:
            sink.abort()
            raise
    return sink


def to_file(path: Path, form: str, source: Path, **cut: Any) -> VideoSink:
    with path.open("w+b") as file:
        return convey(file, form, source, **cut)


def packets(ffprobe: Probe, path: Path, streams: str) -> list[tuple[Fraction, str]]:
    """(pts in seconds, hash) in order of presentation."""
    found = ffprobe(
        *("-select_streams", streams, "-show_streams", "-show_packets"),
        *("-show_data_hash", "sha256", path),
    )
    ticks = {stream["index"]: Fraction(stream["time_base"]) for stream in found["streams"]}
    return sorted((p["pts"] * ticks[p["stream_index"]], p["data_hash"]) for p in found["packets"])


# Streams beside the video.


@pytest.mark.parametrize("form", ["mkv", "nut", "ts", "mp4"])
@pytest.mark.parametrize("sound", [0, 1])
def test_packets_of_sound_are_the_same(
    sound: int, form: str, film: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    sink = to_file(path, form, film)
    before, after = (packets(ffprobe, where, f"a:{sound}") for where in (film, path))
    assert sink.packets_copied[1 + sound] == len(before) == len(after)
    if (form, sound) != ("ts", 0):  # where AAC has a header of its own in each packet
        assert [digest for _, digest in after] == [digest for _, digest in before]
    # The input's clock is of milliseconds; in MP4 durations of samples add up.
    apart = [abs(new - old) for (new, _), (old, _) in zip(after, before, strict=True)]
    assert max(apart) <= (0 if form == "mkv" else Fraction(1, 1000))
    assert (sink.packets_lost, sink.packets_moved) == ({}, {})


@pytest.fixture(scope="module")
def primed(pyav: Callable[..., bytes], film: Path) -> Path:
    """The first packet of sound begins before zero, where its encoder warmed up."""
    path = film.with_name("primed.mp4")
    pyav(
        *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", "-f", "lavfi", "-i", "sine=440:d=1"),
        *("-c:v", "libx264", "-c:a", "aac", path),
    )
    return path


@pytest.mark.parametrize(("form", "early"), [("mp4", 0), ("mkv", 0), ("ts", 1), ("nut", 1)])
def test_sound_before_zero(
    form: str, early: int, primed: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    sink = to_file(path, form, primed)
    assert sink.packets_early == ({1: early} if early else {})
    for streams in ("v:0", "a:0"):
        before, after = ([pts for pts, _ in packets(ffprobe, p, streams)] for p in (primed, path))
        if streams == "a:0" and early:
            assert before.pop(0) < 0
        apart = [abs(new - old) for new, old in zip(after, before, strict=True)]
        assert max(apart) <= (0 if form == "mp4" else Fraction(1, 1000))


@pytest.mark.parametrize("form", ["mkv", "mp4", "ts", "nut", "flv"])
def test_the_pictures_keep_their_times_beside_sound(
    form: str, film: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    to_file(path, form, film)
    before, after = ([pts for pts, _ in packets(ffprobe, where, "v:0")] for where in (film, path))
    assert len(before) == 40
    assert after == before


def test_what_a_cut_leaves_begins_at_zero(film: Path, ffprobe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    to_file(path, "mkv", film, start=TimePoint.parse("0.8"), end=TimePoint.parse("1.6"))
    whole, part = (packets(ffprobe, where, "v:0") for where in (film, path))
    first = whole[0][0] + Fraction(8, 10)
    expected = [pts - first for pts, _ in whole if first <= pts < first + Fraction(8, 10)]
    assert [pts for pts, _ in part] == expected
    there = [(pts - first, digest) for pts, digest in packets(ffprobe, film, "a:1")]
    heard = [n for n, (pts, _) in enumerate(there) if 0 <= pts < Fraction(8, 10)]
    early, *sound = packets(ffprobe, path, "a:1")
    assert sound == [there[n] for n in heard]
    # The one that is heard at the first picture. FFmpeg reads no time before zero in
    # Matroska, but counts it back from the next.
    before, digest = there[heard[0] - 1]
    assert early[1] == digest
    assert abs(early[0] - before) <= Fraction(1, 1000)


# Pipes.


@pytest.mark.parametrize("form", ["mp4", "mov", "mkv", "webm", "nut", "ts", "flv", "y4m"])
def test_a_pipe_holds_what_a_file_does(
    form: str, film: Path, ffprobe: Probe, tmp_path: Path
) -> None:
    whole, piped = tmp_path / f"whole.{form}", tmp_path / f"piped.{form}"
    to_file(whole, form, film)
    pipe = Pipe()
    sink = convey(pipe, form, film)
    piped.write_bytes(pipe.data)
    assert sink.frames == 40
    assert packets(ffprobe, piped, "v:0") == packets(ffprobe, whole, "v:0")
    if form not in ALONE:
        assert packets(ffprobe, piped, "a:0") == packets(ffprobe, whole, "a:0")
    # Decoding needs the whole header.
    found = ffprobe("-select_streams", "v:0", "-count_frames", "-show_streams", piped)["streams"]
    assert found[0]["nb_read_frames"] == "40"


def test_mp4_in_a_pipe_can_be_read_as_it_comes(film: Path) -> None:
    pipe = Pipe()
    convey(pipe, "mp4", film)
    kinds, at = [], 0
    while at < len(pipe.data):
        size = int.from_bytes(pipe.data[at : at + 4], "big")
        kinds.append(pipe.data[at + 4 : at + 8].decode())
        at += size
    assert kinds[:4] == ["ftyp", "moov", "moof", "mdat"]


# Errors.

ROOM = [0, 100, 3000, 20000]


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("form", ["mkv", "mp4", "nut"])
def test_a_full_disk(form: str, room: int, film: Path) -> None:
    with pytest.raises(OutputError, match=r"^no space left to write the output \(.*-o$"):
        convey(Disk(room), form, film)


@pytest.mark.parametrize("form", ["mkv", "mp4", "nut", "y4m"])
def test_a_disk_that_is_full_at_the_very_end(form: str, film: Path, tmp_path: Path) -> None:
    path = tmp_path / "whole"
    to_file(path, form, film)
    with pytest.raises(OutputError, match="no space left"):
        convey(Disk(path.stat().st_size - 1), form, film)
    convey(Disk(path.stat().st_size), form, film)


@pytest.mark.parametrize("error", [errno.EDQUOT, errno.EFBIG])
def test_a_quota_is_a_full_disk(error: int, film: Path) -> None:
    with pytest.raises(OutputError, match="no space left"):
        convey(Disk(3000, error), "mkv", film)


@pytest.mark.parametrize("form", ["mkv", "mp4", "y4m"])
def test_a_disk_that_tells_when_it_is_flushed(form: str, film: Path) -> None:
    with pytest.raises(OutputError, match="no space left"):
        convey(Pipe(flush=False), form, film)


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("form", ["mkv", "mp4", "nut", "y4m"])
def test_a_reader_that_goes(form: str, room: int, film: Path) -> None:
    pipe = Pipe(fails_at=room, error=errno.EPIPE)
    with pytest.raises(OutputError, match=r"^the reader of the output has gone \("):
        convey(pipe, form, film)
    assert pipe.failed == 1  # one error is enough to know


def test_any_other_error_is_told_in_its_words(film: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written \(.*Input/output error\)"):
        convey(Disk(3000, errno.EIO), "mkv", film)


@pytest.mark.parametrize("form", ["mkv", "mp4", "nut", "y4m", "ts"])
def test_what_is_broken_off_is_not_ended(form: str, film: Path) -> None:
    pipe = Pipe()
    with VideoSource(film, reading=InputOptions(progressive=True)) as source:
        sink = sinking(pipe, form, source)
        for item in list(source.items(4, sink.copied))[:30]:
            sink.write(item)
        before = pipe.data
        sink.abort()
        assert pipe.data == before
        sink.abort()  # once more changes nothing
    assert not pipe.closed
    assert pipe.data == before


def test_an_encoder_that_refuses_leaves_nothing(film: Path) -> None:
    pipe = Pipe()
    with VideoSource(film, reading=InputOptions(progressive=True)) as source:
        with pytest.raises(OutputError, match=r"refused \(.* in webm, .*--codec"):
            refused(pipe, source)
        assert pipe.data == b""


def refused(pipe: Pipe, source: VideoSource) -> VideoSink:
    """H.264 in WebM, which the choice of an encoder would not let through."""
    info = source.info
    tags = assumed(info.tags, info.layout, info.height, info.width)
    choice = choose_encoder(
        EncodeOptions(codec="libx264"),
        format_of("mkv"),
        info.layout,
        width=64,
        height=48,
        tags=tags,
    )
    output = OutputFormat(
        container=format_of("webm"),
        encoder=choice,
        width=64,
        height=48,
        tags=tags,
        time_base=info.time_base,
        rate=None,
        sample_aspect_ratio=None,
    )
    return opened(pipe, output, source)


QUIET = """
import pathlib, sys
sys.path.insert(0, {folder!r})
import test_sink_files
with open({output!r}, "w+b") as file:
    test_sink_files.convey(file, "mkv", pathlib.Path({source!r}), codec="libsvtav1")
"""


def test_svt_av1_writes_nothing_of_its_own(film: Path, tmp_path: Path) -> None:
    # It reads its level of talk once a process, so this takes one that is new.
    code = QUIET.format(
        folder=str(Path(__file__).parent), output=str(tmp_path / "a.mkv"), source=str(film)
    )
    environment = {name: value for name, value in os.environ.items() if name != "SVT_LOG"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
