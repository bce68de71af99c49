"""One whole job of each kind, read back by PyAV: times, colours, and the other streams.

What ``make test`` proves of them without any other program; ffprobe reads many more in
test_time_kept.py, test_picture_kept.py and test_streams_kept.py.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from pyav_cli import pyav

import hatvid

PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.8")
SOUND = ("-f", "lavfi", "-i", "sine=d=0.8")
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p")


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """(pts in seconds, bytes) of each packet of the first stream of a kind, by pts."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return sorted(
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.size > 2 and packet.pts is not None  # not the pauses of mov_text
        )


def times(path: Path) -> list[Fraction]:
    return [at for at, _ in packets(path, "video")]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_variable_rate_a_late_start_and_sound(
    suffix: str, repeat: hatvid.Upscaler, tmp_path: Path
) -> None:
    source, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    pyav(
        *(*PICTURE, "-itsoffset", "0.48", *SOUND),
        *("-vf", "select='not(eq(mod(n,7),2)+eq(mod(n,5),4))',setpts=PTS+0.48/TB"),
        *(*X264, "-c:a", "aac", source),
    )
    receipt: Any = hatvid.upscale(source, output, upscaler=repeat, preset="ultrafast")
    assert len({after - before for before, after in pairwise(times(source))}) > 1
    assert times(source)[0] >= Fraction(12, 25)
    assert times(output) == times(source)
    assert packets(output, "audio") == packets(source, "audio")
    assert receipt.frames == len(times(source))
    assert receipt.verification.ok


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx265"), (".mkv", "ffv1")])
def test_ten_bits_their_colours_and_the_shape_of_pixels(
    suffix: str, codec: str, repeat: hatvid.Upscaler, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / f"out{suffix}"
    pyav(
        *(*PICTURE, "-frames:v", "3", "-vf", "setsar=4/3", "-c:v", "libx265"),
        *("-preset", "ultrafast", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p10le"),
        *("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc"),
        *("-color_range", "tv", source),
    )
    hatvid.upscale(source, output, upscaler=repeat, codec=codec)
    found = []
    for path in (source, output):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            shape = container.streams.video[0].sample_aspect_ratio
            tags = (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)
            found.append((frame.format.name, *map(int, tags), shape))
    # H.273: BT.2020 non-constant luminance, BT.2020, PQ; limited range.
    assert found[0] == ("yuv420p10le", 9, 9, 16, 1, Fraction(4, 3))
    assert found[1] == found[0]


FILM = """;FFMETADATA1
title=A film
[CHAPTER]
TIMEBASE=1/1000
START=0
END=400
title=One
"""


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_sound_text_chapters_and_title(
    suffix: str, repeat: hatvid.Upscaler, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    (tmp_path / "text.srt").write_text("1\n00:00:00,200 --> 00:00:00,600\nTyger Tyger\n")
    (tmp_path / "film.txt").write_text(FILM)
    pyav(
        *(*PICTURE, *SOUND, "-i", tmp_path / "text.srt", "-i", tmp_path / "film.txt"),
        *("-map", "0", "-map", "1", "-map", "2", "-map_metadata", "3", *X264, "-c:a", "flac"),
        *("-metadata:s:a:0", "language=deu", source),
    )
    hatvid.upscale(source, output, upscaler=repeat, preset="ultrafast")
    # Of milliseconds in Matroska.
    before, after = (
        [(round(at * 1000), data) for at, data in packets(path, "audio")]
        for path in (source, output)
    )
    assert after == before
    ((at, text),) = packets(output, "subtitle")
    assert (at, text[-11:]) == (Fraction(1, 5), b"Tyger Tyger")
    with av.open(str(output)) as container:
        assert container.metadata["title"] == "A film"
        (chapter,) = container.chapters()
        assert (chapter["metadata"]["title"], chapter["start"] * chapter["time_base"]) == ("One", 0)
        assert chapter["end"] * chapter["time_base"] == Fraction(2, 5)
        assert container.streams.audio[0].metadata["language"] == "deu"
