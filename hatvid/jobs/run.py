"""Run a job in this process: decode, upscale and encode, each in its own thread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch

from hatvid.errors import InputError, OutputError
from hatvid.jobs.job import Job, plan_job
from hatvid.jobs.partial import PartialFile
from hatvid.jobs.progress import Progress, Silent, Started
from hatvid.jobs.receipt import Receipt
from hatvid.options import (
    DEFAULT_MODEL,
    DEFAULT_OVERLAP,
    EncodeOptions,
    EngineName,
    EngineOptions,
    JobOptions,
    Precision,
    TileOptions,
)
from hatvid.selectors import TimePoint
from hatvid.upscaler import Description, Upscaler
from hatvid.video.color import ColorTags, assumed, planes_to_rgb, rgb_to_planes
from hatvid.video.encoders import choose_encoder
from hatvid.video.prefetch import Prefetch, Writer
from hatvid.video.sink import OutputFormat, VideoSink
from hatvid.video.source import FrameBatch, SourceInfo, VideoSource

__all__ = ["run_job", "upscale"]

# Items that wait before and behind the network. Small frames are read well ahead, so
# that packets lying between them do not starve it; large ones are few.
_READ_AHEAD = 16
_WRITE_BEHIND = 4


def upscale(
    input: str | Path,  # noqa: A002 - the name that users know
    output: str | Path | None = None,
    *,
    scale: int = 4,
    model: str = DEFAULT_MODEL,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    device: str = "auto",
    threads: int | None = None,
    tile: int | Literal["auto"] = "auto",
    overlap: int = DEFAULT_OVERLAP,
    batch: int | Literal["auto"] = "auto",
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    encoder_options: Mapping[str, str] | None = None,
    start: str | None = None,
    end: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    upscaler: Upscaler | None = None,
) -> Receipt:
    """Upscale one video file, as ``hatvid upscale`` does.

    Args:
        input: a video file.
        output: None writes ``NAME_x4.EXT`` beside the input.
        start: a time as on the command line: ``12.5``, ``00:00:12.5`` or ``300f``.
        end: likewise; the first frame that is left out.
        progress: told what happens.
        upscaler: runs the frames in place of the one that ``model`` and the engine
            options describe, at its own scale. It stays open.

    The other arguments are those of :mod:`hatvid.options`.

    Returns:
        What was done.

    Raises:
        HatvidError: see :mod:`hatvid.errors`; nothing lies under the output's name then.
    """
    options = JobOptions(
        input=Path(input),
        output=None if output is None else Path(output),
        scale=scale if upscaler is None else upscaler.scale,
        model=model,
        engine=EngineOptions(engine=engine, precision=precision, device=device, threads=threads),
        tile=TileOptions(tile=tile, overlap=overlap, batch=batch),
        encode=EncodeOptions(
            codec=codec,
            crf=crf,
            preset=preset,
            pix_fmt=pix_fmt,
            encoder_options=dict(encoder_options or {}),
        ),
        start=None if start is None else TimePoint.parse(start),
        end=None if end is None else TimePoint.parse(end),
        overwrite=overwrite,
        strict=strict,
    )
    job = plan_job(options, own_upscaler=upscaler is not None)
    return run_job(job, progress=progress, upscaler=upscaler)


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
    options = job.options
    for note in job.notes:
        run.note(note)
    with VideoSource(
        options.input, start=options.start, end=options.end, strict=options.strict
    ) as source:
        run.check_range(source)
        if upscaler is not None:
            return run.carry_out(source, upscaler)
        engine, tile = options.engine, options.tile
        with Upscaler.from_checkpoint(
            options.model,
            scale=options.scale,
            engine=engine.engine,
            precision=engine.precision,
            device=engine.device,
            threads=engine.threads,
            tile=tile.tile,
            overlap=tile.overlap,
            batch=tile.batch,
        ) as own:
            return run.carry_out(source, own)


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

    def check_range(self, source: VideoSource) -> None:
        start, end = source.limits()
        if start is not None and end is not None and end <= start:
            options = self.job.options
            raise InputError(
                f"end ({options.end}) is not after start ({options.start}): no frame is left"
            )

    def carry_out(self, source: VideoSource, upscaler: Upscaler) -> Receipt:
        job, info = self.job, source.info
        tags_in = assumed(info.tags, info.layout, info.height, info.width)
        form, tags_out = self._format(info, tags_in, upscaler.scale)
        cut = job.options.start is not None or job.options.end is not None
        with PartialFile(job.output, overwrite=job.options.overwrite) as partial:
            sink = VideoSink(partial.file, form, source, cut=cut)
            try:
                for note in sink.notes:
                    self.note(note)
                # Compiling the network is no part of the frame rate; nor does the precision
                # hang on what the first frame shows.
                facts = upscaler.warm_up(info.height, info.width)
                self.progress.started(self._started(source, form, facts))
                began = time.monotonic()
                self._pump(source, sink, upscaler, facts, tags_in, form, tags_out)
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
            partial.seal()
            # From here on the output is whole; breaking off would tell an untruth.
            self.progress.publishing()
            partial.publish()
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
            color_out=tags_out.describe(),
            width=form.width,
            height=form.height,
            model=upscaler.name,
            engine=facts.engine,
            precision=facts.precision,
            seconds=seconds,
            notes=tuple(self.notes),
        )

    def _format(
        self, info: SourceInfo, tags_in: ColorTags, scale: int
    ) -> tuple[OutputFormat, ColorTags]:
        job = self.job
        encoder = choose_encoder(job.options.encode, job.container, info.layout)
        for note in encoder.notes:
            self.note(note)
        width, height = info.width * scale, info.height * scale
        tags = tags_in
        if encoder.layout.family != info.layout.family:
            # RGB's identity matrix is no matrix for YUV, nor the other way round.
            blank = replace(tags_in, matrix=ColorTags().matrix, full_range=None)
            tags = assumed(blank, encoder.layout, height, width)
        elif (encoder.layout.log2_chroma_w, encoder.layout.log2_chroma_h) != (
            info.layout.log2_chroma_w,
            info.layout.log2_chroma_h,
        ):
            tags = assumed(tags_in, encoder.layout, height, width)
        if info.tags.describe() != tags.describe():
            self.note(f"colours: {info.tags.describe()} -> {tags.describe()}, and tagged so")
        if not job.container.holds(info.time_base):
            tick = job.container.tick
            assert tick is not None
            self.note(
                f"{job.container.muxer} keeps time in steps of {float(tick * 1000):g} ms: each "
                "timestamp is rounded once"
            )
        if not job.container.before_zero:
            self.note(
                f"{job.container.muxer} holds no time before zero: all times may move together"
            )
        form = OutputFormat(
            container=job.container,
            encoder=encoder,
            width=width,
            height=height,
            tags=tags,
            time_base=info.time_base,
            rate=info.average_rate,
            sample_aspect_ratio=info.sample_aspect_ratio,
        )
        return form, tags

    def _started(self, source: VideoSource, form: OutputFormat, facts: Description) -> Started:
        info = source.info
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

    def _pump(
        self,
        source: VideoSource,
        sink: VideoSink,
        upscaler: Upscaler,
        facts: Description,
        tags_in: ColorTags,
        form: OutputFormat,
        tags_out: ColorTags,
    ) -> None:
        # As many frames at once as fill the engine's batch.
        frames = max(1, facts.batch // facts.tiles)
        device = torch.device(facts.device)
        layout = source.info.layout
        items = source.items(frames, sink.copied)
        with (
            Prefetch(items, depth=_READ_AHEAD, name="hatvid-decode") as reader,
            Writer(sink.write, depth=_WRITE_BEHIND, name="hatvid-encode") as writer,
        ):
            for item in reader:
                if not isinstance(item, FrameBatch):
                    writer.put(item)
                    continue
                planes = [plane.to(device, non_blocking=True) for plane in item.planes]
                enlarged = upscaler(planes_to_rgb(planes, layout, tags_in))
                larger = rgb_to_planes(enlarged, form.encoder.layout, tags_out)
                writer.put(replace(item, planes=tuple(plane.cpu() for plane in larger)))
                self._count(source, item)
            writer.finish()

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
