"""Fields of files whose flags are right, wrong or all there is, as another reader sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyav_cli import WEAVE, pyav

from hatvid.video.fields import FieldOrder, Fields, choices
from hatvid.video.source import VideoSource

WIDTH, HEIGHT = 176, 144

# A camera that pans over blurred noise, 3 pixels across and 1 down, 50 times a second.
PAN = (
    f"color=gray:s={WIDTH}x{HEIGHT}:r=50:d=0.02,format=yuv420p,noise=alls=100:all_seed=3,"
    f"gblur=1.2,loop=-1:1,scroll=h={3 / WIDTH}:v={1 / HEIGHT},trim=duration=1.2,setpts=N/50/TB"
)
STILL = PAN.replace(f"scroll=h={3 / WIDTH}:v={1 / HEIGHT},", "")
SEEN = {**WEAVE, "progressive": "framestep=2"}
ORDER = {"top first": "tt", "bottom first": "bb", "progressive": "progressive"}
FLAG = {"top first": "setfield=tff", "bottom first": "setfield=bff", "progressive": "setfield=prog"}
ORDERS: tuple[FieldOrder, ...] = ("top first", "bottom first", "progressive")
INTERLACED: tuple[FieldOrder, ...] = ("top first", "bottom first")

# (codec and container, options always, options where flagged as interlaced)
ENCODERS: dict[str, tuple[list[str], list[str]]] = {
    "libx264 mp4": (["-preset", "veryfast"], ["-flags", "+ildct+ilme"]),
    "libx264 mkv": (["-preset", "ultrafast", "-crf", "38"], ["-flags", "+ildct+ilme"]),
    "mpeg2video ts": (["-b:v", "1M"], ["-flags", "+ildct+ilme"]),
    "mpeg2video mpg": (["-b:v", "300k"], ["-flags", "+ildct+ilme"]),
    "mpeg4 avi": (["-b:v", "1M"], ["-flags", "+ildct+ilme"]),
    "ffv1 mkv": ([], []),
    "wrapped_avframe y4m": ([], []),
}
# Heavily compressed ones, and those that other kinds of flags are in.
ROUGH = ["libx264 mkv", "mpeg2video mpg", "mpeg4 avi", "ffv1 mkv", "wrapped_avframe y4m"]

type Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Encode 30 frames whose pictures are ``seen``, with the flags of ``flagged``."""

    def encode(
        encoder: str, seen: FieldOrder, flagged: FieldOrder | None = None, *, scene: str = PAN
    ) -> Path:
        flagged = flagged or seen
        codec, container = encoder.split()
        always, interlaced = ENCODERS[encoder]
        path = tmp_path / f"a.{container}"
        graph = f"{SEEN[seen]},{FLAG[flagged]},setpts=N/25/TB"
        options = [*always, *(interlaced if flagged != "progressive" else [])]
        if codec in ("ffv1", "wrapped_avframe"):  # which take the order from nothing else
            options += ["-field_order", ORDER[flagged]]
        pyav("-f", "lavfi", "-i", scene, "-vf", graph, "-r", "25", "-c:v", codec, *options, path)
        return path

    return encode


def fields_of(path: Path) -> Fields:
    with VideoSource(path) as source:
        fields = source.info.fields
    assert fields is not None
    return fields


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("encoder", ROUGH)
def test_what_is_flagged_rightly(encoder: str, order: FieldOrder, make: Make) -> None:
    found = fields_of(make(encoder, order))
    assert found.measured == order
    assert found.interlaced == (order != "progressive")
    assert found.top_first == (order != "bottom first")
    assert found.note is None
    # MPEG-4 part 2 has no word for progressive pictures.
    silent = encoder == "mpeg4 avi" and order == "progressive"
    assert found.coded == ("unknown" if silent else order)


def told(path: Path, ffprobe: Callable[..., dict[str, Any]]) -> FieldOrder:
    """What ffprobe reads in the frames."""
    [first, *_] = ffprobe("-show_frames", "-read_intervals", "%+#3", path)["frames"]
    if not first["interlaced_frame"]:
        return "progressive"
    return "top first" if first["top_field_first"] else "bottom first"


