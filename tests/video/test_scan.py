"""What is known of a video's packets without decoding them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from hatvid.errors import InputError
from hatvid.video.scan import scan

UNEVEN = [1000, 1001, 1005, 1006, 1020, 1021, 1090, 1100, 1101, 1200, 1201]
CLIPS: dict[str, tuple[str, dict[str, Any]]] = {
    "B-frames mp4": ("a.mp4", {"options": {"preset": "medium", "bf": "3", "g": "12"}}),
    "B-frames ts": ("a.ts", {"options": {"preset": "medium", "bf": "3", "g": "12"}}),
    "open GOP": (
        "a.mkv",
        {
            "codec": "libx265",
            "options": {"x265-params": "log-level=none:keyint=8:min-keyint=8:open-gop=1:bframes=4"},
        },
    ),
    "uneven": ("a.mkv", {"pts": UNEVEN, "time_base": Fraction(1, 1000), "options": {"bf": "2"}}),
    "hidden frames": (
        "a.webm",
        {"codec": "libvpx-vp9", "options": {"lag-in-frames": "12", "cpu-used": "8"}},
    ),
}


@pytest.mark.parametrize("name", CLIPS)
def test_packets_as_ffprobe_reads_them(
    name: str,
    tmp_path: Path,
    make_clip: Callable[..., Path],
    ffprobe: Callable[..., dict[str, Any]],
) -> None:
    file, options = CLIPS[name]
    path = make_clip(tmp_path / file, **options)
    said = ffprobe("-show_packets", "-show_streams", "-select_streams", "v:0", path)
    packets = sorted(said["packets"], key=lambda packet: packet["pts"])
    found = scan(path)
    assert list(found.pts) == [packet["pts"] for packet in packets]
    assert list(found.key_frames) == [p["pts"] for p in packets if p["flags"].startswith("K")]
    assert found.time_base == Fraction(said["streams"][0]["time_base"])
    assert found.discarded == 0
    assert len(found.durations) == len(found.pts)


@pytest.mark.parametrize("frames", [1, 5, 12, 24, 100])
def test_so_much_is_read_as_the_first_frames_need(
    tmp_path: Path, make_clip: Callable[..., Path], frames: int
) -> None:
    """The pts of the first frames are final, though B-frames come out of order."""
    options = {"preset": "medium", "x264-params": "bframes=8:b-adapt=0:b-pyramid=normal"}
    path = make_clip(tmp_path / "a.mp4", options=options)
    whole, part = scan(path), scan(path, frames=frames)
    assert part.pts[:frames] == whole.pts[:frames]
    assert frames < len(part.pts) < 24 or frames > 5


def test_what_cannot_be_scanned(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        scan(tmp_path / "a.mp4")
