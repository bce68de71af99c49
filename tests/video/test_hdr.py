"""HDR metadata: read from streams, written by encoders, against other readers of the bits."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from hatvid.video.hdr import ContentLight, Hdr, MasteringDisplay, hdr_options, read_hdr

# DCI-P3 with D65 white, 1000 cd/m2: as most HDR10 films say.
DISPLAY = MasteringDisplay(
    red=(34000, 16000),
    green=(13250, 34500),
    blue=(7500, 3000),
    white=(15635, 16450),
    max_luminance=10_000_000,
    min_luminance=50,
)
LIGHT = ContentLight(max_cll=1000, max_fall=400)
HDR = Hdr(mastering=DISPLAY, light=LIGHT)


def encoded(path: Path, codec: str, options: dict[str, str], pix_fmt: str = "yuv420p10le") -> Path:
    with av.open(path, "w") as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 64, pix_fmt
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9
        deep = "10" in pix_fmt
        gray = np.full((96, 128), 512 if deep else 128, np.uint16 if deep else np.uint8)
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(gray, format=pix_fmt)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def written(path: Path, codec: str, hdr: Hdr, **more: str) -> Path:
    options, notes = hdr_options(codec, hdr)
    assert notes == ()
    if codec == "libx265":
        options = {"x265-params": f"log-level=error:{options['x265-params']}"}
    return encoded(path, codec, options | more)


def read(path: Path) -> Hdr | None:
    with av.open(path) as source:
        stream = source.streams.video[0]
        return read_hdr(next(source.decode(stream)), stream)


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        *(("libx264", f"out.{ext}") for ext in ("mp4", "mkv", "nut", "mov")),
        *(("libx265", f"out.{ext}") for ext in ("mp4", "mkv", "nut", "mov")),
    ],
)
def test_what_is_written_is_read_again(codec: str, name: str, tmp_path: Path) -> None:
    assert read(written(tmp_path / name, codec, HDR)) == HDR


@pytest.mark.parametrize(
    "hdr", [Hdr(mastering=DISPLAY), Hdr(light=LIGHT)], ids=["display", "light"]
)
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_each_part_goes_alone(codec: str, hdr: Hdr, tmp_path: Path) -> None:
    found = read(written(tmp_path / "out.mkv", codec, hdr))
    assert found is not None
    assert found.light == hdr.light
    assert (found.mastering is None) == (hdr.mastering is None)


def values_of(entry: dict[str, Any]) -> list[float]:
    names = [*("red_x", "red_y", "green_x", "green_y", "blue_x", "blue_y")]
    names += ["white_point_x", "white_point_y", "max_luminance", "min_luminance"]
    return [float(Fraction(entry[name])) for name in names]


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        *(("libx265", f"out.{ext}") for ext in ("mp4", "mkv", "ts")),
        *(("libsvtav1", f"out.{ext}") for ext in ("mp4", "mkv", "webm")),
    ],
)
def test_another_reader_sees_it(
    codec: str, name: str, tmp_path: Path, ffprobe: Callable[..., dict[str, Any]]
) -> None:
    path = written(tmp_path / name, codec, HDR)
    [frame, *_] = ffprobe("-show_frames", "-read_intervals", "%+#1", path)["frames"]
    seen = {entry["side_data_type"]: entry for entry in frame["side_data_list"]}
    light = seen["Content light level metadata"]
    assert (light["max_content"], light["max_average"]) == (1000, 400)
    expected = [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 1000, 0.005]
    # AV1 counts in powers of two: chromaticity in 2^-16, luminance in 2^-8 and 2^-14.
    tolerance = 1e-9 if codec == "libx265" else 2**-14
    assert values_of(seen["Mastering display metadata"]) == pytest.approx(expected, abs=tolerance)
    assert frame["color_transfer"] == "smpte2084"


def test_the_bits_of_h264(tmp_path: Path) -> None:
    """Debian's reader does not know these messages of H.264; ITU-T H.264, annex D."""
    data = written(tmp_path / "out.h264", "libx264", HDR).read_bytes()
    data = data.replace(b"\0\0\x03", b"\0\0")  # emulation prevention
    # Green, blue, red; then white.
    points = struct.pack(">8H", 13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450)
    assert b"\x06\x89\x18" + points + struct.pack(">2I", 10_000_000, 50) in data
    assert b"\x06\x90\x04" + struct.pack(">2H", 1000, 400) in data


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def test_what_only_the_container_says(tmp_path: Path) -> None:
    """The boxes mdcv and clli of ISO/IEC 14496-12, as other tools write them for any codec."""
    path = encoded(tmp_path / "plain.mp4", "libx264", {}, "yuv420p")
    assert read(path) is None
    points = struct.pack(">8H", 13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450)
    boxes = box(b"mdcv", points + struct.pack(">2I", 10_000_000, 50))
    boxes += box(b"clli", struct.pack(">2H", 1000, 400))
    data = path.read_bytes()
    at = data.index(b"colr") - 4
    place = 0  # each in the one before: ftyp names avc1 too, as a brand
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        place = data.index(kind, place + 8) - 4
        size = struct.pack(">I", int.from_bytes(data[place : place + 4]) + len(boxes))
        data = data[:place] + size + data[place + 4 :]
    assert data.index(b"mdat") < at, "what stands before the samples would move them"
    path.write_bytes(data[:at] + boxes + data[at:])
    assert read(path) == HDR


