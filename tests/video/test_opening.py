"""An input opens nothing but itself, and its video stream is the one that was meant."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pyav_cli import pyav

from hatvid.errors import HatvidError, InputError, OptionError
from hatvid.options import InputOptions, StreamOptions
from hatvid.selectors import StreamSpecifier
from hatvid.video.opening import matches, open_input, selected
from hatvid.video.source import VideoSource


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> Path:
    """A video that no input may open."""
    return make_clip(tmp_path_factory.mktemp("private") / "secret.ts")


@contextmanager
def listener() -> Iterator[tuple[int, list[Any]]]:
    """A port of this machine, and whoever connects to it."""
    calls: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, peer = server.accept()
                except OSError:
                    return
                calls.append(peer)
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1], calls
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{name}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{name}'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp2t"><Representation '
    'id="1" bandwidth="1"><BaseURL>{name}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.m3u8", HLS), ("a.mp4", HLS), ("a.ffconcat", CONCAT), ("a.mpd", DASH), ("a.sdp", SDP)],
)
def test_a_playlist_opens_no_file(tmp_path: Path, secret: Path, name: str, text: str) -> None:
    shutil.copy(secret, tmp_path / "near.ts")
    for target in (str(secret), "near.ts"):
        path = tmp_path / name
        path.write_text(text.format(name=target, port=1))
        with pytest.raises(InputError, match="only names other files, and none of them is opened"):
            open_input(path)


@pytest.mark.parametrize(("name", "text"), [("a.m3u8", HLS), ("a.mpd", DASH)])
def test_a_playlist_calls_nobody(tmp_path: Path, name: str, text: str) -> None:
    with listener() as (port, calls):
        (tmp_path / name).write_text(text.format(name=f"http://127.0.0.1:{port}/a.ts"))
        with pytest.raises(InputError):
            open_input(tmp_path / name)
        with pytest.raises((InputError, OptionError)):
            open_input(tmp_path / name, InputOptions(format="hls"))
        # The listener does hear who calls.
        socket.create_connection(("127.0.0.1", port)).close()
        for _ in range(100):
            if calls:
                break
            threading.Event().wait(0.02)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["hls", "concat", "dash", "lavfi", "sdp", "rtsp", "no_such"])
def test_a_demuxer_of_playlists_cannot_be_asked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("ffconcat version 1.0\n")
    with pytest.raises(OptionError, match=f"format '{name}' is not read"):
        open_input(tmp_path / "a.txt", InputOptions(format=name))


def test_a_movie_whose_samples_lie_in_another_file_does_not_open_it(
    tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    """A data reference (ISO/IEC 14496-12, section 8.7.2) may name any file."""
    clip = make_clip(tmp_path / "a.mov", codec="mpeg4")
    movie = tmp_path / "b.mov"
    movie.write_bytes(_referring(clip.read_bytes(), clip))
    # FFmpeg opens the other file if it is let.
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(movie), container_options=options) as container:
        assert len(list(container.decode(video=0))) == 24
    with pytest.raises(InputError):
        VideoSource(movie)


def _referring(data: bytes, target: Path) -> bytes:
    """A movie's index alone, its samples to be found in ``target``."""
    path = f"disk:{target}".replace("/", ":").replace("::", ":").encode()
    # An alias record as FFmpeg reads it: volume, file name, and of the tagged data the path.
    alias = bytes(10) + b"\4disk".ljust(28, b"\0") + bytes(12) + b"\1a".ljust(64, b"\0")
    alias += bytes(16) + struct.pack(">hh", -1, -1) + bytes(16)
    alias += struct.pack(">hH", 2, len(path)) + path + bytes(len(path) % 2)
    alias += struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    moov = data[data.index(b"moov") - 4 :]
    at = moov.index(b"url \0\0\0\1") - 4
    index = bytearray(moov[:at] + entry + moov[at + 12 :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = index.index(name) - 4
        [size] = struct.unpack_from(">I", index, place)
        struct.pack_into(">I", index, place, size + len(entry) - 12)
    return data[: data.index(b"mdat") - 12] + bytes(index)


# Which stream.


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streams: 0 video 64x48, 1 audio eng, 2 video 96x64 ger, 3 audio deu."""
    path = tmp_path_factory.mktemp("several") / "a.mkv"
    with av.open(str(path), "w") as output:
        streams = []
        for kind, size, language in (
            ("mpeg4", (64, 48), "eng"),
            ("flac", None, "eng"),
            ("mpeg4", (96, 64), "ger"),
            ("flac", None, "deu"),
        ):
            stream: Any = output.add_stream(kind, rate=24 if size else 48000)
            if size:
                stream.width, stream.height = size
                stream.pix_fmt = "yuv420p"
            else:
                stream.layout = "mono"
            stream.metadata["language"] = language
            streams.append(stream)
        for number in range(3):
            for stream in streams:
                if stream.type == "video":
                    frame: Any = av.VideoFrame(stream.width, stream.height, "yuv420p")
                    frame.pts, frame.time_base = number, Fraction(1, 24)
                else:
                    frame = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.int16), "s16", "mono")
                    frame.sample_rate, frame.pts = 48000, number * 2000
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    return path


def mapped(*texts: str) -> StreamOptions:
    return StreamOptions(map=tuple(StreamSpecifier.parse(text) for text in texts))


def test_several_videos_need_a_choice(several: Path) -> None:
    with pytest.raises(OptionError) as caught:
        VideoSource(several)
    text = str(caught.value)
    assert "--map v:0" in text
    assert "v:0 (stream 0 mpeg4 64x48 eng)" in text
    assert "v:1 (stream 2 mpeg4 96x64 ger)" in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("chosen", "index"),
    [(["v:1"], 2), (["2"], 2), (["v", "a"], 0), (["a", "v:1", "v:0"], 2), (["-v:0"], 2)],
)
def test_the_first_video_that_the_map_names_is_upscaled(
    several: Path, chosen: list[str], index: int
) -> None:
    with VideoSource(several, streams=mapped(*chosen)) as source:
        assert source.stream.index == index
        assert source.info.width == (64 if index == 0 else 96)
        [batch] = source.items(8, frozenset())
        assert len(batch.times) == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("chosen", "says"), [(["a"], "takes no video stream"), (["v:2"], "v:2 matches no stream")]
)
def test_a_map_without_a_video_is_refused(several: Path, chosen: list[str], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        VideoSource(several, streams=mapped(*chosen))


@pytest.mark.parametrize(
    ("chosen", "indices"),
    [
        ([], [0, 1, 2, 3]),
        (["a"], [1, 3]),
        (["a:1", "0:v"], [3, 0, 2]),
        (["a:m:language:deu"], [3]),
        (["m:language:eng"], [0, 1]),
        (["v", "a", "-a:m:language:deu"], [0, 2, 1]),
        (["-1"], [0, 2, 3]),
        (["a", "1", "a:0"], [1, 3]),
    ],
)
def test_specifiers_mean_what_they_mean_to_ffmpeg(
    several: Path, chosen: list[str], indices: list[int]
) -> None:
    with av.open(str(several)) as container:
        streams = list(container.streams)
        specifiers = [StreamSpecifier.parse(text) for text in chosen]
        assert [stream.index for stream in selected(streams, specifiers)] == indices


@pytest.mark.parametrize("text", ["v:1", "a:1", "2", "a", "a:m:language:deu"])
def test_a_specifier_by_ffprobe(
    several: Path, ffprobe: Callable[..., dict[str, Any]], text: str
) -> None:
    said = ffprobe("-show_streams", "-select_streams", text, several)
    with av.open(str(several)) as container:
        streams = list(container.streams)
        found = [s.index for s in streams if matches(StreamSpecifier.parse(text), s, streams)]
    assert found == [stream["index"] for stream in said["streams"]]


def test_a_cover_picture_is_never_the_video(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    clip, cover = make_clip(tmp_path / "a.mp4"), tmp_path / "b.png"
    pyav("-i", clip, "-frames:v", "1", cover)
    both = tmp_path / "both.mp4"
    options = ("-c", "copy", "-disposition:v:0", "attached_pic")
    pyav("-i", cover, "-i", clip, "-map", "0", "-map", "1", *options, both)
    with VideoSource(both) as source:
        assert source.info.codec == "h264"
    with av.open(str(both)) as container:
        [index] = [s.index for s in container.streams if s.codec_context.name == "png"]
    with pytest.raises(OptionError, match="takes no video stream"):
        VideoSource(both, streams=mapped(str(index)))


# Numbered pictures.


@pytest.fixture
def pictures(tmp_path: Path, make_clip: Callable[..., Path]) -> Path:
    """shots/100%/p7.png to p18.png, showing 0 to 11."""
    folder = tmp_path / "100%"
    folder.mkdir()
    clip = make_clip(tmp_path / "a.mkv", codec="ffv1", pts=range(12))
    pyav("-i", clip, "-start_number", "7", f"{tmp_path}/100%%/p%d.png")
    return folder / "p%d.png"


def test_numbered_pictures_are_one_video(pictures: Path) -> None:
    with VideoSource(pictures, reading=InputOptions(framerate=Fraction(24000, 1001))) as source:
        times = [t for item in source.items(5, frozenset()) for t in item.times]  # type: ignore[union-attr]
        step = times[1].pts - times[0].pts
        assert step * source.info.time_base == Fraction(1001, 24000)
        assert source.notes == []
    assert [time.pts for time in times] == [step * number for number in range(12)]


def test_the_rate_of_numbered_pictures_is_said_where_it_is_assumed(pictures: Path) -> None:
    with VideoSource(pictures) as source:
        assert source.info.average_rate == 25
        assert source.notes == ["numbered pictures have no frame rate: 25 a second is assumed"]


def test_a_gap_between_numbered_pictures_is_no_end(pictures: Path) -> None:
    """FFmpeg's own reader stops there in silence."""
    pictures.with_name("p12.png").unlink()
    pictures.with_name("p13.png").unlink()
    with pytest.raises(InputError, match="run from 7 to 18, but 12 to 13 is not there"):
        VideoSource(pictures)


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no picture has such a name"):
        VideoSource(tmp_path / "a%03d.png")


def test_a_file_whose_name_looks_like_a_number_is_that_file(
    tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    for name in ("a%d.mkv", "a%03d*.mp4"):
        with VideoSource(make_clip(tmp_path / name)) as source:
            assert source.info.frames in (24, None)


# Hardware.


def test_hardware_that_is_not_there_is_said_once_and_done_without(
    tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    with VideoSource(
        make_clip(tmp_path / "a.mp4"), reading=InputOptions(hwaccel="no_such_device")
    ) as source:
        [note] = source.notes
        assert sum(len(item.times) for item in source.items(8, frozenset())) == 24  # type: ignore[union-attr]
    assert re.fullmatch(r"no no_such_device device to decode on \(.+\): decoding on the CPU", note)


def test_what_is_no_video_is_an_error_of_hatvid(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(HatvidError, match="cannot be read as a video"):
        open_input(tmp_path / "a.mp4")


def test_a_track_that_a_damaged_matroska_lists_twice_is_one(
    tmp_path: Path, make_clip: Callable[..., Path], play: Callable[..., Any]
) -> None:
    """FFmpeg then shows a second stream that no packet belongs to."""
    clip = make_clip(tmp_path / "a.mkv")
    data = clip.read_bytes()
    tracks = data.index(b"\x16\x54\xae\x6b")
    cluster = data.index(b"\x1f\x43\xb6\x75")
    clip.write_bytes(data[:cluster] + data[tracks:cluster] + data[cluster:])
    with av.open(str(clip)) as container:
        assert len(container.streams.video) > 1
    assert play(clip).numbers == list(range(24))
