"""What a job would do with a file: looked at, and told, without doing it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from hatvid.codepoints import CHROMA_LOCATIONS, PRIMARIES, TRANSFERS, name_of
from hatvid.errors import HatvidError
from hatvid.jobs.format import check_fields, plan_frames, plan_output, scale_for
from hatvid.jobs.job import Job
from hatvid.jobs.sources import open_source
from hatvid.selectors import is_script
from hatvid.video.color import assumed
from hatvid.video.fates import StreamFate, described
from hatvid.video.fields import Fields
from hatvid.video.hdr import Hdr
from hatvid.video.opening import is_pipe
from hatvid.video.picture_names import picture_format
from hatvid.video.scan import Scan, scan
from hatvid.video.source import SourceInfo
from hatvid.video.streams import plan_streams

__all__ = ["Outlook", "look"]


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known of a job before it runs.

    Args:
        input: facts of the video by name, for people and programs.
        output: likewise of what would be written; empty where the job would be refused.
        streams: what would become of each input stream.
        notes: what the user should know, one line each.
        refused: why the job would stop before it begins, None if it would not.
    """

    input: dict[str, Any]
    output: dict[str, Any]
    streams: tuple[StreamFate, ...]
    notes: tuple[str, ...]
    refused: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def look(job: Job) -> Outlook:
    """Open the input of a job and plan its output.

    Raises:
        InputError: the input cannot be read as a video.
    """
    options = job.options
    notes = list(job.notes)
    output: dict[str, Any] = {}
    fates: tuple[StreamFate, ...] = ()
    refused = None
    with open_source(job) as source:
        info = source.info
        notes += source.notes
        try:
            notes += check_fields(info, options.reading)
            scale = scale_for(job, info)
            if job.container is None:
                plan = plan_frames(job, info, scale)
            else:
                plan = plan_output(job, job.container, info, scale)
                fates = plan_streams(
                    source.container,
                    source.stream,
                    options.streams,
                    job.container.muxer,
                    cut=job.cut,
                ).fates
            notes += [*plan.notes, *described(fates)]
            output = {
                "file": str(job.output),
                "container": "pictures" if job.container is None else job.container.muxer,
                "size": f"{plan.padded[0]}x{plan.padded[1]}",
                "codec": picture_format(job.output).lower()
                if plan.form is None
                else plan.form.encoder.codec,
                "pix_fmt": plan.layout.pix_fmt,
                "options": {} if plan.form is None else dict(plan.form.encoder.options),
                "colours": plan.tags.describe(),
                "model": _model(job, scale),
            }
        except HatvidError as error:
            refused = str(error)
        return Outlook(
            input=_facts(info, _scanned(job)),
            output=output,
            streams=fates,
            notes=tuple(notes),
            refused=refused,
        )


def _model(job: Job, scale: int) -> str:
    if job.as_is:
        return "none: the frames as they are"
    return job.model.name if job.model is not None else f"embedded, x{scale}"


def _scanned(job: Job) -> Scan | None:
    options = job.options
    if is_pipe(options.input) or is_script(options.input):
        return None
    return scan(options.input, reading=options.reading, streams=options.streams)


def _facts(info: SourceInfo, found: Scan | None) -> dict[str, Any]:
    facts = {
        "file": str(info.path),
        "container": info.container,
        "codec": info.codec,
        "size": f"{info.width}x{info.height}",
        "pix_fmt": info.layout.pix_fmt,
        "frames": info.frames,
        "seconds": _seconds(info),
        "fps": None if info.average_rate is None else round(float(info.average_rate), 3),
        "starts_at": round(float(info.start * info.time_base), 6),
        "colours": info.tags.describe(),
        "primaries": name_of(PRIMARIES, info.tags.primaries),
        "transfer": name_of(TRANSFERS, info.tags.transfer),
        "chroma": name_of(CHROMA_LOCATIONS, info.tags.chroma_location),
        "read_as": assumed(info.tags, info.layout, info.height, info.width).describe(),
        "sample_aspect_ratio": _ratio(info.sample_aspect_ratio),
        "rotation": info.rotation,
        "fields": _fields(info.fields),
        "hdr": _hdr(info.hdr),
    }
    if found is not None:
        steps = sorted({after - before for before, after in pairwise(found.pts)})
        facts["frames"] = len(found.pts)
        facts["rate"] = _steady(steps, found.time_base)
        facts["hidden_frames"] = found.discarded or None
    return facts


def _fields(fields: Fields | None) -> str | None:
    if fields is None:
        return None
    return f"{fields.coded} by its flags, {fields.measured} by its pictures"


def _hdr(hdr: Hdr | None) -> str | None:
    return None if hdr is None else ", ".join([*hdr.carried, *hdr.dynamic]) or None


def _steady(steps: list[int], time_base: Fraction) -> str:
    """Whether frames follow one another evenly, but for the rounding of the clock."""
    if not steps or steps[-1] - steps[0] <= 1:
        return "constant"
    shortest, longest = (round(float(step * time_base) * 1000, 3) for step in (steps[0], steps[-1]))
    return f"variable: {shortest:g} to {longest:g} ms a frame"


def _seconds(info: SourceInfo) -> float | None:
    return None if info.duration is None else round(float(info.duration * info.time_base), 3)


def _ratio(ratio: Fraction | None) -> str | None:
    return None if ratio is None else f"{ratio.numerator}:{ratio.denominator}"
