"""A video's frames as numbered PNG files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hatvid.errors import OptionError
from hatvid.video.color import UNSPECIFIED, ColorTags
from hatvid.video.convert import PlaneLayout
from hatvid.video.fates import StreamFate, described
from hatvid.video.picture_names import numbered_name, picture_format
from hatvid.video.pictures import AnyPacket
from hatvid.video.png import encode_png
from hatvid.video.source import FrameBatch, VideoSource

__all__ = ["PictureSink", "picture_layout"]


def picture_layout(layout: PlaneLayout) -> PlaneLayout:
    """The layout of the pictures made of frames of another: RGB or gray, with alpha where
    they have it, 8 bits or 16."""
    alpha = len(layout.plane_order) % 2 == 0
    names = {
        ("gray", False): ("gray", "gray16le"),
        ("gray", True): ("ya8", "ya16le"),
        ("rgb", False): ("gbrp", "gbrp16le"),
        ("rgb", True): ("gbrap", "gbrap16le"),
    }
    family = "gray" if layout.family == "gray" else "rgb"
    found = PlaneLayout.of(names[family, alpha][layout.depth > 8])
    assert found is not None
    return found


class PictureSink:
    """Writes each frame to a file of its own; each has its name only when it is whole.

    Stands in for :class:`~hatvid.video.sink.VideoSink`. What is written stays when a job
    fails later: each file is good for itself.

    Args:
        pattern: of the names, ``out_%05d.png``.
        source: its streams are accounted for.
        tags: of the frames: full range, and the primaries and the transfer that are
            written as cICP if both are known.
        place: writes bytes to a file that appears under its name when whole.
        start: the first number.

    Raises:
        OptionError: the pattern is not one of PNG files.
    """

    def __init__(
        self,
        pattern: Path,
        source: VideoSource,
        *,
        tags: ColorTags,
        place: Callable[[Path, bytes], None],
        start: int = 1,
    ) -> None:
        if picture_format(pattern) != "PNG":
            raise OptionError(f"{pattern}: frames are written as PNG; end the name in .png")
        self._pattern, self._place, self._start = pattern, place, start
        self._chunks = _color_chunks(tags)
        self.frames = 0
        self.on_device = False
        self.copied: frozenset[int] = frozenset()
        self.packets_copied: dict[int, int] = {}
        self.packets_moved: dict[int, int] = {}
        self.packets_lost: dict[int, int] = {}
        self.packets_early: dict[int, int] = {}
        self.side_data_lost: Counter[str] = Counter()
        self.fates = tuple(_fates(source))
        self.notes = [*_notes(source), *described(self.fates)]

    def write(self, item: FrameBatch | AnyPacket) -> None:
        """Write the frames of a batch.

        Args:
            item: a batch on the CPU or complete on a GPU; its planes are (N, H, W), of uint8
                or of uint16 that use all 16 bits, in full range: gray or R, G, B, then alpha
                if there is any.

        Raises:
            OutputError: a file cannot be written.
        """
        assert isinstance(item, FrameBatch)  # no packets are asked for
        for planes in zip(*(plane.cpu() for plane in item.planes), strict=True):
            samples = np.stack([plane.numpy() for plane in planes], axis=-1)
            path = numbered_name(self._pattern, self._start + self.frames)
            self._place(path, encode_png(samples, self._chunks))
            self.frames += 1

    def finish(self) -> None:
        """Nothing is left to do: each picture was whole when it was written."""

    def abort(self) -> None:
        """Nothing is taken back: each picture is whole."""


def _color_chunks(tags: ColorTags) -> list[tuple[bytes, bytes]]:
    # cICP (PNG, third edition, section 11.3.2.6): H.273 code points, identity matrix, full
    # range.
    if UNSPECIFIED in (tags.primaries, tags.transfer):
        return []
    return [(b"cICP", bytes([tags.primaries, tags.transfer, 0, 1]))]


def _notes(source: VideoSource) -> list[str]:
    info = source.info
    rate = f", {float(info.average_rate):.6g} a second on average" if info.average_rate else ""
    notes = [f"pictures hold no times: when and how long each frame is shown is lost{rate}"]
    aspect = info.sample_aspect_ratio
    if aspect not in (None, 0, 1):
        notes.append(f"pictures have square pixels: the sample aspect ratio {aspect} is lost")
    return notes


def _fates(source: VideoSource) -> list[StreamFate]:
    fates = []
    for stream in source.container.streams:
        codec = stream.codec_context.name if stream.codec_context is not None else ""
        if stream is source.stream:
            fate = StreamFate(index=stream.index, kind="video", codec=codec, fate="upscaled")
        else:
            fate = StreamFate(
                index=stream.index,
                kind=stream.type,
                codec=codec,
                fate="dropped",
                reason="pictures hold no other streams",
            )
        fates.append(fate)
    return fates
