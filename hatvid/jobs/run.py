"""Run a job in this process."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction

from hatvid.errors import InputError, OutputError
from hatvid.jobs.format import OutputPlan, check_fields, plan_output, scale_for
from hatvid.jobs.job import Job
from hatvid.jobs.partial import PartialFile
from hatvid.jobs.piped import StandardOutput
from hatvid.jobs.pipeline import pump
from hatvid.jobs.progress import Progress, Silent, Started
from hatvid.jobs.receipt import Receipt
from hatvid.options import JobOptions
from hatvid.upscaler import Description, Upscaler
from hatvid.video.sink import VideoSink
from hatvid.video.source import FrameBatch, SourceInfo, VideoSource

__all__ = ["run_job"]


def run_job(
    job: Job, *, progress: Progress | None = None, upscaler: Upscaler | None = None
) -> Receipt:
    """Carry a job out.

    Args:
        job: as planned.
        progress: told what happens.
        upscaler: used in place of the one that the job describes; it stays open.

    Raises:
        HatvidError: see :mod:`hatvid.errors`; nothing lies under the output's name then.
    """
    run = _Run(job=job, progress=progress or Silent())
    for note in job.notes:
        run.note(note)
    if job.stills:
        return run.carry_out_stills(upscaler)
    options = job.options
    with VideoSource(
        options.input,
        reading=options.reading,
        streams=options.streams,
        start=options.start,
        end=options.end,
    ) as source:
        for note in source.notes:
            run.note(note)
        for note in check_fields(source.info, options.reading):
            run.note(note)
        # All that can be refused is refused before a checkpoint is read.
        scale = upscaler.scale if upscaler is not None else scale_for(job, source.info)
        plan = plan_output(job, source.info, scale)
        for note in plan.notes:
            run.note(note)
        if upscaler is not None:
            return run.carry_out(source, plan, upscaler)
        with _own_upscaler(options, scale) as own:
            return run.carry_out(source, plan, own)


def _own_upscaler(options: JobOptions, scale: int | None) -> Upscaler:
    engine, tile = options.engine, options.tile
    return Upscaler.from_checkpoint(
        options.model,
        scale=scale,
        engine=engine.engine,
        precision=engine.precision,
        device=engine.device,
        threads=engine.threads,
        tile=tile.tile,
        overlap=tile.overlap,
        batch=tile.batch,
    )


@dataclass
class _Run:
    """One run of a job, and what it has to tell."""

    job: Job
    progress: Progress
    notes: list[str] = field(default_factory=list)
    repeated: list[float] = field(default_factory=list)
    damaged: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    done: int = 0

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.note(text)

    def carry_out(self, source: VideoSource, plan: OutputPlan, upscaler: Upscaler) -> Receipt:
        job, info, form = self.job, source.info, plan.form
        with self._destination() as place:
            sink = VideoSink(place.file, form, source, cut=job.cut)
            try:
                for note in sink.notes:
                    self.note(note)
                # Compiling the network is no part of the frame rate; nor does the precision
                # hang on what the first frame shows.
                facts = upscaler.warm_up(info.height, info.width)
                self.progress.started(self._started(source, plan, facts))
                began = time.monotonic()
                pump(source, sink, upscaler, facts, plan, lambda batch: self._count(source, batch))
                sink.finish()
            except BaseException:
                sink.abort()
                raise
            if sink.frames == 0:
                raise InputError(
                    f"{info.path}: no frame lies between --start and --end; the video has "
                    f"{_length(info)}"
                )
            if sink.frames != self.done:
                raise OutputError(
                    f"{self.done} frames were upscaled and {sink.frames} written; please report "
                    "this"
                )
            place.seal()
            # From here on the output is whole; breaking off would tell an untruth.
            self.progress.publishing()
            place.publish()
        seconds = time.monotonic() - began
        self._remarks(source, sink)
        return Receipt(
            input=info.path,
            output=job.output,
            frames=sink.frames,
            repeated=tuple(self.repeated),
            damaged=tuple(self.damaged),
            moved=tuple(self.moved),
            streams=sink.fates,
            packets=dict(sink.packets_copied),
            color_in=info.tags.describe(),
            color_out=form.tags.describe(),
            width=form.width,
            height=form.height,
            model=upscaler.name,
            engine=facts.engine,
            precision=facts.precision,
            seconds=seconds,
            notes=tuple(self.notes),
        )

    def _destination(self) -> AbstractContextManager[PartialFile | StandardOutput]:
        if self.job.to_stdout:
            return StandardOutput()
        return PartialFile(self.job.output, overwrite=self.job.options.overwrite)

    def _started(self, source: VideoSource, plan: OutputPlan, facts: Description) -> Started:
        info, form = source.info, plan.form
        return Started(
            input=str(info.path),
            output=str(self.job.output),
            frames=_expected_frames(source),
            width=form.width,
            height=form.height,
            scale=facts.scale,
            model=facts.model,
            engine=facts.engine,
            precision=facts.precision,
            device=facts.device,
            tile=(facts.tile_height, facts.tile_width),
            tiles=facts.tiles,
            batch=facts.batch,
            codec=form.encoder.codec,
            pix_fmt=form.encoder.layout.pix_fmt,
        )

    def _count(self, source: VideoSource, batch: FrameBatch) -> None:
        for stamp in batch.times:
            seconds = round(float(source.seconds(stamp.pts)), 6)
            if stamp.repeated:
                self.repeated.append(seconds)
            if stamp.damaged:
                self.damaged.append(seconds)
            if stamp.moved:
                self.moved.append(seconds)
        self.done += len(batch.times)
        self.progress.advanced(self.done)

    def _remarks(self, source: VideoSource, sink: VideoSink) -> None:
        """What went wrong on the way without stopping the job."""
        if self.repeated:
            self.note(
                f"{len(self.repeated)} frames could not be decoded and show the one before, at "
                f"{_places(self.repeated)}"
            )
        if self.damaged:
            self.note(f"{len(self.damaged)} frames are damaged, at {_places(self.damaged)}")
        if self.moved:
            self.note(
                f"{len(self.moved)} frames had no timestamp or one that did not rise, at "
                f"{_places(self.moved)}; they were moved"
            )
        for index, count in sink.packets_moved.items():
            self.note(
                f"stream {index}: {count} packets had a time that went back and were moved "
                "after the one before"
            )
        for index, count in sink.packets_lost.items():
            self.note(f"stream {index}: {count} damaged packets are dropped")
        if source.ended_early:
            promised = source.info.frames
            of = f" of {promised} promised" if promised else ""
            self.note(
                f"the input ends early after {self.done} frames{of}: {source.ended_early}; look "
                "for a whole copy"
            )


def _expected_frames(source: VideoSource) -> int | None:
    info = source.info
    total = info.frames
    if total is None and info.duration is not None and info.average_rate is not None:
        total = round(info.duration * info.time_base * info.average_rate)
    start, end = source.limits()
    if total is None or (start is None and end is None):
        return total
    if info.average_rate is None:
        return None
    length = Fraction(total) / info.average_rate
    last = length if end is None else min(end, length)
    return max(0, round((last - (start or Fraction(0))) * info.average_rate))


def _length(info: SourceInfo) -> str:
    if info.duration is None:
        return "an unknown length"
    return f"{float(info.duration * info.time_base):g} s"


def _places(seconds: list[float]) -> str:
    shown = ", ".join(f"{at:.3f} s" for at in seconds[:8])
    return shown + (f" and {len(seconds) - 8} more" if len(seconds) > 8 else "")
