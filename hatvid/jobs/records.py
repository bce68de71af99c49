"""What a journal writes down, and checks when it reads it back: a job's header, and a record
of each finished segment."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hatvid.jobs.receipt import MendedPlace
from hatvid.reuse import Reused
from hatvid.upscaler import Description

__all__ = ["Header", "Record", "Resolved", "differences"]

type _Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
type _Count = Annotated[int, Field(ge=0)]


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Resolved(_Checked):
    """What ``auto`` stood for when the job was begun; it holds until the job is done."""

    engine: Literal["eager", "openvino", "cudagraph", "tensorrt", "replay"]
    precision: Literal["fp32", "bf16", "fp16"]
    threads: int = Field(ge=1)
    layout: Literal["cpu", "gpu"] = "cpu"
    kernel: Literal["default", "efficient", "cudnn", "triton"] = "default"
    streams: int = Field(ge=1)
    tile: _Count
    chunked: bool
    overlap: _Count
    batch: int = Field(ge=1)
    encoder_threads: int = Field(ge=1)


class Header(_Checked):
    """What all segments of a job have in common.

    Args:
        input: its name, for people.
        settings: all that the packets hang on, by name, as text.
        facts: what computes, for people.
        segments: pts of each one's first frame, and how many frames it has.
    """

    version: Literal[1] = 1
    input: str
    output: str
    settings: dict[str, str]
    resolved: Resolved
    facts: Description
    segments: list[tuple[int, _Count]]

    @property
    def key(self) -> str:
        """By which its records know it."""
        settled = json.dumps([self.settings, self.segments], sort_keys=True)
        return hashlib.sha256(settled.encode()).hexdigest()


class Record(_Checked):
    """One finished segment.

    Args:
        job: key of the header.
        sha256: of the file, which has ``size`` bytes.
        lead: see :class:`~hatvid.video.segment_file.SegmentFacts`.
        extradata: SHA-256 of the parameter sets beside the packets.
        times: (pts, duration) of each frame in the output.
        worker: who computed it.
        seconds: that it took.
    """

    version: Literal[1] = 1
    job: _Hex
    number: _Count
    size: _Count
    sha256: _Hex
    lead: _Count
    extradata: _Hex
    times: list[tuple[int, int]]
    repeated: list[float] = []
    damaged: list[float] = []
    moved: list[float] = []
    mended: list[MendedPlace] = []
    reused: Reused = Reused()
    side_data_lost: dict[str, int] = {}
    worker: str = ""
    seconds: float = 0.0


def differences(before: Header, now: Header) -> str:
    """What makes a job another one, in a line; empty if it is the same."""
    names = sorted({*before.settings, *now.settings})
    changed = [
        f"{name} {_short(before.settings.get(name))} -> {_short(now.settings.get(name))}"
        for name in names
        if before.settings.get(name) != now.settings.get(name)
    ]
    if not changed and before.segments != now.segments:
        changed.append("segments")
    return "; ".join(changed)


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= 40 else f"{value[:12]}..."
