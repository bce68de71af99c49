"""What `make demo` does, from the sample clip to a file four times as large."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from av.stream import Stream

import hatvid

CLIP = Path(__file__).parent / "data/bunny_320x180.mp4"


def _packets(path: Path, kind: str) -> list[tuple[object, ...]]:
    """Each packet's bytes, pts, duration and skip-samples side data."""
    with av.open(str(path)) as container:
        stream: Stream = next(s for s in container.streams if s.type == kind)
        return [
            (
                bytes(packet),
                packet.pts,
                packet.duration,
                packet.time_base,
                bytes(packet.get_sidedata("skip_samples"))
                if packet.has_sidedata("skip_samples")
                else None,
            )
            for packet in container.demux(stream)
            if packet.size
        ]


def _frames(path: Path) -> list[tuple[object, ...]]:
    with av.open(str(path)) as container:
        return [(f.pts, f.duration, f.time_base) for f in container.decode(video=0)]


@pytest.mark.long
def test_the_sample_clip_with_every_default(tmp_path: Path) -> None:
    output = tmp_path / "large.mp4"
    receipt = hatvid.upscale(CLIP, output)
    assert receipt.frames == 72
    assert (receipt.repeated, receipt.damaged, receipt.moved, receipt.notes) == ((), (), (), ())
    assert _frames(output) == _frames(CLIP)
    assert _packets(output, "audio") == _packets(CLIP, "audio")
    with av.open(str(output)) as container, av.open(str(CLIP)) as source:
        # Reduced again, each frame is the one it came from: no other frame, no shift, no tint.
        pairs = list(zip(container.decode(video=0), source.decode(video=0), strict=True))
        assert all((large.width, large.height) == (1280, 720) for large, _ in pairs)
        for large, small in pairs[::12]:
            again = large.reformat(width=320, height=180, interpolation="AREA", format="yuv420p")
            for plane in range(3):
                ours = again.to_ndarray()[_rows(plane)].astype(float)
                theirs = small.to_ndarray()[_rows(plane)].astype(float)
                assert abs(ours - theirs).mean() < 2.0
                assert abs((ours - theirs).mean()) < 0.5


def _rows(plane: int) -> slice:
    """Rows of one plane in PyAV's stacked 320x180 yuv420p array."""
    return (slice(0, 180), slice(180, 225), slice(225, 270))[plane]
