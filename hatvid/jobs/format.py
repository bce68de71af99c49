"""What the output of a job will be: size, encoder, colours, times. Decided, and said,
before any work; nothing here needs the network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hatvid.errors import OptionError
from hatvid.jobs.job import Job
from hatvid.model.zoo import EMBEDDED
from hatvid.options import InputOptions
from hatvid.video.color import ColorTags, assumed
from hatvid.video.containers import Container
from hatvid.video.convert import PlaneLayout
from hatvid.video.encoders import choose_encoder, padded_size, try_encoder
from hatvid.video.fields import choices
from hatvid.video.resize import aspect_after, target_size
from hatvid.video.sink import OutputFormat
from hatvid.video.source import SourceInfo

__all__ = ["OutputPlan", "check_fields", "plan_output", "scale_for"]


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """What a job writes.

    Args:
        form: what the encoder and the muxer are told, its size padded where asked.
        width: of the picture in it, in pixels.
        height: of the picture in it, in pixels.
        tags_in: by which the input is read, nothing left open.
        notes: what the user should know, one line each.
    """

    form: OutputFormat
    width: int
    height: int
    tags_in: ColorTags
    notes: tuple[str, ...]


def check_fields(info: SourceInfo, reading: InputOptions) -> list[str]:
    """Stop before interlaced video is upscaled as if it were not.

    Returns:
        What the user should know, one line each.

    Raises:
        OptionError: the video is interlaced, and nobody said what to do about it.
    """
    fields = info.fields
    if fields.interlaced and reading.deinterlace is None and not reading.progressive:
        raise OptionError(f"{info.path}: {choices(fields)}")
    notes = [fields.note] if fields.note and not reading.progressive else []
    if reading.deinterlace is not None and not fields.interlaced:
        notes.append(
            "the video looks progressive, and is deinterlaced because --deinterlace was given"
        )
    return notes


def scale_for(job: Job, info: SourceInfo) -> int:
    """The scale of the model: the job's, or the smallest embedded one that reaches its size."""
    if job.scale is not None:
        return job.scale
    width, height = target_size(info.width, info.height, 1, job.options.size)
    scales = sorted(model.scale for model in EMBEDDED)
    reach = [s for s in scales if s * info.width >= width and s * info.height >= height]
    return reach[0] if reach else scales[-1]


def plan_output(job: Job, container: Container, info: SourceInfo, scale: int) -> OutputPlan:
    """Settle the output of a video job.

    Args:
        job: as planned.
        container: of the output.
        info: of the input.
        scale: of the model; where a size is asked for it changes nothing.

    Raises:
        OptionError: the encoder does not take the size, the pixel format, or an option.
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
    padded = padded_size(encoder, width, height)
    tags = _output_tags(tags_in, info.layout, encoder.layout, width, height)
    form = OutputFormat(
        container=container,
        encoder=encoder,
        width=padded[0],
        height=padded[1],
        tags=tags,
        time_base=info.time_base,
        rate=info.average_rate,
        sample_aspect_ratio=aspect_after(
            info.sample_aspect_ratio, (info.width, info.height), (width, height)
        ),
        display_matrix=info.display_matrix if container.rotates else None,
    )
    try_encoder(encoder, *padded)
    notes = [*encoder.notes]
    if width > info.width * scale or height > info.height * scale:
        notes.append(
            f"the size asked for is more than {scale} times the input's: the rest is bicubic"
        )
    if padded != (width, height):
        notes.append(
            f"{width}x{height} is padded to {padded[0]}x{padded[1]}: the last row or column is "
            "repeated"
        )
    if info.tags.describe() != tags.describe():
        notes.append(f"colours: {info.tags.describe()} -> {tags.describe()}, and tagged so")
    notes += _said_of_time(container, info)
    if info.display_matrix is not None and not container.rotates:
        notes.append(
            f"{container.muxer} cannot say that the video is shown rotated by "
            f"{info.rotation} degrees; mp4, mov and mkv can"
        )
    return OutputPlan(form=form, width=width, height=height, tags_in=tags_in, notes=tuple(notes))


def _output_tags(
    tags_in: ColorTags, before: PlaneLayout, after: PlaneLayout, width: int, height: int
) -> ColorTags:
    if after.family != before.family:
        # RGB's identity matrix is no matrix for YUV, nor the other way round.
        blank = replace(tags_in, matrix=ColorTags().matrix, full_range=None)
        return assumed(blank, after, height, width)
    if (after.log2_chroma_w, after.log2_chroma_h) != (before.log2_chroma_w, before.log2_chroma_h):
        return assumed(tags_in, after, height, width)
    return tags_in


def _said_of_time(container: Container, info: SourceInfo) -> list[str]:
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
    if not container.before_zero:
        notes.append(f"{container.muxer} holds no time before zero: all times may move together")
    if not container.tagged:
        notes.append(
            f"{container.muxer} cannot say the matrix, primaries and transfer of its colours; "
            "nut and mkv can"
        )
    return notes
