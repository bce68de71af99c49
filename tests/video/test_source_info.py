"""What a source tells of a video: rotation, fields, colours, and what frames carry."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from pyav_cli import WEAVE, pyav

from hatvid.errors import DecodeError, OptionError
from hatvid.options import ColorOptions, InputOptions
from hatvid.selectors import TimePoint
from hatvid.video.source import FrameBatch, VideoSource


def batches(path: Path, **more: Any) -> list[FrameBatch]:
    with VideoSource(path, **more) as source:
        return [item for item in source.items(4, frozenset()) if isinstance(item, FrameBatch)]


# The header.


def test_a_display_matrix(
    tmp_path: Path, make_clip: Callable[..., Path], ffprobe: Callable[..., dict[str, Any]]
) -> None:
    clip, turned = make_clip(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with av.open(str(clip)) as source, av.open(str(turned), "w") as output:
        twin = output.add_stream_from_template(source.streams.video[0])
        twin.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = twin
                output.mux(packet)
    with VideoSource(clip) as plain:
        assert (plain.info.display_matrix, plain.info.rotation) == (None, 0)
    with VideoSource(turned) as source_:
        info = source_.info
    [stream] = ffprobe("-show_streams", turned)["streams"]
    [said] = [data for data in stream["side_data_list"] if "displaymatrix" in data]
    rows = [line.split(":")[1].split() for line in said["displaymatrix"].strip().splitlines()]
    assert info.display_matrix == tuple(int(number) for row in rows for number in row)
    assert info.rotation == said["rotation"]
    # ISO/IEC 14496-12: nine numbers at the end of 'tkhd', before width and height.
    data = turned.read_bytes()
    at = data.index(b"tkhd") + 4 + 40
    assert info.display_matrix == struct.unpack(">9i", data[at : at + 36])


def test_colors_of_the_user_overrule_the_files_one_by_one(
    tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    plain = make_clip(tmp_path / "a.mp4")
    path = tmp_path / "b.mp4"
    tags = "h264_metadata=matrix_coefficients=1:colour_primaries=1:transfer_characteristics=1"
    pyav("-i", plain, "-c", "copy", "-bsf:v", tags, path)
    with VideoSource(path) as source:
        tagged = source.info.tags
    assert (tagged.matrix, tagged.primaries, tagged.transfer) == (1, 1, 1)
    assert tagged.full_range is False or tagged.full_range is None
    for name, value in (
        ("matrix", 6),
        ("primaries", 9),
        ("transfer", 16),
        ("full_range", True),
        ("full_range", False),
        ("chroma_location", 3),
    ):
        reading = InputOptions(colors=ColorOptions(**{name: value}))
        with VideoSource(path, reading=reading) as source:
            assert source.info.tags == replace(tagged, **{name: value})


@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv422p10le", 10)])
def test_bits(tmp_path: Path, make_clip: Callable[..., Path], pix_fmt: str, bits: int) -> None:
    with VideoSource(make_clip(tmp_path / "a.mkv", codec="ffv1", pix_fmt=pix_fmt)) as source:
        assert source.info.bits == bits


# Fields.


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 frames of two fields each, of a picture that moves from field to field."""
    path = tmp_path_factory.mktemp("fields") / "a.ts"
    source = f"testsrc2=s=160x128:r=50:d=1,scroll=h=0.02,{WEAVE['top first']},setpts=N/25/TB"
    options = ("-r", "25", "-c:v", "mpeg2video", "-flags", "+ilme+ildct")
    pyav("-f", "lavfi", "-i", source, *options, path)
    return path


def test_fields_are_judged_unless_the_user_knows_better(
    interlaced: Path, ffprobe: Callable[..., dict[str, Any]]
) -> None:
    # The first letter is the field coded first, the second the one shown first.
    words = {"tt": "top first", "bt": "top first", "bb": "bottom first", "tb": "bottom first"}
    [stream] = ffprobe("-show_streams", interlaced)["streams"]
    with VideoSource(interlaced) as source:
        fields = source.info.fields
        assert source.info.field_order == words[stream["field_order"]]
    assert fields is not None
    assert fields.interlaced
    with VideoSource(interlaced, reading=InputOptions(progressive=True)) as source:
        assert source.info.fields is None


def test_one_picture_of_each_frame(interlaced: Path) -> None:
    plain = [t for batch in batches(interlaced) for t in batch.times]
    reading = InputOptions(deinterlace="frame")
    times = [t for batch in batches(interlaced, reading=reading) for t in batch.times]
    assert times == plain
    assert len(times) == 25