@pytest.mark.parametrize("flagged", INTERLACED)
@pytest.mark.parametrize("encoder", ["libx264 mp4", "mpeg2video ts"])
def test_progressive_pictures_under_an_interlaced_flag(
    encoder: str, flagged: FieldOrder, make: Make, ffprobe: Callable[..., dict[str, Any]]
) -> None:
    path = make(encoder, "progressive", flagged)
    assert told(path, ffprobe) == flagged
    found = fields_of(path)
    assert (found.coded, found.measured) == (flagged, "progressive")
    assert not found.interlaced
    assert found.note is not None
    assert f"flagged as interlaced, {flagged.split()[0]} field first, but " in found.note
    assert found.note.endswith(f"are progressive (idet: {found.progressive} of {found.pictures})")


@pytest.mark.parametrize("order", INTERLACED)
@pytest.mark.parametrize("encoder", ["libx264 mp4", "mpeg2video ts", "ffv1 mkv"])
def test_woven_fields_under_a_progressive_flag(
    encoder: str, order: FieldOrder, make: Make, ffprobe: Callable[..., dict[str, Any]]
) -> None:
    path = make(encoder, order, "progressive")
    assert told(path, ffprobe) == "progressive"
    found = fields_of(path)
    assert (found.interlaced, found.measured) == (True, order)
    assert found.top_first == (order == "top first")
    assert found.note is not None
    assert found.note.startswith("flagged as progressive, but the pictures are interlaced, ")
    assert "its flags" not in choices(found)


@pytest.mark.parametrize(("seen", "flagged"), [INTERLACED, INTERLACED[::-1]])
@pytest.mark.parametrize("encoder", ["libx264 mp4", "mpeg2video ts"])
def test_the_other_order_in_the_flags(
    encoder: str,
    seen: FieldOrder,
    flagged: FieldOrder,
    make: Make,
    ffprobe: Callable[..., dict[str, Any]],
) -> None:
    path = make(encoder, seen, flagged)
    assert told(path, ffprobe) == flagged
    found = fields_of(path)
    assert (found.coded, found.measured, found.interlaced) == (flagged, seen, True)
    assert found.top_first == (seen == "top first")
    assert found.note is not None


@pytest.mark.parametrize("flagged", ORDERS)
@pytest.mark.parametrize("encoder", ["libx264 mkv", "mpeg2video ts"])
def test_a_still_picture_is_what_its_flags_say(
    encoder: str, flagged: FieldOrder, make: Make
) -> None:
    found = fields_of(make(encoder, "progressive", flagged, scene=STILL))
    assert found.coded == flagged
    assert found.interlaced == (flagged != "progressive")
    assert found.top_first == (flagged != "bottom first")
    assert found.note is None


def test_telecined_film(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    film = f"{PAN.replace('duration=1.2', 'duration=2')},framestep=2,setpts=N/24/TB"
    pyav(
        *("-f", "lavfi", "-i", film, "-vf", "telecine=pattern=23,setfield=tff,setpts=N/30/TB"),
        *("-r", "30", "-c:v", "mpeg2video", "-b:v", "2M", "-flags", "+ildct+ilme", path),
    )
    found = fields_of(path)
    assert (found.interlaced, found.top_first, found.note) == (True, True, None)
    assert "as in telecined film" in choices(found)


def test_fields_late_in_a_long_file_are_found(tmp_path: Path) -> None:
    # The last half is woven, as a programme after its announcement.
    path = tmp_path / "a.mkv"
    halves = [
        f"{PAN},{SEEN[order]},loop=3:30,setpts=N/25/TB" for order in ("progressive", "bottom first")
    ]
    both = f"{halves[0]}[a];{halves[1]}[b];[a][b]concat,setfield=prog"
    pyav("-f", "lavfi", "-i", both, "-r", "25", "-c:v", "ffv1", path)
    found = fields_of(path)
    assert (found.measured, found.interlaced, found.top_first) == ("bottom first", True, False)
    assert found.progressive > 0
