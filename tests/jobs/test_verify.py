"""Right pairs of files hold; pairs broken in one way fail by the check that names it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from pyav_cli import WEAVE, pyav

from hatvid.jobs.checks import Verification
from hatvid.jobs.verify import verify
from hatvid.options import InputOptions, StreamOptions
from hatvid.selectors import StreamSpecifier, TimePoint

WIDTH, HEIGHT, FRAMES = 64, 48, 24
TICK = Fraction(1, 90000)
BT709 = {"colorspace": 1, "color_range": 1, "color_primaries": 1, "color_trc": 1}
LANGUAGES = ("eng", "fra", "deu")

SUBTITLES = """1
00:00:00,100 --> 00:00:00,400
Hello <b>you</b>

2
00:00:00,500 --> 00:00:00,900
Second
line
"""
CHAPTERS = """;FFMETADATA1
title=My film
CATALOGUE=abc
[CHAPTER]
TIMEBASE=1/1000
START=0
END=500
title=One
[CHAPTER]
TIMEBASE=1/1000
START=500
END=1000
title=Two
"""


type Picture = tuple[int, int, NDArray[np.uint8]]
"""pts, duration, and the planes of yuv420p under each other."""


def pictures(*, dark: bool = False, stamps: list[int] | None = None) -> list[Picture]:
    """Noise that moves, over a bright or a nearly black ground."""
    rng = np.random.default_rng(5)
    rows = np.arange(HEIGHT)[:, None]
    columns = np.arange(WIDTH)[None, :]
    stamps = stamps or [3750 * number for number in range(FRAMES)]
    ends = [*stamps[1:], 2 * stamps[-1] - stamps[-2]]
    made = []
    for number, (at, end) in enumerate(zip(stamps, ends, strict=True)):
        wave = np.sin((columns + 2 * rows + 5 * number) / 7)
        noise = rng.normal(0, 1.5, (HEIGHT, WIDTH))
        luma = (19 + 2 * wave + noise) if dark else (120 + 60 * wave + 4 * noise)
        planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        planes[:HEIGHT] = luma.clip(16, 235)
        made.append((at, end - at, planes))
    return made


def untouched(packet: av.Packet[Any], number: int) -> av.Packet[Any] | None:
    return packet


def write(
    path: Path,
    shown: list[Picture],
    beside: Path | None = None,
    *,
    tags: dict[str, int] = BT709,
    aspect: Fraction = Fraction(16, 15),
    quality: dict[str, str] | None = None,
    packets: dict[int, Callable[[av.Packet[Any], int], av.Packet[Any] | None]] | None = None,
    without: frozenset[int] = frozenset(),
    chapters: slice = slice(None),
    metadata: bool = True,
    languages: tuple[str, ...] = LANGUAGES,
) -> Path:
    """A file of these pictures, with all that lies in ``beside`` but for what is changed.

    Subtitles planes are made anew: yuv420p planes under each other lie apart once enlarged.
    """
    height, width = shown[0][2].shape
    with av.open(str(path), "w") as output:
        quality = quality or {"crf": "6", "preset": "ultrafast"}
        video = output.add_stream("libx264", rate=24, options=quality)
        context = video.codec_context
        context.width, context.height, context.pix_fmt = width, height * 2 // 3, "yuv420p"
        context.time_base = video.time_base = TICK
        context.flags |= av.codec.context.Flags.frame_duration
        context.sample_aspect_ratio = aspect
        for name, value in tags.items():
            setattr(context, name, value)
        video.disposition = av.stream.Disposition.default
        if beside is not None:
            source = av.open(str(beside))
            twins = {}
            for stream in source.streams:
                if stream.type == "attachment" and stream.index not in without:
                    output.add_attachment(stream.name, stream.mimetype, stream.data)
                elif stream.type in ("audio", "subtitle") and stream.index not in without:
                    twin = output.add_stream_from_template(stream)
                    twin.metadata["language"] = languages[stream.index - 1]
                    twin.disposition = stream.disposition
                    twins[stream.index] = twin
            output.set_chapters(source.chapters()[chapters])
            if metadata:
                output.metadata.update(source.metadata)
        for at, length, planes in shown:
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
            frame.pts, frame.duration, frame.time_base = at, length, TICK
            for name, value in tags.items():
                setattr(frame, name, value)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if beside is not None:
            counts = dict.fromkeys(twins, 0)
            for packet in source.demux():
                if not packet.size or packet.stream_index not in twins:
                    continue
                index = packet.stream_index
                changed = (packets or {}).get(index, untouched)(packet, counts[index])
                counts[index] += 1
                if changed is not None:
                    changed.stream = twins[index]
                    output.mux(changed)
            source.close()
    return path


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matroska with AAC, FLAC, ASS, a font, chapters and tags."""
    folder = tmp_path_factory.mktemp("film")
    video = write(folder / "video.mkv", pictures())
    (folder / "s.srt").write_text(SUBTITLES)
    (folder / "c.txt").write_text(CHAPTERS)
    (folder / "font.ttf").write_bytes(np.random.default_rng(1).bytes(2000))
    pyav(
        # All 23 ms late, as FFmpeg does it where sound would begin before zero.
        *("-itsoffset", "0.023", "-i", video),
        *("-itsoffset", "0.023", "-f", "lavfi", "-i", "sine=440:d=1"),
        *("-itsoffset", "0.023", "-f", "lavfi", "-i", "sine=880:d=1"),
        *("-itsoffset", "0.023", "-i", folder / "s.srt", "-i", folder / "c.txt"),
        *("-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map_metadata", "4"),
        *("-map_chapters", "4", "-c:v", "copy", "-c:a:0", "aac", "-c:a:1", "flac", "-c:s", "ass"),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra"),
        *("-metadata:s:s:0", "language=deu", "-attach", folder / "font.ttf"),
        *("-metadata:s:t", "mimetype=font/ttf", folder / "film.mkv"),
    )
    return folder / "film.mkv"


