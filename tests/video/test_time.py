"""Times, one for one: durations, edit lists, missing and repeated times, compared with
Debian's ffprobe."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from debian import ffmpeg

from hatvid.video.scan import scan

UNEVEN = [1000, 1001, 1005, 1006, 1020, 1021, 1090, 1100, 1101, 1200, 1201, 1320, 1400]
X265 = "log-level=none:scenecut=0:keyint=5:min-keyint=5:open-gop=1:bframes=4:b-adapt=0"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> Path:
    """24 frames a second, B-frames, key frames every 12."""
    return make_clip(
        tmp_path_factory.mktemp("time") / "a.mp4",
        options={"preset": "medium", "bf": "3", "g": "12", "x264-params": "scenecut=0"},
    )


@pytest.fixture(scope="module")
def shown(ffprobe: Callable[..., dict[str, Any]]) -> Callable[[Path], list[tuple[int, int]]]:
    """(pts, duration) of each packet that Debian's ffprobe reads and no edit list hides."""

    def read(path: Path) -> list[tuple[int, int]]:
        said = ffprobe("-show_packets", "-select_streams", "v:0", path)["packets"]
        return sorted((p["pts"], p.get("duration", 0)) for p in said if "D" not in p["flags"])

    return read


@pytest.mark.usefixtures("ffmpeg")
def test_an_edit_list_hides_frames(
    tmp_path: Path,
    clip: Path,
    play: Callable[..., Any],
    shown: Callable[[Path], list[tuple[int, int]]],
    ffprobe: Callable[..., dict[str, Any]],
) -> None:
    """Cut without encoding, an MP4 begins at a key frame and hides what was not asked for."""
    path = tmp_path / "b.mp4"
    ffmpeg("-ss", "0.25", "-i", clip, "-c", "copy", path)
    [stream] = ffprobe("-show_streams", "-count_packets", path)["streams"]
    assert int(stream["nb_read_packets"]) == 24, "the hidden packets are there"
    played = play(path)
    assert played.numbers == list(range(6, 24))
    frames = ffprobe("-show_frames", "-select_streams", "v:0", path)["frames"]
    assert played.pts == [frame["pts"] for frame in frames]
    assert [(t.pts, t.duration) for t in played.times] == shown(path)
    assert not any(t.repeated or t.moved for t in played.times)
    assert played.ended_early is None
    assert played.info.frames == 18
    found = scan(path)
    assert list(found.pts) == played.pts
    assert found.discarded == 6


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "nut"])
@pytest.mark.parametrize(
    "codec",
    [
        {"codec": "libx265", "options": {"x265-params": X265}},
        {"codec": "libx264", "options": {"preset": "medium", "bf": "3", "g": "5"}},
    ],
    ids=["x265 open GOP", "x264 B-frames"],
)
def test_uneven_times_with_a_late_start_and_b_frames(
    tmp_path: Path,
    make_clip: Callable[..., Path],
    play: Callable[..., Any],
    shown: Callable[[Path], list[tuple[int, int]]],
    suffix: str,
    codec: dict[str, Any],
) -> None:
    path = make_clip(tmp_path / f"a.{suffix}", pts=UNEVEN, time_base=Fraction(1, 1000), **codec)
    played = play(path)
    assert played.numbers == list(range(len(UNEVEN)))
    seconds = [t.pts * played.info.time_base for t in played.times]
    assert seconds == [Fraction(stamp, 1000) for stamp in UNEVEN]
    assert played.pts == [pts for pts, _ in shown(path)]
    assert list(scan(path).pts) == played.pts


def test_the_last_frame_lasts_as_long_as_the_file_says(
    tmp_path: Path,
    play: Callable[..., Any],
    shown: Callable[[Path], list[tuple[int, int]]],
) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.flags |= av.codec.context.Flags.frame_duration
        for pts, duration in ((0, 40), (40, 100), (140, 2500)):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.duration, frame.time_base = pts, duration, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    played = play(path)
    lasting = [t.duration * played.info.time_base for t in played.times]
    assert lasting == [Fraction(1, 25), Fraction(1, 10), Fraction(5, 2)]
    assert [(t.pts, t.duration) for t in played.times] == shown(path)


@pytest.mark.usefixtures("ffmpeg")
def test_h264_in_avi_has_its_frames_at_the_sorted_decoding_times(
    tmp_path: Path,
    clip: Path,
    play: Callable[..., Any],
    ffprobe: Callable[..., dict[str, Any]],
) -> None:
    """AVI has no times of presentation. B-frames, a pyramid of them, come out of order."""
    path = tmp_path / "a.avi"
    ffmpeg("-i", clip, "-c", "copy", path)
    said = ffprobe("-show_packets", "-select_streams", "v:0", path)["packets"]
    assert not any("pts" in packet for packet in said)
    played = play(path)
    assert played.numbers == list(range(24))
    assert played.pts == sorted(packet["dts"] for packet in said)
    assert not any(t.moved for t in played.times)
    assert list(scan(path).pts) == played.pts


@pytest.mark.usefixtures("ffmpeg")
def test_a_broken_packet_in_avi_leaves_the_others_at_their_times(
    tmp_path: Path,
    make_clip: Callable[..., Path],
    play: Callable[..., Any],
    ffprobe: Callable[..., dict[str, Any]],
) -> None:
    source = make_clip(tmp_path / "a.mp4", options={"bf": "0", "g": "1"})
    path = tmp_path / "a.avi"
    ffmpeg("-i", source, "-c", "copy", path)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    place, size = packets[9]
    data[place + 8 : place + 8 + size] = bytes(size)
    path.write_bytes(data)
    played = play(path)
    assert played.numbers == [*range(9), 8, *range(10, 24)]
    assert [n for n, t in enumerate(played.times) if t.repeated] == [9]
    said = ffprobe("-show_packets", "-select_streams", "v:0", path)["packets"]
    assert played.pts == [packet["dts"] for packet in said]


def test_repeated_times_are_set_right_and_said(
    tmp_path: Path, clip: Path, play: Callable[..., Any]
) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(clip)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        twin = output.add_stream_from_template(stream)
        step = 512
        for packet in source.demux(stream):
            if packet.size:
                assert packet.pts is not None
                packet.pts = packet.dts = 10 * step if packet.pts == 11 * step else packet.pts
                packet.dts = None
                packet.stream = twin
                output.mux(packet)
    played = play(path)
    assert played.numbers == list(range(24))
    assert [n for n, t in enumerate(played.times) if t.moved] == [11]
    assert played.pts[11] == played.pts[10] + 1
