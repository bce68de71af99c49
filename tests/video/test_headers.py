"""The sample aspect ratio in headers, as Debian's ffprobe reads it."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatvid.video.headers import header_rewriter
from hatvid.video.outfile import OutputFile

WIDTH, HEIGHT = 720, 576
TICK = Fraction(1, 25)
PAL = Fraction(16, 15)

FAST = {
    "libx264": {"preset": "ultrafast", "g": "4"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "g": "4"},
    "libsvtav1": {"preset": "13", "g": "4"},
    "ffv1": {"g": "1"},
}
DEEP = {"prores_ks": "yuv422p10le"}


class Pipe(io.RawIOBase):
    """Only ever goes on, and takes no more than 1000 bytes at once."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data[:1000])
        return min(1000, len(data))


def encode(
    file: Any,
    muxer: str,
    codec: str,
    aspect: Fraction | None,
    *,
    title: str = "",
    width: int = WIDTH,
    height: int = HEIGHT,
    frames: int = 8,
) -> None:
    """Write a clip as the sink does, with a second stream beside it where there can be one."""
    rewriter = header_rewriter(muxer, width=width, height=height, aspect=aspect, title=title)
    name = rewriter.placeholder if rewriter is not None and rewriter.placeholder else title
    out = OutputFile(file, rewriter)
    pix_fmt = DEEP.get(codec, "yuv420p")
    with av.open(out, "w", format=muxer) as output:
        output.flags |= av.container.Flags.bitexact.value  # no random identifiers
        stream = output.add_stream(codec, rate=25, options=FAST.get(codec, {}))
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, pix_fmt
        context.time_base = stream.time_base = TICK
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        stream.metadata["language"] = "ger"
        if name:
            stream.metadata["title"] = name
        beside = None
        if muxer in ("matroska", "nut"):
            beside = output.add_stream("pcm_s16le", rate=48000, layout="mono")
            beside.metadata.update({"title": "-" * 300, "language": "fre"})
        for number in range(frames):
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane in frame.planes:
                np.frombuffer(plane, np.uint8)[:] = (number * 7 + 40) % 64
            frame.pts, frame.time_base = number, TICK
            output.mux(stream.encode(frame))
            if beside is not None:
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), "s16", "mono")
                sound.sample_rate, sound.pts = 48000, number * 1920
                output.mux(beside.encode(sound))
        output.mux(stream.encode(None))
    out.finish()
    assert out.error is None


def written(path: Path, *args: Any, **kwargs: Any) -> Path:
    with path.open("w+b") as file:
        encode(file, *args, **kwargs)
    return path


def piped(path: Path, *args: Any, **kwargs: Any) -> Path:
    pipe = Pipe()
    encode(pipe, *args, **kwargs)
    path.write_bytes(pipe.data)
    return path


KINDS = [
    ("matroska", "ffv1"),
    ("matroska", "prores_ks"),
    ("matroska", "libsvtav1"),
    ("matroska", "libx264"),
    ("webm", "libvpx-vp9"),
    ("nut", "ffv1"),
    ("nut", "libvpx-vp9"),
    ("yuv4mpegpipe", "rawvideo"),
    # Nothing is rewritten in these.
    ("mp4", "libx264"),
    ("mp4", "libsvtav1"),
    ("mov", "prores_ks"),
    ("mpegts", "libx264"),
    ("flv", "libx264"),
]


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SVT_LOG", "1")


WAYS = [written, piped]
CASES = [
    (way, muxer, codec)
    for muxer, codec in KINDS
    for way in WAYS
    if way is written or muxer not in ("mp4", "mov")  # those need fragments in a pipe
]


@pytest.mark.parametrize(("way", "muxer", "codec"), CASES)
def test_pal_stays_pal(
    ffprobe: Callable[..., dict[str, Any]],
    tmp_path: Path,
    way: Callable[..., Path],
    muxer: str,
    codec: str,
) -> None:
    path = way(tmp_path / "clip", muxer, codec, PAL)
    [stream] = ffprobe("-show_streams", "-select_streams", "v", "-count_frames", path)["streams"]
    assert stream["sample_aspect_ratio"] == "16:15"
    assert stream["display_aspect_ratio"] == "4:3"
    assert (stream["width"], stream["height"]) == (WIDTH, HEIGHT)
    assert int(stream["nb_read_frames"]) == 8


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("muxer", ["matroska", "webm", "nut", "yuv4mpegpipe"])
@pytest.mark.parametrize(
    ("aspect", "width", "height"),
    [
        (Fraction(1), 64, 48),  # said to be square, which is not the same as nothing said
        (Fraction(12, 11), 352, 288),  # a whole width
        (Fraction(10, 11), 90, 66),  # only a whole height
        (Fraction(118, 81), 62, 46),  # neither: the ratio of the sides
        (Fraction(1, 255), 66, 50),
    ],
)
def test_any_ratio(
    ffprobe: Callable[..., dict[str, Any]],
    tmp_path: Path,
    way: Callable[..., Path],
    muxer: str,
    aspect: Fraction,
    width: int,
    height: int,
) -> None:
    codec = {"webm": "libvpx-vp9", "yuv4mpegpipe": "rawvideo"}.get(muxer, "ffv1")
    path = way(tmp_path / "clip", muxer, codec, aspect, width=width, height=height, frames=2)
    [stream] = ffprobe("-show_streams", "-select_streams", "v", path)["streams"]
    assert stream["sample_aspect_ratio"] == f"{aspect.numerator}:{aspect.denominator}"