def failed(found: Verification) -> list[str]:
    return [check.name for check in found.failed]


def texts(found: Verification) -> str:
    return "\n".join(f"{check.name}: {check.text}" for check in found.checks)


@pytest.fixture(scope="session")
def decoded(film: Path) -> list[Picture]:
    """The film's pictures and times as a decoder gives them."""
    with av.open(str(film)) as container:
        return [
            (90 * frame.pts, 90 * frame.duration, frame.to_ndarray())
            for frame in container.decode(video=0)
        ]


def test_a_right_pair_holds_in_every_check(
    film: Path, decoded: list[Picture], tmp_path: Path
) -> None:
    found = verify(film, write(tmp_path / "out.mkv", enlarged(decoded), film))
    assert found.ok, texts(found)
    assert [check.name for check in found.checks] == [
        *("frames", "times", "durations", "pictures", "size", "colours", "shape"),
        *("stream 0", "stream 1", "stream 2", "stream 3", "stream 4", "chapters", "metadata"),
    ]
    assert "24 in, 24 out" in texts(found)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["ok"] is True


def enlarged(shown: list[Picture]) -> list[Picture]:
    """Each plane doubled; yuv420p under each other, as PyAV takes it."""
    made = []
    for at, length, planes in shown:
        luma = planes[:HEIGHT].repeat(2, 0).repeat(2, 1)
        chroma = planes[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2).repeat(2, 1).repeat(2, 2)
        made.append((at, length, np.concatenate([luma, chroma.reshape(HEIGHT, 2 * WIDTH)])))
    return made


def dropped(shown: list[Picture]) -> list[Picture]:
    return shown[:7] + shown[8:]


def swapped(shown: list[Picture]) -> list[Picture]:
    (at, length, a), (later, long, b) = shown[9:11]
    return [*shown[:9], (at, length, b), (later, long, a), *shown[11:]]


def frozen(shown: list[Picture]) -> list[Picture]:
    at, length, _ = shown[12]
    return [*shown[:12], (at, length, shown[11][2]), *shown[13:]]


