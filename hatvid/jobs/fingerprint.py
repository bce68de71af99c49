"""What the packets of a job hang on, by name, as text: two runs that agree in all of it make
the same packets."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from hatvid.jobs.course import Course
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.job import Job
from hatvid.jobs.records import Resolved
from hatvid.upscaler import Description, Upscaler
from hatvid.video.encoding import library_versions

__all__ = [
    "Described",
    "device_kind",
    "resolved_of",
    "settings_by",
    "settings_of",
    "versions_of",
]

_PACKAGES = ("hatvid", "av", "torch")
_OF_ENGINES = {"openvino": "openvino", "tensorrt": "torch-tensorrt"}


@dataclass(frozen=True, kw_only=True)
class Described:
    """What computes, with ``auto`` decided.

    Args:
        fingerprint: names the network exactly.
        kind: of the device.
        versions: of all that computes, decodes and encodes, by name.
    """

    facts: Description
    fingerprint: str
    name: str
    network_scale: int
    kind: str
    versions: dict[str, str]

    @classmethod
    def of(cls, upscaler: Upscaler, facts: Description) -> Described:
        """That of an upscaler, described where it runs."""
        return cls(
            facts=facts,
            fingerprint=upscaler.fingerprint or "",
            name=upscaler.name,
            network_scale=upscaler.network_scale,
            kind=device_kind(facts.device),
            versions=versions_of(facts.engine),
        )


def settings_of(job: Job, course: Course, plan: OutputPlan, *, source: str) -> dict[str, str]:
    """All that decides about packets, but what computes.

    Args:
        source: digest of the input.
    """
    options, form = job.options, plan.form
    assert form is not None
    reading = asdict(options.reading)
    del reading["strict"]  # stops, or does not
    encoder = form.encoder
    return _as_text(
        {
            "input": source,
            "video stream": course.streams.map and str([m.text for m in course.streams.map]),
            "start": options.start or "",
            "end": options.end or "",
            **{f"input {name.replace('_', ' ')}": value for name, value in reading.items()},
            "frames": course.frames,
            "size": f"{plan.width}x{plan.height}",
            "padded": f"{plan.padded[0]}x{plan.padded[1]}",
            "colours in": plan.tags_in,
            "colours": plan.tags,
            "codec": encoder.codec,
            "pix_fmt": encoder.layout.pix_fmt,
            "encoder options": " ".join(f"{k}={v}" for k, v in sorted(encoder.options.items())),
            "container": form.container.muxer,
            "time base": form.time_base,
            "rate": form.rate,
            "aspect": form.sample_aspect_ratio,
        }
    )


def settings_by(described: Described, *, compiled: bool, mixed: bool = False) -> dict[str, str]:
    """All of what computes that decides about packets.

    Args:
        compiled: torch.compile works on the network.
        mixed: devices of several kinds may take part.
    """
    facts = described.facts
    return _as_text(
        {
            "model": described.fingerprint,
            "scale": facts.scale,
            "engine": facts.engine,
            "precision": facts.precision,
            "layout": facts.layout,
            "attention": facts.kernel,
            "device": "mixed" if mixed else described.kind,
            "threads": facts.threads,
            "tile": f"{facts.tile_width}x{facts.tile_height}" + " in chunks" * facts.chunked,
            "overlap": facts.overlap,
            "batch": facts.batch,
            "streams": facts.streams,
            "compile": compiled,
            **described.versions,
        }
    )


def resolved_of(described: Described, encoder_threads: int) -> Resolved:
    """What ``auto`` came to."""
    facts = described.facts
    return Resolved.model_validate(
        {
            "engine": facts.engine,
            "precision": facts.precision,
            "layout": facts.layout,
            "kernel": facts.kernel,
            "threads": facts.threads,
            "streams": facts.streams,
            "tile": facts.tile,
            "chunked": facts.chunked,
            "overlap": facts.overlap,
            "batch": facts.batch,
            "encoder_threads": encoder_threads,
        }
    )


def versions_of(engine: str) -> dict[str, str]:
    """Of all that computes, decodes and encodes."""
    packages = [*_PACKAGES, *filter(None, [_OF_ENGINES.get(engine)])]
    found = {f"version of {name}": _version(name) for name in packages}
    return {**found, "version of FFmpeg": library_versions()}


def device_kind(device: str) -> str:
    """What kind of device it is, as far as its results hang on that."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _as_text(settings: dict[str, object]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in settings.items()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder
        return "unknown"
