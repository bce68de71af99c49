"""That the options which are kept from job files do have encoders write files."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hatvid.video.encoder_files import file_option


@pytest.fixture
def encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Encode three frames in an empty folder; what lies there afterwards."""

    def run(codec: str, name: str, value: str) -> list[str]:
        monkeypatch.chdir(tmp_path)
        context = av.CodecContext.create(codec, "w")
        context.width, context.height, context.pix_fmt = 64, 64, "yuv420p"
        context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
        context.bit_rate = 100_000
        context.options = {"preset": "ultrafast", name: value}
        for number in range(3):
            picture = np.full((96, 64), 40 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
            frame.pts = number
            context.encode(frame)
        context.encode(None)
        del context
        return sorted(path.name for path in tmp_path.iterdir())

    return run


@pytest.mark.parametrize(
    ("codec", "name", "value"),
    [
        ("libx264", "x264-params", "pass=1"),
        ("libx264", "x264-params", "pass=1:stats=own.log"),
        ("libx264", "x264-params", "dump_yuv=own.yuv"),
        ("libx264", "flags", "+pass1"),
        ("libx265", "x265-params", "log-level=none:csv=own.csv:csv-log-level=1"),
        ("libx265", "x265-params", "log-level=none:pass=1"),
        (
            "libx265",
            "x265-params",
            "log-level=none:analysis-save=own.dat:analysis-save-reuse-level=1",
        ),
    ],
)
def test_what_is_refused_would_write_a_file(
    encode: Callable[..., list[str]], codec: str, name: str, value: str
) -> None:
    assert file_option(name, value) is not None
    assert encode(codec, name, value)


@pytest.mark.parametrize(
    ("codec", "name", "value"),
    [
        ("libx264", "x264-params", "keyint=2:me=hex:sar=16/11"),
        ("libx265", "x265-params", "log-level=none:keyint=2:aq-mode=3:slow-firstpass=0"),
        ("libx264", "profile", "high"),
    ],
)
def test_what_is_taken_writes_none(
    encode: Callable[..., list[str]], codec: str, name: str, value: str
) -> None:
    assert file_option(name, value) is None
    assert encode(codec, name, value) == []
