"""What an encoder takes and what its files tell, found by trying before work starts."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction

import av
import torch

from hatvid.errors import OutputError
from hatvid.video.color import ColorTags
from hatvid.video.containers import Container
from hatvid.video.convert import PlaneLayout, planes_to_frame
from hatvid.video.encoder_facts import facts_of

__all__ = ["held_tags", "quiet", "refused_by", "why_not_opened"]

# The smallest that every encoder here takes: DNxHR begins at 256x120.
_TRIAL_WIDTH, _TRIAL_HEIGHT = 256, 128
# Fewer, and x265's first decoding time is what happened to lie in memory.
_TRIAL_FRAMES = 3


def why_not_opened(
    codec: str, layout: PlaneLayout, options: Mapping[str, str], width: int, height: int
) -> str | None:
    """Open an encoder for frames of a size and close it again.

    Returns:
        None if it opens, else the reason.
    """
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.options = _silenced(codec, options)
    context.time_base = Fraction(1, 25)
    try:
        _shape(context, layout, width, height)
        with quiet(codec):
            context.open()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return _reason(error)
    return None


def refused_by(
    codec: str, layout: PlaneLayout, width: int, height: int, reason: str
) -> OutputError:
    """The error of an encoder that does not open."""
    return OutputError(
        f"the encoder refused ({codec}, {width}x{height} {layout.pix_fmt}: {reason}); choose "
        "another --codec, --pix-fmt or size"
    )


def held_tags(
    codec: str,
    layout: PlaneLayout,
    options: Mapping[str, str],
    container: Container,
    tags: ColorTags,
) -> ColorTags | None:
    """The colour tags that a file by this encoder in this container is read with.

    A few small frames are encoded, muxed and decoded again in memory.

    Args:
        tags: that the encoder and its frames are given; those that open for the full
            range only get that.

    Returns:
        As the decoder tells them; None where it cannot be tried.

    Raises:
        OutputError: the container does not hold this codec, or not so that it is read again.
    """
    if container.muxer == "rawvideo":
        return None  # which tells nothing, not even the size
    file = io.BytesIO()
    try:
        with av.open(
            file, "w", format=container.muxer, container_options=dict(container.options)
        ) as output:
            if not _write(output, codec, layout, options, tags):
                return None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _not_held(codec, layout, container, _reason(error)) from None
    file.seek(0)
    try:
        with av.open(file, "r") as written:
            frame = next(written.decode(video=0))
    except (av.error.FFmpegError, OSError, ValueError, StopIteration, IndexError):
        raise _not_held(codec, layout, container, "it cannot be read again") from None
    if codec == "rawvideo" and frame.format.name != layout.pix_fmt:
        reason = f"it would be read as {frame.format.name}"
        raise _not_held(codec, layout, container, reason)
    return ColorTags(
        matrix=int(frame.colorspace),
        full_range={1: False, 2: True}.get(int(frame.color_range)),
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        chroma_location=int(frame.chroma_location),
    )


def _reason(error: Exception) -> str:
    """In one line, with what FFmpeg logged last."""
    log = getattr(error, "log", None)
    reason = getattr(error, "strerror", None) or str(error)
    return f"{reason}: {log[2].strip()}" if log and log[2].strip() else str(reason)


def _not_held(codec: str, layout: PlaneLayout, container: Container, reason: str) -> OutputError:
    return OutputError(
        f"{container.muxer} does not hold what {codec} writes from {layout.pix_fmt} ({reason}); "
        "choose another --codec or container"
    )


@contextlib.contextmanager
def quiet(codec: str) -> Iterator[None]:
    """Keep SVT-AV1 from writing lines of its own to standard error.

    It reads its level once, from the environment and when it is opened first.
    """
    if codec != "libsvtav1" or "SVT_LOG" in os.environ:
        yield
        return
    os.environ["SVT_LOG"] = "1"  # errors
    try:
        yield
    finally:
        del os.environ["SVT_LOG"]


def _silenced(codec: str, options: Mapping[str, str]) -> dict[str, str]:
    """x265 says by itself, past FFmpeg's log, why it refuses."""
    if codec != "libx265":
        return dict(options)
    name = facts_of(codec).params
    return {**options, name: ":".join(filter(None, (options.get(name), "log-level=none")))}


def _shape(context: av.VideoCodecContext, layout: PlaneLayout, width: int, height: int) -> None:
    context.width, context.height, context.pix_fmt = width, height, layout.pix_fmt
    context.framerate = Fraction(25)
    if facts_of(context.name).full_only:
        context.color_range = 2


def _write(
    output: av.container.OutputContainer,
    codec: str,
    layout: PlaneLayout,
    options: Mapping[str, str],
    tags: ColorTags,
) -> bool:
    """Whether the encoder opens for the frames of a trial; then they are written."""
    stream = output.add_stream(codec, rate=25, options=_silenced(codec, options))
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    _shape(context, layout, _TRIAL_WIDTH, _TRIAL_HEIGHT)
    full = tags.full_range or facts_of(codec).full_only
    context.color_range = 2 if full else 1
    context.colorspace, context.color_trc = tags.matrix, tags.transfer
    context.color_primaries = tags.primaries
    context.chroma_sample_location = tags.chroma_location
    try:
        with quiet(codec):
            context.open()
    except (av.error.FFmpegError, OSError, ValueError):
        return False
    # Noise, for demuxers that need some data to know their format.
    generator = torch.Generator().manual_seed(0)
    planes = tuple(
        torch.randint(64, 192, shape, generator=generator).to(layout.dtype)
        for shape in layout.plane_shapes(_TRIAL_HEIGHT, _TRIAL_WIDTH)
    )
    for number in range(_TRIAL_FRAMES):
        frame = planes_to_frame(planes, layout)
        frame.pts = number
        frame.color_range = context.color_range
        frame.colorspace, frame.color_trc = tags.matrix, tags.transfer
        frame.color_primaries = tags.primaries
        frame.chroma_location = tags.chroma_location
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
    return True
