"""What the output of a job will be: size, encoder, colours, times. Decided, and said,
before any work; nothing here needs the network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hatvid.errors import OptionError
from hatvid.jobs.job import Job
from hatvid.jobs.scales import scale_reaching
from hatvid.options import InputOptions
from hatvid.video.color import ColorTags, assumed, retagged
from hatvid.video.containers import Container
from hatvid.video.convert import PlaneLayout
from hatvid.video.encoders import choose_encoder, padded_size
from hatvid.video.fields import choices
from hatvid.video.picture_sink import picture_layout
from hatvid.video.resize import aspect_after, target_size
from hatvid.video.source import SourceInfo
from hatvid.video.track import OutputFormat

__all__ = ["OutputPlan", "check_fields", "plan_frames", "plan_output", "scale_for"]


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """What a job writes.

    Args:
        form: what the encoder and the muxer are told; None where frames become pictures.
        layout: of the frames.
        width: of the picture in them, in pixels.
        height: of the picture in them, in pixels.
        padded: (width, height) of the frames, the same unless an odd size is padded.
        tags_in: by which the input is read, nothing left open.
        tags: of the frames, likewise.
        notes: what the user should know, one line each.
    """

    form: OutputFormat | None
    layout: PlaneLayout
    width: int
    height: int
    padded: tuple[int, int]
    tags_in: ColorTags
    tags: ColorTags
    notes: tuple[str, ...]


def check_fields(info: SourceInfo, reading: InputOptions) -> list[str]:
    """Stop before interlaced video is upscaled as if it were not.

    Returns:
        What the user should know, one line each.

    Raises:
        OptionError: the video is interlaced, and nobody said what to do about it.
    """
    fields = info.fields
    if fields is None:
        return []
    if fields.interlaced and reading.deinterlace is None:
        raise OptionError(f"{info.path}: {choices(fields)}")
    notes = [fields.note] if fields.note else []
    if reading.deinterlace is not None and not fields.interlaced:
        notes.append(
            "the video looks progressive, and is deinterlaced because --deinterlace was given"
        )
    if reading.deinterlace == "field":
        notes.append("each field becomes a frame: twice as many, at twice the rate")
    return notes


def scale_for(job: Job, info: SourceInfo) -> int:
    """The scale of the model: the job's, or the smallest embedded one that reaches its size."""
    if job.scale is not None:
        return job.scale
    return scale_reaching(job.options.size, info.width, info.height)


def plan_output(job: Job, container: Container, info: SourceInfo, scale: int) -> OutputPlan:
    """Settle the output of a video job.

    Args:
        job: as planned.
        container: of the output.
        info: of the input.
        scale: of the model; where a size is asked for it changes nothing.

    Raises:
        OptionError: the encoder does not take the size, the pixel format, or an option.
        OutputError: the encoder does not open, or the container does not hold it.
        InputError: the input's colours are of a kind that hatvid has no formula for.
    """
    options = job.options
    tags_in = assumed(info.tags, info.layout, info.height, info.width)
    width, height = target_size(info.width, info.height, scale, options.size)
    encoder = choose_encoder(
        options.encode,
        container,
        info.layout,
        width=width,
        height=height,
        tags=tags_in,
        hdr=info.hdr,
    )
    assert encoder.tags is not None  # as the input's were given
    padded = padded_size(encoder, width, height)
    form = OutputFormat(
        container=container,
        encoder=encoder,
        width=padded[0],
        height=padded[1],
        tags=encoder.tags,
        time_base=info.time_base,
        rate=info.average_rate,
        sample_aspect_ratio=aspect_after(
            info.sample_aspect_ratio, (info.width, info.height), (width, height)
        ),
        display_matrix=info.display_matrix,
    )
    notes = [
        *_said_of_size(info, scale, width, height),
        *_said_of_colors(info.tags, encoder.tags),
        *encoder.notes,
        *_said_of_time(container, info, cut=job.cut),
    ]
    if not container.tells_colors(encoder.codec):
        notes.append(
            f"{container.muxer} cannot say what the colours of {encoder.codec} mean; mkv can"
        )
    if info.display_matrix is not None and not container.rotates:
        notes.append(
            f"{container.muxer} cannot say that the video is shown rotated by {info.rotation} "
            "degrees; mp4, mov and mkv can"
        )
    return OutputPlan(
        form=form,
        layout=encoder.layout,
        width=width,
        height=height,
        padded=padded,
        tags_in=tags_in,
        tags=encoder.tags,
        notes=tuple(notes),
    )


def plan_frames(job: Job, info: SourceInfo, scale: int) -> OutputPlan:
    """Settle the output of a job that makes numbered pictures of a video.

    Args:
        job: as planned.
        info: of the input.
        scale: of the model; where a size is asked for it changes nothing.

    Raises:
        InputError: the input's colours are of a kind that hatvid has no formula for.
    """
    tags_in = assumed(info.tags, info.layout, info.height, info.width)
    width, height = target_size(info.width, info.height, scale, job.options.size, even=False)
    layout = picture_layout(info.layout)
    tags = replace(retagged(tags_in, info.layout, layout, height, width), full_range=True)
    notes = _said_of_size(info, scale, width, height)
    if info.display_matrix is not None:
        notes.append(f"pictures are not turned: players show the video by {info.rotation} degrees")
    return OutputPlan(
        form=None,
        layout=layout,
        width=width,
        height=height,
        padded=(width, height),
        tags_in=tags_in,
        tags=tags,
        notes=tuple(notes),
    )


def _said_of_size(info: SourceInfo, scale: int, width: int, height: int) -> list[str]:
    if width <= info.width * scale and height <= info.height * scale:
        return []
    return [f"the size asked for is more than {scale} times the input's: the rest is bicubic"]


def _said_of_colors(before: ColorTags, after: ColorTags) -> list[str]:
    if before.describe() == after.describe():
        return []
    return [f"colours: {before.describe()} -> {after.describe()}, and tagged so"]


def _said_of_time(container: Container, info: SourceInfo, *, cut: bool) -> list[str]:
    notes = []
    if not container.timed:
        notes.append(
            f"{container.muxer} holds no timestamps: the frames are written one after another; "
            "nut and mkv hold them"
        )
    elif not container.holds(info.time_base):
        assert container.tick is not None
        notes.append(
            f"{container.muxer} keeps time in steps of {float(container.tick * 1000):g} ms: each "
            "timestamp is rounded once"
        )
    if container.timed and info.start < 0 and not cut:
        early = float(-info.start * info.time_base)
        notes.append(
            f"{container.muxer} holds no picture before time zero: all times move by {early:.6g} s "
            "together"
        )
    return notes