def test_one_picture_of_each_field(interlaced: Path) -> None:
    plain = [t for batch in batches(interlaced) for t in batch.times]
    with VideoSource(interlaced) as source:
        frames = source.info
    with VideoSource(interlaced, reading=InputOptions(deinterlace="field")) as source:
        info = source.info
        times = [
            t
            for item in source.items(4, frozenset())
            if isinstance(item, FrameBatch)
            for t in item.times
        ]
        assert source.info.seconds(times[2].pts) == Fraction(1, 25)
    assert info.time_base == frames.time_base / 2
    assert info.start == 2 * frames.start
    assert info.average_rate == 50
    assert len(times) == 50
    assert [t.pts for t in times[::2]] == [2 * t.pts for t in plain]
    assert {t.duration * info.time_base for t in times} == {Fraction(1, 50)}


def test_a_cut_counts_frames_and_not_fields(interlaced: Path) -> None:
    reading = InputOptions(deinterlace="field")
    cut = {"start": TimePoint.parse("5f"), "end": TimePoint.parse("9f")}
    times = [t for batch in batches(interlaced, reading=reading, **cut) for t in batch.times]
    plain = [t for batch in batches(interlaced) for t in batch.times]
    assert [t.pts for t in times[::2]] == [2 * t.pts for t in plain[5:9]]
    assert len(times) == 8


def test_fields_of_a_pipe_are_judged_by_what_is_kept(
    interlaced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    class Once(io.BytesIO):
        def seekable(self) -> bool:
            return False

    stdin = io.TextIOWrapper(Once(interlaced.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    with VideoSource(Path("-")) as source:
        assert source.info.fields is not None
        assert source.info.fields.interlaced
        items = list(source.items(4, frozenset()))
    plain = batches(interlaced)
    assert [item.times for item in items] == [batch.times for batch in plain]  # type: ignore[union-attr]


# What changes on the way.


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("setsar=4/3", r"sample aspect ratio changes from 1 to 4/3 at 1\.000 s"),
        ("format=yuv444p", r"pixel format changes from yuv420p to yuv444p at 1\.000 s"),
        ("scale=96:64,setsar=1", r"picture size changes from 64x48 to 96x64 at 1\.000 s"),
    ],
)
def test_a_change_stops_with_its_time_and_the_parts_can_be_read(
    tmp_path: Path, second: str, says: str
) -> None:
    data = b""
    for part, change in enumerate(["setsar=1", second]):
        path = tmp_path / f"{part}.ts"
        source = f"testsrc2=s=64x48:r=24:d=1,format=yuv420p,setsar=1,{change}"
        more = ["-c:v", "libx264", "-bf", "2", "-muxdelay", "0"]
        more += ["-output_ts_offset", str(part + 10)]
        pyav("-f", "lavfi", "-i", source, *more, path)
        data += path.read_bytes()
    both = tmp_path / "both.ts"
    both.write_bytes(data)
    with pytest.raises(DecodeError, match=says + "; .* --start and --end"):
        batches(both)
    for cut in ({"end": TimePoint.parse("24f")}, {"start": TimePoint.parse("24f")}):
        assert sum(len(batch.times) for batch in batches(both, **cut)) == 24
    with VideoSource(both, start=TimePoint.parse("24f")) as source:
        expected = Fraction(4, 3) if "4/3" in second else 1
        assert source.info.sample_aspect_ratio == expected


# What frames carry.

# CEA-708 captions of one pair of bytes in a T.35 message (ATSC A/53 part 4, section 6.2).
CAPTIONS = b"\xb5\x00\x31GA94\x03\x41\xff\xfc\x94\x2c\xff"


def test_frames_with_captions_come_along(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    clip = make_clip(tmp_path / "a.mp4", options={"bf": "2", "g": "24"})
    raw = tmp_path / "a.h264"
    pyav("-i", clip, "-c", "copy", raw)
    message = b"\0\0\1\x06\x04" + bytes([len(CAPTIONS)]) + CAPTIONS + b"\x80"
    key = raw.read_bytes()
    at = key.index(b"\0\0\1\x65")  # the slice of the only key frame
    (tmp_path / "b.h264").write_bytes(key[:at] + message + key[at:])
    found = batches(tmp_path / "b.h264")
    assert [len(batch.carriers) for batch in found] == [4, 0, 0, 0, 0, 0]
    first, *others = found[0].carriers
    assert first is not None
    assert {data.type.name for data in first.side_data[:]} >= {"A53_CC"}
    assert others == [None] * 3
    assert all(batch.carriers == () for batch in batches(raw))


def test_raw_video_needs_its_shape() -> None:
    with pytest.raises(OptionError, match="--video-size"):
        InputOptions(format="rawvideo")
