"""What is known of a video before it is upscaled."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av

from hatvid.errors import InputError
from hatvid.options import ColorOptions, InputOptions, StreamOptions
from hatvid.video.color import ColorTags
from hatvid.video.convert import PlaneLayout, frame_to_planes
from hatvid.video.fields import FieldOrder, Fields, field_order
from hatvid.video.hdr import Hdr, read_hdr
from hatvid.video.opening import choose_video, open_input
from hatvid.video.pictures import positive, time_base_of

__all__ = ["SourceInfo", "gather", "samples"]

_PLACES, _SAMPLE = 3, 17


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What the header and the first frame given say of a video.

    Args:
        time_base: of all pts and durations, in seconds.
        frames: as the container promises, None if it does not.
        start: pts of the first frame of the file.
        duration: of the video stream in ``time_base`` units, None if unknown.
        sample_aspect_ratio: None where the stream does not say.
        tags: colours as tagged, or as the user says; nothing assumed.
        bits: of a sample as coded.
        rotation: degrees that a player turns the picture counterclockwise, -180 to 180.
        display_matrix: nine integers as in ISO/IEC 14496-12, section 6.2.2, by rows, in
            16.16 and 2.30 fixed point; None where there is none.
        field_order: what the stream's parameters say.
        fields: what parameters and pictures together say; None where nobody asks.
        hdr: mastering display and the like, None without any.
    """

    path: Path
    container: str
    codec: str
    width: int
    height: int
    layout: PlaneLayout
    tags: ColorTags
    time_base: Fraction
    average_rate: Fraction | None
    frames: int | None
    start: int
    duration: int | None
    sample_aspect_ratio: Fraction | None
    bits: int
    rotation: int
    display_matrix: tuple[int, ...] | None
    field_order: FieldOrder
    fields: Fields | None = None
    hdr: Hdr | None = None

    def seconds(self, pts: int) -> Fraction:
        """A pts of a frame given as seconds after the first frame of the file."""
        return (pts - self.start) * self.time_base


def gather(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    frame: av.VideoFrame,
    *,
    start: int,
    colors: ColorOptions,
) -> SourceInfo:
    """Look at an opened video and a frame of it.

    Args:
        start: pts of the first frame of the file.
        colors: overrule what the frame says.

    Raises:
        InputError: the pixel format is not supported.
    """
    try:
        layout, _ = frame_to_planes(frame)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    hidden = sum(entry.is_discard for entry in stream.index_entries)
    return SourceInfo(
        path=path,
        container=container.format.name,
        codec=stream.codec_context.name,
        width=frame.width,
        height=frame.height,
        layout=layout,
        tags=_tags(frame, colors),
        time_base=time_base_of(stream),
        average_rate=positive(stream.average_rate) or positive(stream.guessed_rate),
        frames=max(0, stream.frames - hidden) or None,
        start=start,
        duration=stream.duration or _whole_duration(container, stream),
        sample_aspect_ratio=positive(stream.sample_aspect_ratio),
        bits=frame.format.components[0].bits,
        rotation=frame.rotation,
        display_matrix=_display_matrix(frame, stream),
        field_order=field_order(stream.codec_context.field_order),
        hdr=read_hdr(frame, stream),
    )


def samples(
    path: Path, reading: InputOptions, streams: StreamOptions
) -> Iterator[Iterator[av.VideoFrame]]:
    """Consecutive frames from three places of a file, to judge its fields by."""
    with open_input(path, replace(reading, hwaccel=None)) as container:
        video = choose_video(container, path, streams.map)
        length = video.duration or _whole_duration(container, video) or 0
        for place in range(_PLACES):
            try:
                if place:
                    begin = video.start_time or 0
                    container.seek(begin + length * place // _PLACES, stream=video)
            except (av.error.FFmpegError, OSError, ValueError):
                return
            yield _decoded(container, video)
            if not length:
                return


def _decoded(
    container: av.container.InputContainer, video: av.VideoStream
) -> Iterator[av.VideoFrame]:
    try:
        yield from islice(container.decode(video), _SAMPLE)
    except (av.error.FFmpegError, OSError, ValueError):
        return  # what is damaged tells nothing of fields


def _whole_duration(container: av.container.InputContainer, stream: av.VideoStream) -> int | None:
    """The file's duration for the stream's own, which Matroska does not tell."""
    if not container.duration:
        return None
    return round(Fraction(container.duration, av.time_base) / time_base_of(stream))


def _tags(frame: av.VideoFrame, colors: ColorOptions) -> ColorTags:
    extent = {1: False, 2: True}.get(int(frame.color_range))
    if extent is None and frame.format.name.startswith("yuvj"):
        extent = True

    tags = ColorTags(
        matrix=int(frame.colorspace),
        full_range=extent,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        chroma_location=int(frame.chroma_location),
    )
    return tags.overruled_by(colors)


def _display_matrix(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, ...] | None:
    found = [bytes(data) for data in frame.side_data[:] if data.type.name == "DISPLAYMATRIX"]
    found += filter(None, [stream.codec_context.coded_side_data.get("display_matrix")])
    return struct.unpack("=9i", found[0]) if found and len(found[0]) == 36 else None
