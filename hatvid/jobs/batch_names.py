"""What is asked for with one name in a batch, and what the outputs of that are called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hatvid.jobs.finding import Found, named_like_output
from hatvid.jobs.job import Job, default_output, plan_job
from hatvid.jobs.naming import Naming, place_of
from hatvid.options import DEFAULT_MODEL, JobOptions
from hatvid.selectors import PIPE, is_script
from hatvid.video.picture_names import is_picture

__all__ = ["Draft", "Request", "draft_of", "is_own_output"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for with one name, before it is known which files that means.

    Args:
        text: a file, a folder or a pattern.
        seen_from: the folder that it is seen from.
        options: of each job; input and output are put in.
        where: of the request in a job file, ``jobs.toml:12``.
        output: the name of a single output, seen from the folder.
        naming: of outputs; None is as ``hatvid upscale`` names them.
        folder: where outputs go; None is beside their inputs.
        home: what outputs may not leave, if it is not the folder.
        outside: they may leave it.
        recursive: folders in a folder too.
    """

    text: str
    options: JobOptions
    seen_from: Path = Path()
    where: str = ""
    output: str | None = None
    naming: Naming | None = None
    folder: Path | None = None
    home: Path | None = None
    outside: bool = False
    recursive: bool = False

    def fence(self, root: Path) -> Path | None:
        """What outputs of inputs found in a folder may not leave."""
        return None if self.outside else self.home or self.folder or root

    def base(self, root: Path) -> Path:
        """Where those go."""
        if self.folder is None and self.output is not None:
            return self.home or Path()
        return self.folder or root


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A job whose output has a name.

    Args:
        options: of the job, the input put in.
        output: where it would lie.
        known: what the name is made of, as far as it does not hang on the input.
    """

    options: JobOptions
    output: Path
    known: Mapping[str, str]


def draft_of(request: Request, found: Found, scales: dict[str, int]) -> Draft:
    """Name the output of one input.

    Args:
        request: that the input comes from.
        found: the input.
        scales: of checkpoints that were read before, by what names them; new ones are added.

    Raises:
        HatvidError: the input or the model is not there, or the name may not be.
    """
    options = replace(request.options, input=found.path)
    read = options.scale is None and options.model != DEFAULT_MODEL
    read = read and not is_script(found.path)
    if read and options.model in scales:
        options = replace(options, scale=scales[options.model])
    # As if for a pipe: all that does not hang on the output's name.
    job = plan_job(replace(options, output=PIPE))
    if read and job.scale is not None:
        scales[options.model] = job.scale
        options = replace(options, scale=job.scale)
    name, known = request.output, dict[str, str]()
    if name is None:
        relative = found.path.parent.relative_to(found.root)
        name, known = _name(request, job)
        name = str(relative / name)
    output = place_of(request.base(found.root), name, request.fence(found.root))
    return Draft(options=options, output=output, known=known)


def is_own_output(request: Request, found: Found, draft: Draft) -> bool:
    """Whether an input is an output of an earlier run, by its name."""
    if named_like_output(found.path):
        return True
    naming = request.naming
    base = Path(os.path.realpath(request.base(found.root)))
    if naming is None or not base.is_relative_to(os.path.realpath(found.root)):
        return False
    stem = naming.stem_in(found.path.relative_to(found.root), draft.known)
    if stem is None:
        return False
    if naming.fields - {"stem", "ext"} <= set(draft.known):
        return True
    folder = found.path.parents[naming.folders]
    return any(path.stem == stem for path in folder.iterdir() if path != found.path)


def _name(request: Request, job: Job) -> tuple[str, dict[str, str]]:
    """The name without folders, and the fields of it that are the same for all inputs."""
    source, size = job.options.input, job.options.size
    scale = job.scale or (4 if is_picture(source) else None)
    default = default_output(job.options, scale, [])
    if request.naming is None:
        return default.name, {}
    known = {}
    if scale is not None:
        known["scale"] = str(scale)
    if job.model is not None:
        known["model"] = job.model.name
    if size.width is not None:
        known["width"] = str(size.width)
    if size.height is not None:
        known["height"] = str(size.height)
    values = {**known, "stem": source.stem, "ext": default.suffix.removeprefix(".")}
    if not request.naming.fields <= set(values):
        # Only the input tells, and PyAV is loaded to ask it.
        from hatvid.jobs.batch_sizes import sizes_of

        values = {**sizes_of(job, scale), **values}
    return request.naming.name(values), known
