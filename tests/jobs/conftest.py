"""Whole jobs with an engine that repeats pixels; read back by Debian's ffprobe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from hatvid.options import EngineOptions
from hatvid.upscaler import Upscaler


class RepeatPixels(nn.Module):
    """Nearest neighbour, twice as large."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture(scope="session")
def repeat() -> Iterator[Upscaler]:
    with Upscaler(
        RepeatPixels(), scale=2, engine_options=EngineOptions(engine="eager", threads=1)
    ) as upscaler:
        yield upscaler


@pytest.fixture(scope="session")
def packets(ffprobe: Callable[..., dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    """Packets of the streams that a specifier selects, with hashes, as ffprobe reads them."""

    def read(path: Path, streams: str) -> list[dict[str, Any]]:
        found = ffprobe(
            *("-select_streams", streams, "-show_packets", "-show_data_hash", "sha256"), path
        )
        return [dict(packet) for packet in found["packets"]]

    return read


@pytest.fixture(scope="session")
def times(
    packets: Callable[..., list[dict[str, Any]]], ffprobe: Callable[..., dict[str, Any]]
) -> Callable[[Path], list[tuple[Fraction, Fraction]]]:
    """(pts, duration) in seconds of the pictures a file presents, as ffprobe reads them."""

    def read(path: Path) -> list[tuple[Fraction, Fraction]]:
        stream = ffprobe("-select_streams", "v:0", "-show_streams", path)["streams"][0]
        tick = Fraction(stream["time_base"])
        return sorted(
            (packet["pts"] * tick, packet.get("duration", 0) * tick)
            for packet in packets(path, "v:0")
            if "D" not in packet["flags"]  # what an edit list leaves out
        )

    return read


@pytest.fixture(scope="session")
def video_of(ffprobe: Callable[..., dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """The video stream and its first frame, as ffprobe reads them."""

    def read(path: Path) -> dict[str, Any]:
        found = ffprobe(
            *("-select_streams", "v:0", "-show_streams", "-show_frames"),
            *("-read_intervals", "%+#1"),
            path,
        )
        return {**found["streams"][0], "first": found["frames"][0]}

    return read
