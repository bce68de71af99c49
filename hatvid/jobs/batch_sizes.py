"""What only an input tells of its output's name."""

from __future__ import annotations

from hatvid.jobs.format import scale_for
from hatvid.jobs.job import Job
from hatvid.jobs.sources import open_source
from hatvid.model.zoo import resolve_model
from hatvid.video.picture_names import is_picture
from hatvid.video.resize import target_size
from hatvid.video.stills import read_picture

__all__ = ["sizes_of"]


def sizes_of(job: Job, scale: int | None) -> dict[str, str]:
    """Width and height of the output in pixels, the scale, and the model's name.

    Args:
        job: as planned.
        scale: None where the size asked for decides it.

    Raises:
        InputError: the input cannot be read.
    """
    options = job.options
    if is_picture(options.input) and options.input.exists():
        high, wide = read_picture(options.input).rgb.shape[1:]
        scale = scale or 4
        width, height = target_size(wide, high, scale, options.size, even=False)
    else:
        with open_source(job, None) as source:
            info = source.info
            scale = scale_for(job, info)
            width, height = target_size(info.width, info.height, scale, options.size)
    numbers = {"width": str(width), "height": str(height), "scale": str(scale)}
    if job.as_is:
        return {**numbers, "model": "none"}
    model = job.model or resolve_model(options.model, scale)
    return {**numbers, "model": model.name}