class Data(bytes):
    """One entry of a frame's side data."""

    type: SimpleNamespace


def fake(frame: dict[str, bytes], coded: dict[str, bytes] | None = None) -> Hdr | None:
    entries = []
    for name, content in frame.items():
        entry = Data(content)
        entry.type = SimpleNamespace(name=name)
        entries.append(entry)
    context = SimpleNamespace(coded_side_data=coded or {}, decoded_side_data={})
    return read_hdr(
        SimpleNamespace(side_data=entries),  # type: ignore[arg-type]
        SimpleNamespace(codec_context=context),  # type: ignore[arg-type]
    )


def mastering(changes: dict[int, int] | None = None) -> bytes:
    """FFmpeg's struct, with some of its 22 integers changed."""
    points = [34000, 16000, 13250, 34500, 7500, 3000, 15635, 16450]
    numbers = [n for point in points for n in (point, 50000)]
    numbers += [50, 10000, 10_000_000, 10000, 1, 1]
    for index, value in (changes or {}).items():
        numbers[index] = value
    return struct.pack("=22i", *numbers)


def test_the_struct_is_understood() -> None:
    both = {"MASTERING_DISPLAY_METADATA": mastering()}
    both["CONTENT_LIGHT_LEVEL"] = struct.pack("=2I", 1000, 400)
    assert fake(both) == HDR
    # Other fractions of the same values, as Matroska's floats become.
    same = mastering({0: 17, 1: 25, 16: 1, 17: 200, 18: 1000, 19: 1})
    assert fake({"MASTERING_DISPLAY_METADATA": same}) == Hdr(mastering=DISPLAY)
    signs = mastering({0: -34000, 1: -50000})
    assert fake({"MASTERING_DISPLAY_METADATA": signs}) == Hdr(mastering=DISPLAY)


def test_the_bitstream_is_believed_before_the_container() -> None:
    other = {"mastering_display_metadata": mastering({18: 40_000_000})}
    found = fake({"MASTERING_DISPLAY_METADATA": mastering()}, other)
    assert found == Hdr(mastering=DISPLAY)
    assert fake({}, other) == Hdr(mastering=replace(DISPLAY, max_luminance=40_000_000))


@pytest.mark.parametrize(
    "changes",
    [
        *({index: 0} for index in (1, 3, 15, 17, 19)),
        *({index: 0} for index in (20, 21)),
        *({index: -1} for index in (0, 1, 14, 16, 18)),
        {0: 50001},
        {0: -(2**31)},
        {0: 2**31 - 1, 1: -(2**31)},
        {18: 50, 19: 10000},
        {18: 2**31 - 1, 19: 1},
        {0: 0, 2: 2**31 - 1, 3: 1},
        "empty",
        "short",
    ],
    ids=str,
)
def test_nonsense_is_named_and_dropped(changes: dict[int, int] | str) -> None:
    cut = {"empty": b"", "short": mastering()[:-4]}
    content = cut[changes] if isinstance(changes, str) else mastering(changes)
    found = fake({"MASTERING_DISPLAY_METADATA": content})
    assert found == Hdr(unreadable=("mastering display",))
    for codec in ("libx264", "libx265", "libsvtav1", "ffv1"):
        options, [note] = hdr_options(codec, found)
        assert options == {}
        assert "mastering display" in note


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (struct.pack("=2I", 0, 0), None),  # unknown, as the standard says it
        (struct.pack("=2I", 0, 300), Hdr(light=ContentLight(max_cll=0, max_fall=300))),
        (struct.pack("=2I", 65536, 1), Hdr(unreadable=("content light level",))),
        (struct.pack("=I", 1000), Hdr(unreadable=("content light level",))),
    ],
)
def test_content_light(content: bytes, found: Hdr | None) -> None:
    assert fake({"CONTENT_LIGHT_LEVEL": content}) == found


def test_what_changes_from_frame_to_frame_is_named() -> None:
    frame = {"DYNAMIC_HDR_PLUS": b"x", "DOVI_METADATA": b"x", "DOVI_RPU_BUFFER": b"x", "AFD": b"1"}
    found = fake(frame, {"dovi_conf": b"x", "cpb_properties": b"x"})
    assert found == Hdr(dynamic=("HDR10+", "Dolby Vision"))
    assert hdr_options("libx265", found) == (
        {},
        ("dropped, as it cannot be written again: HDR10+, Dolby Vision",),
    )


@pytest.mark.parametrize("codec", ["ffv1", "libvpx-vp9", "prores_ks", "hevc_nvenc"])
def test_encoders_that_carry_none_name_those_that_do(codec: str) -> None:
    options, [note] = hdr_options(codec, HDR)
    assert options == {}
    assert note == (
        f"{codec} does not carry the mastering display and content light level: dropped; "
        "libx264, libx265, libsvtav1 do"
    )
    [note] = hdr_options(codec, Hdr(light=LIGHT))[1]
    assert "mastering" not in note