def blackened(shown: list[Picture]) -> list[Picture]:
    at, length, planes = shown[5]
    black = np.full_like(planes, 128)
    black[: 2 * HEIGHT] = 16
    return [*shown[:5], (at, length, black), *shown[6:]]


def all_blackened(shown: list[Picture]) -> list[Picture]:
    return [blackened([one] * 6)[5] for one in shown]


def delayed(shown: list[Picture]) -> list[Picture]:
    at, length, planes = shown[6]
    return [*shown[:6], (at + 90, length, planes), *shown[7:]]  # one tick of Matroska


def brightened(shown: list[Picture]) -> list[Picture]:
    """Every code stretched from limited to full range, the tag left as it was."""
    made = []
    for at, length, planes in shown:
        stretched = planes.copy()
        luma = planes[: 2 * HEIGHT].astype(float)
        stretched[: 2 * HEIGHT] = ((luma - 16) * 255 / 219).round().clip(0, 255)
        made.append((at, length, stretched))
    return made


def garbled(shown: list[Picture]) -> list[Picture]:
    """Pixels change places within their block: no level is wrong, and nothing is flat."""
    at, length, planes = shown[8]
    other = planes.copy()
    blocks = planes[: 2 * HEIGHT].reshape(HEIGHT // 4, 8, WIDTH // 4, 8)
    other[: 2 * HEIGHT] = blocks[:, ::-1, :, ::-1].reshape(2 * HEIGHT, 2 * WIDTH)
    return [*shown[:8], (at, length, other), *shown[9:]]


FRAMES_BROKEN: list[tuple[Callable[[list[Picture]], list[Picture]], list[str], str]] = [
    (dropped, ["frames"], "missing are those at 0.315 s"),
    (swapped, ["pictures"], "0.398 s shows the frame 1 after, 0.440 s shows the frame 1 before"),
    (frozen, ["pictures"], "1 of 24 frames are wrong: 0.523 s shows the frame 1 before"),
    (blackened, ["pictures"], "1 of 24 frames are wrong: 0.231 s is empty"),
    (all_blackened, ["pictures"], "24 of 24 frames are wrong"),
    (garbled, ["pictures"], "1 of 24 frames are wrong: 0.356 s"),
    (delayed, ["times"], "1 of 24 differ, the first at frame 6: pts 274 "),
]


@pytest.mark.parametrize(("change", "names", "says"), FRAMES_BROKEN)
def test_broken_frames_are_found(
    film: Path,
    decoded: list[Picture],
    tmp_path: Path,
    change: Callable[[list[Picture]], list[Picture]],
    names: list[str],
    says: str,
) -> None:
    output = write(tmp_path / "out.mkv", change(enlarged(decoded)), film)
    found = verify(film, output)
    assert failed(found) == names, texts(found)
    assert says in texts(found)


def test_a_stretched_range_is_seen_in_the_pictures(
    film: Path, decoded: list[Picture], tmp_path: Path
) -> None:
    found = verify(film, write(tmp_path / "out.mkv", brightened(enlarged(decoded)), film))
    assert failed(found) == ["pictures"], texts(found)


@pytest.mark.parametrize("change", [swapped, frozen, blackened, all_blackened])
def test_a_wrong_frame_is_found_in_a_dark_film(
    tmp_path: Path, change: Callable[[list[Picture]], list[Picture]]
) -> None:
    shown = pictures(dark=True)
    source = write(tmp_path / "in.mkv", shown)
    right = verify(source, write(tmp_path / "out.mkv", enlarged(shown)))
    assert right.ok, texts(right)
    wrong = verify(source, write(tmp_path / "wrong.mkv", change(enlarged(shown))))
    assert failed(wrong) == ["pictures"], texts(wrong)


def test_a_coarsely_encoded_right_output_passes(
    film: Path, decoded: list[Picture], tmp_path: Path
) -> None:
    """What an encoder blurs is no wrong picture."""
    quality = {"crf": "32", "preset": "veryfast"}
    found = verify(film, write(tmp_path / "out.mkv", enlarged(decoded), film, quality=quality))
    assert found.ok, texts(found)


def flipped(packet: av.Packet[Any], number: int) -> av.Packet[Any]:
    """One byte of one packet."""
    if number != 3:
        return packet
    data = bytearray(bytes(packet))
    data[len(data) // 2] ^= 1
    other = av.Packet(bytes(data))
    other.pts, other.dts, other.duration = packet.pts, packet.dts, packet.duration
    other.time_base, other.is_keyframe = packet.time_base, True
    return other


def late(packet: av.Packet[Any], number: int) -> av.Packet[Any]:
    if number == 1:
        assert packet.pts is not None
        packet.pts = packet.dts = packet.pts + 20
    return packet


def lacking(packet: av.Packet[Any], number: int) -> av.Packet[Any] | None:
    return packet if number != 4 else None


STREAMS_BROKEN: list[tuple[str, dict[str, Any], str, str]] = [
    ("a byte", {"packets": {1: flipped}}, "stream 1", "1 of 45 packets differ, the first is 3"),
    ("a packet", {"packets": {1: lacking}}, "stream 1", "44 packets in place of 45"),
    ("late sound", {"packets": {2: late}}, "stream 2", "packet 1 is +20.000 ms off its time"),
    ("a stream", {"without": frozenset({2})}, "stream 2", "audio flac: missing"),
    ("a late text", {"packets": {3: late}}, "stream 3", "text 1 is +20.000 ms off its time"),
    ("a font", {"without": frozenset({4})}, "stream 4", "missing"),
    ("a language", {"languages": ("eng", "ita", "deu")}, "stream 2", "language 'fra' -> 'ita'"),
    ("a chapter", {"chapters": slice(0, 1)}, "chapters", "1 in place of 2"),
    ("tags", {"metadata": False}, "metadata", "catalogue 'abc' -> None"),
    ("a matrix", {"tags": BT709 | {"colorspace": 6}}, "colours", "matrix bt709 -> smpte170m"),
    ("an aspect", {"aspect": Fraction(1)}, "shape", "sample aspect ratio 16:15 -> unspecified"),
]


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [case[1:] for case in STREAMS_BROKEN],
    ids=[case[0] for case in STREAMS_BROKEN],
)
def test_what_is_lost_beside_the_frames_is_found(
    film: Path,
    decoded: list[Picture],
    tmp_path: Path,
    changes: dict[str, Any],
    name: str,
    says: str,
) -> None:
    found = verify(film, write(tmp_path / "out.mkv", enlarged(decoded), film, **changes))
    assert failed(found) == [name], texts(found)
    assert says in texts(found)


def test_another_range_is_found_though_the_pictures_mean_the_same(
    film: Path, decoded: list[Picture], tmp_path: Path
) -> None:
    full = BT709 | {"color_range": 2}
    found = verify(
        film, write(tmp_path / "out.mkv", brightened(enlarged(decoded)), film, tags=full)
    )
    assert failed(found) == ["colours"], texts(found)
    assert "range limited -> full" in texts(found)


def test_a_stream_that_was_asked_away_is_not_missed(
    film: Path, decoded: list[Picture], tmp_path: Path
) -> None:
    without = frozenset({1, 2, 3})
    output = write(tmp_path / "out.mkv", enlarged(decoded), film, without=without)
    assert failed(verify(film, output)) == ["stream 1", "stream 2", "stream 3"]
    asked = StreamOptions(audio=False, subtitles=False)
    assert verify(film, output, streams=asked).ok
    mapped = StreamOptions(map=(StreamSpecifier.parse("v"), StreamSpecifier.parse("t")))
    assert verify(film, output, streams=mapped).ok


def test_an_output_cut_short_or_of_nothing(
    film: Path, decoded: list[Picture], tmp_path: Path
) -> None:
    output = write(tmp_path / "out.mkv", enlarged(decoded), film)
    whole = output.read_bytes()
    output.write_bytes(whole[: len(whole) // 2])
    found = verify(film, output)
    assert "frames" in failed(found)
    assert "expected" in texts(found)
    output.write_bytes(b"\0" * 5000)
    assert failed(verify(film, output)) == ["output"]
    output.unlink()
    found = verify(film, output)
    assert failed(found) == ["output"]
    assert len(texts(found).splitlines()) == 1


def test_quick_leaves_only_the_pictures_out(
    film: Path, decoded: list[Picture], tmp_path: Path
) -> None:
    output = write(tmp_path / "out.mkv", all_blackened(enlarged(decoded)), film)
    found = verify(film, output, quick=True)
    assert found.ok, texts(found)
    assert "pictures" not in [check.name for check in found.checks]
    output = write(tmp_path / "out.mkv", dropped(enlarged(decoded)), film)
    assert failed(verify(film, output, quick=True)) == ["frames"]


# Times: uneven, from mp4 to every kind of clock.

UNEVEN = [4500, 7503, 9004, 18004, 22715, 31715, 36000, 40000]
LAST = 54000


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mp4 with B-frames, a late start, and a last frame of 0.6 s."""
    shown = pictures(stamps=UNEVEN)
    shown[-1] = (shown[-1][0], LAST, shown[-1][2])
    path = tmp_path_factory.mktemp("uneven") / "uneven.mp4"
    quality = {"crf": "6", "bf": "2", "x264-params": "b-adapt=0:keyint=12"}
    return write(path, shown, quality=quality)


def uneven_pictures(source: Path) -> list[Picture]:
    with av.open(str(source)) as container:
        shown = [frame.to_ndarray() for frame in container.decode(video=0)]
    ends = [*UNEVEN[1:], UNEVEN[-1] + LAST]
    return enlarged(
        [(at, end - at, planes) for at, end, planes in zip(UNEVEN, ends, shown, strict=True)]
    )


@pytest.mark.parametrize(
    ("suffix", "says"),
    [
        ("mp4", "8 pts equal"),
        ("mkv", "6 of them rounded once to 1/1000 s"),
        ("ts", "8 pts equal"),
        ("flv", "rounded once to 1/1000 s"),
        ("nut", "8 pts equal"),
    ],
)
def test_uneven_times_hold_in_every_clock(
    uneven: Path, tmp_path: Path, suffix: str, says: str
) -> None:
    quality = {"crf": "6", "bf": "2", "x264-params": "b-adapt=0"}
    output = write(tmp_path / f"out.{suffix}", uneven_pictures(uneven), quality=quality)
    found = verify(uneven, output)
    assert found.ok, texts(found)
    assert says in texts(found)
    assert ("durations" in texts(found)) == (suffix in ("mp4", "mkv"))
    # Under the name of a job that still runs the container is known all the same.
    hidden = output.rename(tmp_path / ".out.part")
    assert verify(uneven, hidden, output_name=output.name).ok


def test_one_tick_is_found(uneven: Path, tmp_path: Path) -> None:
    shown = uneven_pictures(uneven)
    at, length, planes = shown[3]
    shown[3] = (at + 1, length, planes)
    found = verify(uneven, write(tmp_path / "out.mp4", shown))
    assert failed(found) == ["times"], texts(found)
    assert "the first at frame 3: pts 18005" in texts(found)
    # What moves all times together is a container's excuse, and not that of mp4.
    moved = [(at + 900, length, planes) for at, length, planes in uneven_pictures(uneven)]
    found = verify(uneven, write(tmp_path / "out.mp4", moved))
    assert failed(found) == ["times"], texts(found)


def test_a_clock_made_coarser_than_need_be_is_found(uneven: Path, tmp_path: Path) -> None:
    right = write(tmp_path / "right.mp4", uneven_pictures(uneven))
    coarse = tmp_path / "coarse.mp4"
    pyav("-copyts", "-i", right, "-c", "copy", "-video_track_timescale", "600", coarse)
    found = verify(uneven, coarse)
    assert "times" in failed(found), texts(found)
    assert "1/600 s is too coarse" in texts(found)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_last_frame_that_is_too_short_is_found(uneven: Path, tmp_path: Path, suffix: str) -> None:
    shown = uneven_pictures(uneven)
    shown[-1] = (shown[-1][0], 3750, shown[-1][2])
    found = verify(uneven, write(tmp_path / f"out.{suffix}", shown))
    assert failed(found) == ["durations"], texts(found)
    assert "the last frame lasts 0.04" in texts(found)
    assert "in place of 0.600000 s" in texts(found)


def test_sound_that_a_moving_container_moves_alone_is_found(
    film: Path, decoded: list[Picture], tmp_path: Path
) -> None:
    asked = StreamOptions(map=(StreamSpecifier.parse("v"), StreamSpecifier.parse("a:0")))
    without = frozenset({2, 3, 4})
    right = write(tmp_path / "right.ts", enlarged(decoded), film, without=without)
    found = verify(film, right, streams=asked)
    assert found.ok, texts(found)
    assert "equal behind aac_adtstoasc" in texts(found)
    assert "chapters: 2 left out" in texts(found)

    def later(packet: av.Packet[Any], number: int) -> av.Packet[Any]:
        assert packet.pts is not None
        packet.pts = packet.dts = packet.pts + 40
        return packet

    changes: dict[str, Any] = {"without": without, "packets": {1: later}}
    wrong = write(tmp_path / "wrong.ts", enlarged(decoded), film, **changes)
    assert failed(verify(film, wrong, streams=asked)) == ["stream 1"]


def test_sound_through_a_bitstream_filter_and_converted_texts(
    film: Path, decoded: list[Picture], tmp_path: Path
) -> None:
    asked = StreamOptions(map=tuple(map(StreamSpecifier.parse, ("v", "a:0", "s"))))
    right = write(tmp_path / "right.mkv", enlarged(decoded), film)
    (tmp_path / "late.srt").write_text(SUBTITLES.replace("00,500", "00,530"))
    copied = ("-map", "0:v", "-map", "0:a:0", "-c", "copy", "-c:s", "mov_text")
    flags = ("-movflags", "use_metadata_tags", "-video_track_timescale", "90000")
    pyav("-i", right, *copied, "-map", "0:s", *flags, tmp_path / "right.mp4")
    found = verify(film, tmp_path / "right.mp4", streams=asked)
    assert found.ok, texts(found)
    assert "subtitle ass: converted to mov_text, 2 texts" in texts(found)
    late = tmp_path / "late.mp4"
    pyav("-i", right, "-i", tmp_path / "late.srt", *copied, "-map", "1:s",
           "-metadata:s:s:0", "language=deu", *flags, late)  # fmt: skip
    found = verify(film, late, streams=asked)
    assert failed(found) == ["stream 3"], texts(found)
    # From ADTS in a transport stream to mp4.
    pyav("-i", film, "-map", "0:v", "-map", "0:a:0", "-c", "copy", tmp_path / "in.ts")
    pyav("-copyts", "-i", tmp_path / "in.ts", "-c", "copy", tmp_path / "remuxed.mkv")
    found = verify(tmp_path / "in.ts", tmp_path / "remuxed.mkv")
    assert "copied through aac_adtstoasc" in texts(found), texts(found)


# Parts, fields, and inputs that are broken themselves.


def test_a_part_begins_at_zero(film: Path, decoded: list[Picture], tmp_path: Path) -> None:
    shown = enlarged(decoded)
    start, end = TimePoint.parse("0.25"), TimePoint.parse("20f")
    part = [(at - shown[6][0], length, planes) for at, length, planes in shown[6:20]]
    right = write(tmp_path / "part.mkv", part)
    asked = StreamOptions(map=(StreamSpecifier.parse("v"),))
    found = verify(film, right, start=start, end=end, streams=asked)
    assert failed(found) == ["metadata"], texts(found)  # the writer was not asked for them
    assert "14 in, 14 out" in texts(found)
    assert "counted from 0.273000 s of the input" in texts(found)
    one_off = [(at - shown[7][0], length, planes) for at, length, planes in shown[7:21]]
    wrong = write(tmp_path / "wrong.mkv", one_off)
    found = verify(film, wrong, start=start, end=end, streams=asked)
    assert "pictures" in failed(found), texts(found)


@pytest.mark.parametrize(("skipped", "right"), [(0, True), (1, False), (-1, False)])
def test_a_part_has_the_sound_that_touches_it(
    film: Path, decoded: list[Picture], tmp_path: Path, skipped: int, right: bool
) -> None:
    start, end = decoded[6][0], decoded[20][0]

    def moved(packet: av.Packet[Any], number: int) -> av.Packet[Any] | None:
        assert packet.pts is not None
        assert packet.duration is not None
        first = start // 90 + skipped * packet.duration
        if packet.pts + packet.duration <= first or packet.pts >= end // 90:
            return None
        packet.pts = packet.dts = packet.pts - start // 90
        return packet

    part = [(at - start, length, planes) for at, length, planes in enlarged(decoded)[6:20]]
    without = frozenset({2, 3, 4})
    output = tmp_path / "part.nut"  # Matroska would move all to begin at 0
    write(output, part, film, without=without, packets={1: moved}, chapters=slice(0))
    asked = StreamOptions(map=tuple(map(StreamSpecifier.parse, ("v", "a:0"))))
    points = {"start": TimePoint.parse("6f"), "end": TimePoint.parse("20f")}
    found = verify(film, output, streams=asked, **points)
    if right:
        assert found.ok, texts(found)
        assert re.search(r"begins \d+\.\d ms early and ends \d+\.\d ms late", texts(found))
    else:
        assert failed(found) == ["stream 1"], texts(found)


@pytest.fixture
def interlaced(tmp_path: Path) -> Path:
    path = tmp_path / "fields.mkv"
    pyav(
        *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=50:d=0.6", "-vf", WEAVE["top first"]),
        *("-r", "25", "-c:v", "ffv1", "-field_order", "tt", path),
    )
    return path


def test_fields_are_counted_and_seen(interlaced: Path, tmp_path: Path) -> None:
    reading = InputOptions(deinterlace="field")
    enlarge = "scale=2*iw:2*ih:flags=neighbor,setfield=prog"
    right = tmp_path / "right.mkv"
    pyav("-i", interlaced, "-vf", f"bwdif=send_field:tff,{enlarge}", "-c:v", "ffv1", right)
    found = verify(interlaced, right, reading=reading)
    assert found.ok, texts(found)
    assert "30 in, 30 out" in texts(found)
    single = tmp_path / "single.mkv"
    pyav("-i", interlaced, "-vf", f"bwdif=send_frame:tff,{enlarge}", "-c:v", "ffv1", single)
    assert "frames" in failed(verify(interlaced, single, reading=reading))
    found = verify(interlaced, single, reading=InputOptions(deinterlace="frame"))
    assert found.ok, texts(found)


def test_a_frame_that_cannot_be_decoded_must_be_there_too(tmp_path: Path) -> None:
    shown = pictures()
    source = write(tmp_path / "in.mp4", shown, quality={"x264-params": "keyint=1", "crf": "6"})
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        hit = [packet for packet in container.demux(video=0) if packet.size][9]
        assert hit.pos is not None
        data[hit.pos : hit.pos + hit.size] = bytes(hit.size)
    source.write_bytes(data)
    repeated = [*shown[:9], (shown[9][0], shown[9][1], shown[8][2]), *shown[10:]]
    found = verify(source, write(tmp_path / "out.mp4", enlarged(repeated)))
    assert found.ok, texts(found)
    assert "24 in, 24 out, of which 1 cannot be decoded" in texts(found)
    found = verify(source, write(tmp_path / "out.mkv", enlarged(shown[:9] + shown[10:])))
    assert failed(found) == ["frames"], texts(found)


def test_hdr_metadata_that_is_lost_is_found(tmp_path: Path) -> None:
    source, right, wrong = (tmp_path / f"{name}.mkv" for name in ("in", "right", "wrong"))
    light = "max-cll=1000,400"
    mastering = (
        "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    )
    tags = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=limited"
    common = ("-f", "lavfi", "-i", "testsrc2=s=64x64:r=24:d=0.25", "-pix_fmt", "yuv420p10le")
    tagged = f"log-level=none:{tags}"
    hdr = f"{tagged}:{light}:{mastering}"
    enlarge = ("-vf", "scale=2*iw:2*ih:flags=neighbor")
    pyav(*common, "-c:v", "libx265", "-x265-params", hdr, source)
    again = ("-i", source, *enlarge, "-c:v", "libx265", "-x265-params")
    pyav(*again, f"{hdr}:crf=12", right)
    found = verify(source, right)
    assert found.ok, texts(found)
    assert "content light max 1000, average 400" in texts(found)
    pyav(*again, f"{tagged}:{mastering}:crf=12", wrong)
    found = verify(source, wrong)
    # FFmpeg writes what it read into Matroska, whatever the encoder does.
    with av.open(str(wrong)) as container:
        lost = "content_light_level" not in container.streams.video[0].codec_context.coded_side_data
    assert failed(found) == (["hdr"] if lost else []), texts(found)


def shuffled(data: bytes, rng: np.random.Generator) -> bytes:
    spoilt = bytearray(data)
    for _ in range(20):
        spoilt[rng.integers(len(spoilt))] = rng.integers(256)
    return bytes(spoilt[: rng.integers(len(spoilt) // 4, len(spoilt))])


@pytest.fixture
def spoilt(film: Path, tmp_path: Path) -> Iterator[Path]:
    rng = np.random.default_rng(3)
    data = film.read_bytes()
    paths = []
    for number in range(12):
        path = tmp_path / f"{number}.mkv"
        path.write_bytes(shuffled(data, rng))
        paths.append(path)
    return iter(paths)


def test_damaged_outputs_fail_in_one_line_each(film: Path, spoilt: Iterator[Path]) -> None:
    for path in spoilt:
        found = verify(film, path)
        assert not found.ok
        assert all(len(check.text.splitlines()) == 1 for check in found.checks)
        assert json.dumps(found.as_dict(), allow_nan=False)
        verify(path, film)


OVERLAPPING = """1
00:00:00,100 --> 00:00:00,600
First

2
00:00:00,300 --> 00:00:00,900
Second
"""
IN_TURN = """1
00:00:00,100 --> 00:00:00,300
First

2
00:00:00,300 --> 00:00:00,600
First
Second

3
00:00:00,600 --> 00:00:00,900
Second
"""


def test_texts_that_overlap_may_be_shown_together(tmp_path: Path) -> None:
    """A text track of MP4 shows one after the other."""
    shown = pictures(stamps=[3780 * number for number in range(FRAMES)])  # whole ms
    source = write(tmp_path / "video.mkv", shown)
    (tmp_path / "in.srt").write_text(OVERLAPPING)
    (tmp_path / "out.srt").write_text(IN_TURN)
    (tmp_path / "lost.srt").write_text(IN_TURN.replace("First\nSecond", "Second"))
    film = tmp_path / "film.mkv"
    pyav("-i", source, "-i", tmp_path / "in.srt", "-c", "copy", film)
    video = write(tmp_path / "video.mp4", enlarged(shown))
    for name in ("out", "lost"):
        pyav("-i", video, "-i", tmp_path / f"{name}.srt", "-c:v", "copy", "-c:s", "mov_text",
               "-video_track_timescale", "90000", tmp_path / f"{name}.mp4")  # fmt: skip
    found = verify(film, tmp_path / "out.mp4")
    assert found.ok, texts(found)
    found = verify(film, tmp_path / "lost.mp4")
    assert failed(found) == ["stream 1"], texts(found)
