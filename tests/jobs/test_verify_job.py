"""What a job writes holds before the verification, whatever the input's clock does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyav_cli import pyav
from torch import Tensor, nn

import hatvid
from hatvid.jobs.verify import verify
from hatvid.options import EngineOptions


class RepeatPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture(scope="module")
def repeat() -> Iterator[hatvid.Upscaler]:
    options = EngineOptions(engine="eager", threads=1)
    with hatvid.Upscaler(RepeatPixels(), scale=2, engine_options=options) as upscaler:
        yield upscaler


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp4", ("-c:v", "libx264", "-bf", "3", "-c:a", "aac")),
        ("ts", ("-c:v", "libx264", "-bf", "2", "-c:a", "mp2")),
        ("mkv", ("-c:v", "libx265", "-x265-params", "log-level=none", "-c:a", "flac")),
        ("avi", ("-c:v", "mpeg4", "-c:a", "mp3")),
    ],
)
def test_a_job_holds(
    repeat: hatvid.Upscaler, tmp_path: Path, suffix: str, options: tuple[str, ...]
) -> None:
    source = tmp_path / f"in.{suffix}"
    output = tmp_path / ("out.mp4" if suffix == "mp4" else "out.mkv")
    inputs = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", "-f", "lavfi", "-i", "sine=d=1")
    pyav(*inputs, *options, source)
    hatvid.upscale(source, output, upscaler=repeat)
    found = verify(source, output)
    assert found.ok, [check.text for check in found.failed]


def test_recordings_that_were_joined_go_on(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    """The clock of a transport stream starts again, and the output's does not."""
    one, source, output = tmp_path / "one.ts", tmp_path / "two.ts", tmp_path / "out.mp4"
    inputs = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", "-f", "lavfi", "-i", "sine=d=1")
    pyav(*inputs, "-c:v", "libx264", "-c:a", "mp2", one)
    source.write_bytes(one.read_bytes() * 2)
    hatvid.upscale(source, output, upscaler=repeat)
    found = verify(source, output)
    assert found.ok, [check.text for check in found.failed]
    assert "50 in, 50 out" in found.checks[0].text