def test_a_ratio_of_large_numbers_is_exact_where_readers_can_tell(
    ffprobe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    for muxer, codec in (("nut", "ffv1"), ("yuv4mpegpipe", "rawvideo")):
        path = written(tmp_path / muxer, muxer, codec, Fraction(4320, 4739), frames=2)
        [stream] = ffprobe("-show_streams", "-select_streams", "v", path)["streams"]
        assert stream["sample_aspect_ratio"] == "4320:4739"


@pytest.mark.parametrize("muxer", ["matroska", "webm", "nut", "yuv4mpegpipe", "mp4"])
def test_nothing_is_done_without_a_ratio(muxer: str) -> None:
    assert header_rewriter(muxer, width=64, height=48, aspect=None, title="") is None


@pytest.mark.parametrize("muxer", ["mp4", "mov", "mpegts", "flv"])
def test_nothing_is_done_where_the_muxer_does_it(muxer: str) -> None:
    assert header_rewriter(muxer, width=64, height=48, aspect=PAL, title="") is None


TITLES = ["", "Die Möwe", "T" * 120, "long " * 150, "very long " * 1700]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("muxer", ["matroska", "webm", "nut"])
@pytest.mark.parametrize("title", TITLES, ids=["none", "short", "120", "750", "17000"])
def test_titles_and_languages_stay(
    ffprobe: Callable[..., dict[str, Any]],
    tmp_path: Path,
    way: Callable[..., Path],
    muxer: str,
    title: str,
) -> None:
    if muxer == "nut":
        title = title[:900]  # FFmpeg reads no more of NUT's tags
    codec = "libvpx-vp9" if muxer == "webm" else "ffv1"
    path = way(tmp_path / "clip", muxer, codec, PAL, title=title, width=64, height=48)
    streams = ffprobe("-show_streams", path)["streams"]
    assert streams[0]["tags"].get("title", "") == title
    assert streams[0]["tags"]["language"] == "ger"
    assert streams[0]["sample_aspect_ratio"] == "16:15"
    if muxer != "webm":
        # Looks like a placeholder, but is the other stream's own.
        assert streams[1]["tags"]["title"] == "-" * 300
        assert streams[1]["tags"]["language"] == "fre"


def packets(path: Path) -> list[tuple[Any, ...]]:
    """As PyAV reads them, with their places in the file."""
    with av.open(str(path)) as container:
        return [
            (p.stream_index, p.pts, p.duration, p.is_keyframe, p.pos, bytes(p))
            for p in container.demux()
            if p.size
        ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("muxer", ["matroska", "webm", "nut"])
def test_no_packet_moves(tmp_path: Path, way: Callable[..., Path], muxer: str) -> None:
    codec = "libvpx-vp9" if muxer == "webm" else "ffv1"
    size = {"width": 64, "height": 48}
    with_ratio = way(tmp_path / "a", muxer, codec, PAL, **size)
    # The same bytes but for the ratio: the placeholder's length is the title's.
    spare = header_rewriter(muxer, **size, aspect=PAL, title="")
    assert spare is not None
    assert spare.placeholder is not None
    without = way(tmp_path / "b", muxer, codec, None, title=spare.placeholder, **size)
    assert packets(with_ratio) == packets(without)
    assert with_ratio.stat().st_size == without.stat().st_size


@pytest.mark.parametrize("muxer", ["matroska", "webm", "nut"])
def test_seeking_works(tmp_path: Path, muxer: str) -> None:
    codec = "libvpx-vp9" if muxer == "webm" else "ffv1"
    path = written(tmp_path / "a", muxer, codec, PAL, width=64, height=48, frames=100)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        container.seek(int(3 / video.time_base), stream=video)
        frame = next(container.decode(video))
        assert frame.time is not None
        assert 2.5 < frame.time <= 3
        if muxer != "nut":
            assert len(video.index_entries) > 10  # the cues, found by the seek head


@pytest.mark.parametrize("way", WAYS)
def test_nut_checksums_hold(
    ffprobe: Callable[..., dict[str, Any]], tmp_path: Path, way: Callable[..., Path]
) -> None:
    path = way(tmp_path / "a", "nut", "ffv1", PAL, width=64, height=48)
    assert ffprobe("-show_streams", path)["streams"][0]["sample_aspect_ratio"] == "16:15"
    # One bit of what was written: that the reader looks at checksums at all.
    data = bytearray(path.read_bytes())
    data[data.index(b"FFV1") + 4] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(AssertionError, match="checksum"):
        ffprobe("-show_streams", path)


def checksummed(data: bytes) -> bool:
    """Whether the CRC-32 of Tracks, FFmpeg's first child of it, is that of the rest."""
    number = bytes.fromhex("1654ae6b")
    # The first is what the SeekHead calls it.
    place = data.index(number, data.index(b"\x53\xab\x84" + number) + 7) + 4
    width = 9 - data[place].bit_length()
    size = int.from_bytes(data[place : place + width]) & ((1 << 7 * width) - 1)
    tracks = data[place + width : place + width + size]
    assert tracks[:2] == b"\xbf\x84"
    return zlib.crc32(tracks[6:]).to_bytes(4, "little") == tracks[2:6]


@pytest.mark.parametrize("way", WAYS)
def test_matroska_checksums_hold(tmp_path: Path, way: Callable[..., Path]) -> None:
    as_ffmpeg = way(tmp_path / "a", "matroska", "ffv1", None, width=64, height=48)
    assert checksummed(as_ffmpeg.read_bytes())
    rewritten = way(tmp_path / "b", "matroska", "ffv1", PAL, width=64, height=48)
    assert checksummed(rewritten.read_bytes())


@pytest.fixture(scope="module")
def plain() -> dict[str, bytes]:
    """What the muxer gives, placeholder and all."""
    found = {}
    for muxer, codec in (("matroska", "ffv1"), ("nut", "ffv1"), ("yuv4mpegpipe", "rawvideo")):
        rewriter = header_rewriter(muxer, width=64, height=48, aspect=PAL, title="A title")
        assert rewriter is not None
        pipe = Pipe()
        encode(pipe, muxer, codec, None, title=rewriter.placeholder or "", width=64, height=48)
        found[muxer] = pipe.data
    return found


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    for begin, end in pairwise(places):
        yield data[begin:end]


@pytest.mark.parametrize("muxer", ["matroska", "nut", "yuv4mpegpipe"])
@given(cuts=st.lists(st.integers(0, 1500), max_size=40))
@settings(max_examples=60, deadline=None)
def test_how_the_muxer_cuts_its_output_changes_nothing(
    plain: dict[str, bytes], muxer: str, cuts: list[int]
) -> None:
    def rewritten(parts: Iterator[bytes]) -> bytes:
        rewriter = header_rewriter(muxer, width=64, height=48, aspect=PAL, title="A title")
        assert rewriter is not None
        return b"".join([*map(rewriter.feed, parts), rewriter.rest()])

    data = plain[muxer]
    whole = rewritten(iter([data]))
    assert rewritten(pieces(data, cuts)) == whole
    assert whole != data


def test_nut_headers_that_are_repeated_are_all_rewritten(plain: dict[str, bytes]) -> None:
    data = plain["nut"]
    begin, end = data.index(b"NM\x7a\x56"), data.index(b"NK\xe4\xad")
    repeated = data + data[begin:end]
    rewriter = header_rewriter("nut", width=64, height=48, aspect=PAL, title="A title")
    assert rewriter is not None
    out = b"".join([*(rewriter.feed(repeated[i : i + 7]) for i in range(0, len(repeated), 7))])
    out += rewriter.rest()
    assert len(out) == len(repeated)
    assert out[begin:end] == out[-(end - begin) :] != data[begin:end]


@pytest.mark.parametrize("muxer", ["matroska", "nut"])
def test_a_header_of_another_shape_is_refused(plain: dict[str, bytes], muxer: str) -> None:
    def rewriter() -> Any:
        return header_rewriter(muxer, width=64, height=48, aspect=PAL, title="Another length")

    with pytest.raises(ValueError, match="is not in the"):
        rewriter().feed(plain[muxer])
    with pytest.raises(ValueError, match="header"):
        rewriter().feed(bytes(100))


def test_a_matroska_file_without_tracks_is_refused() -> None:
    rewriter = header_rewriter("matroska", width=64, height=48, aspect=PAL, title="")
    assert rewriter is not None
    with pytest.raises(ValueError, match="no Tracks"):
        rewriter.patch(io.BytesIO(bytes.fromhex("1a45dfa3801853806701ffffffffffffff")))
