"""Run a job in this process."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch

from hatvid.engine import resolve_engine
from hatvid.errors import OutOfMemoryError, OutputError, VerificationError
from hatvid.jobs.as_is import as_is
from hatvid.jobs.checks import Check, Verification
from hatvid.jobs.format import OutputPlan, check_fields, plan_frames, plan_output, scale_for
from hatvid.jobs.job import Job, said_of_scale
from hatvid.jobs.partial import PartialFile
from hatvid.jobs.piped import StandardOutput
from hatvid.jobs.pipeline import Sink, pump
from hatvid.jobs.progress import Progress, Silent, Started
from hatvid.jobs.receipt import Receipt
from hatvid.jobs.remarks import Met, remarks
from hatvid.jobs.sources import given_by, open_source
from hatvid.jobs.stills import PictureReceipt, place_file, run_pictures
from hatvid.jobs.upscalers import own_upscaler
from hatvid.jobs.verify import verify
from hatvid.options import JobOptions
from hatvid.reuse import Reused
from hatvid.selectors import PIPE
from hatvid.upscaler import Description, Upscaler
from hatvid.video.picture_sink import PictureSink
from hatvid.video.sink import VideoSink
from hatvid.video.source import FrameBatch, VideoSource
from hatvid.video.streams import StreamPlan, plan_streams

__all__ = ["run_job"]


def run_job(
    job: Job, *, progress: Progress | None = None, upscaler: Upscaler | None = None
) -> Receipt | PictureReceipt:
    """Carry a job out.

    Args:
        job: as planned.
        progress: told what happens.
        upscaler: used in place of the one that the job describes; it stays open.

    Raises:
        HatvidError: see :mod:`hatvid.errors`; nothing lies under the output's name then.
        TypeError: ``progress`` lacks a method.
    """
    progress = progress or Silent()
    given: object = progress  # by callers that no type checker looked at
    if not isinstance(given, Progress):
        name = type(given).__name__
        raise TypeError(f"{name} lacks a method of hatvid.jobs.progress.Progress")
    run = _Run(job=job, progress=progress)
    for note in job.notes:
        run.note(note)
    options = job.options
    if job.pictures is not None:
        if upscaler is not None:
            return run_pictures(job.pictures, upscaler, size=options.size, progress=progress)
        with own_upscaler(job, job.scale) as own:
            return run_pictures(job.pictures, own, size=options.size, progress=progress)
    with ExitStack() as stack:
        while True:
            with open_source(job, _decoding_device(options, upscaler)) as source:
                run.note_new(source)
                for note in check_fields(source.info, options.reading):
                    run.note(note)
                # All that can be refused is refused before a checkpoint is read.
                scale = upscaler.scale if upscaler is not None else scale_for(job, source.info)
                streams = None
                if job.container is None:
                    plan = plan_frames(job, source.info, scale)
                else:
                    plan = plan_output(job, job.container, source.info, scale)
                    streams = plan_streams(
                        source.container,
                        source.stream,
                        options.streams,
                        job.container.muxer,
                        cut=job.cut,
                    )
                for note in plan.notes:
                    run.note(note)
                if upscaler is None and not job.as_is:
                    upscaler = stack.enter_context(own_upscaler(job, scale))
                if upscaler is not None:
                    _say_of_scale(run, upscaler)
                try:
                    return run.carry_out(source, plan, streams, upscaler)
                except OutOfMemoryError as error:
                    run.start_over(source, upscaler, error)


def _say_of_scale(run: _Run, upscaler: Upscaler) -> None:
    for note in said_of_scale(upscaler.name, upscaler.network_scale, upscaler.scale):
        run.note(note)


def _decoding_device(options: JobOptions, upscaler: Upscaler | None) -> torch.device | None:
    """Where frames that a GPU decodes can stay, as the network runs there."""
    if options.reading.hwaccel != "cuda":
        return None
    device = resolve_engine(options.engine).device if upscaler is None else upscaler.device
    return device if device.type == "cuda" else None


@dataclass
class _Run:
    """One run of a job, and what it has to tell."""

    job: Job
    progress: Progress
    notes: list[str] = field(default_factory=list)
    met: Met = field(default_factory=Met)
    placed: set[Path] = field(default_factory=set)
    heard: int = 0

    def note(self, text: str) -> None:
        if text in self.notes:  # from before the job was started over
            return
        self.notes.append(text)
        self.progress.note(text)

    def note_new(self, source: VideoSource) -> None:
        """What the source has told since it was last asked."""
        new = source.notes[self.heard :]
        self.heard += len(new)
        for note in new:
            self.note(note)

    def start_over(
        self, source: VideoSource, upscaler: Upscaler | None, error: OutOfMemoryError
    ) -> None:
        """Forget what was done, and take smaller tiles: one output has one tiling.

        Raises:
            OutOfMemoryError: the one that is given, if there is no second time or nothing
                smaller.
        """
        info, options = source.info, self.job.options
        if upscaler is None:
            raise error
        before = upscaler.describe(info.height, info.width)
        once = self.job.to_stdout or options.input == PIPE
        if once or not upscaler.shrink(info.height, info.width):
            raise error
        after = upscaler.describe(info.height, info.width)
        self.note(
            f"memory ran out after {self.met.frames} frames with tiles of "
            f"{before.tile_width}x{before.tile_height}: starting again with tiles of "
            f"{after.tile_width}x{after.tile_height}"
        )
        self.met = Met()
        self.heard = 0

    def carry_out(
        self,
        source: VideoSource,
        plan: OutputPlan,
        streams: StreamPlan | None,
        upscaler: Upscaler | None,
    ) -> Receipt:
        job = self.job
        if plan.form is None:
            frames = PictureSink(job.output, source, tags=plan.tags, place=self._place)
            facts, seconds = self._pumped(source, frames, plan, upscaler)
            self.progress.publishing()
            return self._receipt(source, frames, plan, facts, seconds, None)
        with self._destination() as place:
            device = None
            if upscaler is not None and upscaler.device.type == "cuda":
                device = upscaler.device
            sink = VideoSink(
                place.file, plan.form, source, cut=job.cut, plan=streams, device=device
            )
            facts, seconds = self._pumped(source, sink, plan, upscaler)
            place.seal()
            verification = self._verified(source, place, plan, spoilt=self._spoilt(source, sink))
            # From here on the output is whole; breaking off would tell an untruth.
            self.progress.publishing()
            place.publish()
        return self._receipt(source, sink, plan, facts, seconds, verification)

    def _place(self, path: Path, data: bytes) -> None:
        again = path in self.placed  # by this job, before it was started over
        place_file(path, data, overwrite=self.job.options.overwrite or again)
        self.placed.add(path)

    def _destination(self) -> AbstractContextManager[PartialFile | StandardOutput]:
        if self.job.to_stdout:
            return StandardOutput()
        return PartialFile(self.job.output, overwrite=self.job.options.overwrite)

    def _pumped(
        self, source: VideoSource, sink: Sink, plan: OutputPlan, upscaler: Upscaler | None
    ) -> tuple[Description, float]:
        """Bring all frames through the network; what ran them, and for how many seconds."""
        try:
            for note in sink.notes:
                self.note(note)
            # Compiling the network is no part of the frame rate; nor does the precision
            # hang on what the first frame shows.
            if upscaler is None:
                facts = as_is(source.info)
            else:
                facts = upscaler.warm_up(
                    source.info.height, source.info.width, ahead=_expected_frames(source)
                )
                if upscaler.reuse.tolerance and facts.streamed:
                    self.note(
                        f"engine {facts.engine} takes whole frames: the reuse tolerance is left "
                        "out, only frames of the same bytes are reused"
                    )
            self.progress.started(self._started(source, plan, facts))
            began = time.monotonic()
            pump(
                source,
                sink,
                upscaler,
                facts,
                plan,
                lambda batch, reused: self._count(source, batch, reused),
                lambda batch, tile: self.met.mend(source, batch, tile),
            )
            sink.finish()
        except BaseException:
            sink.abort()
            raise
        seconds = time.monotonic() - began
        if sink.frames != self.met.frames:
            raise OutputError(
                f"{self.met.frames} frames were upscaled and {sink.frames} written; "
                "please report this"
            )
        self.note_new(source)
        size = source.info.height, source.info.width
        if upscaler is not None and upscaler.describe(*size).reuse == "refused":
            self.note(
                f"nothing is reused: engine {facts.engine} in {facts.precision} gave other bits "
                "for the same tile"
            )
        for note in remarks(source, sink, self.met, cut=self.job.cut):
            self.note(note)
        return facts, seconds

    def _verified(
        self,
        source: VideoSource,
        place: PartialFile | StandardOutput,
        plan: OutputPlan,
        *,
        spoilt: bool,
    ) -> Verification | None:
        """Compare what was written with the input.

        Args:
            spoilt: the input was found to be damaged.

        Raises:
            VerificationError: it is not the input, only larger.
        """
        options, output = self.job.options, self.job.output
        if options.verify == "none":
            return None
        if isinstance(place, StandardOutput) or options.input == PIPE:
            self.note("not verified: a pipe cannot be read twice")
            return None
        given = given_by(source, options)
        if given is not None and options.verify == "full":
            self.note("the pictures are not compared: the script would have to run twice")
        found = verify(
            options.input,
            place.written,
            start=options.start,
            end=options.end,
            reading=options.reading,
            streams=options.streams,
            quick=options.verify == "quick" or given is not None,
            output_name=output.name,
            tags=plan.tags,
            given=given,
            advanced=self.progress.verifying,
        )
        # What is broken in the input cannot all come out as it went in: the job has told what
        # it did about it. Frames and their times must hold all the same.
        excused = [check for check in found.failed if spoilt and _may_suffer(check)]
        for check in excused:
            self.note(f"the input is damaged, and the output differs: {check.name}: {check.text}")
        if len(excused) < len(found.failed):
            wrong = "; ".join(f"{check.name}: {check.text}" for check in found.failed)
            raise VerificationError(
                f"the output is not the input, only larger ({wrong}); it is kept as "
                f"{place.set_aside()}, please look at it"
            )
        return found

    def _spoilt(self, source: VideoSource, sink: Sink) -> bool:
        """Whether the input is damaged, as far as the job has met with it."""
        frames = self.met.repeated or self.met.damaged or self.met.moved
        packets = sink.packets_moved or sink.packets_lost
        return bool(frames or packets or source.ended_early)

    def _receipt(
        self,
        source: VideoSource,
        sink: Sink,
        plan: OutputPlan,
        facts: Description,
        seconds: float,
        verification: Verification | None,
    ) -> Receipt:
        return Receipt(
            input=source.info.path,
            output=self.job.output,
            frames=sink.frames,
            repeated=tuple(self.met.repeated),
            damaged=tuple(self.met.damaged),
            moved=tuple(self.met.moved),
            mended=tuple(self.met.mended),
            reused=self.met.reused,
            streams=sink.fates,
            packets=dict(sink.packets_copied),
            residue=(
                {index: (float(a), float(b)) for index, (a, b) in source.residue.items()}
                if self.job.cut
                else {}
            ),
            color_in=source.info.tags.describe(),
            color_out=plan.tags.describe(),
            width=plan.padded[0],
            height=plan.padded[1],
            model=facts.model,
            engine=facts.engine,
            precision=facts.precision,
            seconds=seconds,
            verification=verification,
            notes=tuple(self.notes),
        )

    def _started(self, source: VideoSource, plan: OutputPlan, facts: Description) -> Started:
        return Started(
            input=str(source.info.path),
            output=str(self.job.output),
            frames=_expected_frames(source),
            width=plan.padded[0],
            height=plan.padded[1],
            scale=facts.scale,
            model=facts.model,
            engine=facts.engine,
            precision=facts.precision,
            device=facts.device,
            tile=(facts.tile_height, facts.tile_width),
            tiles=facts.tiles,
            batch=facts.batch,
            codec="png" if plan.form is None else plan.form.encoder.codec,
            pix_fmt=plan.layout.pix_fmt,
        )

    def _count(self, source: VideoSource, batch: FrameBatch, reused: Reused) -> None:
        self.met.count(source, batch, reused)
        self.progress.reused(self.met.reused)
        self.progress.advanced(self.met.frames)


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


def _may_suffer(check: Check) -> bool:
    return check.name == "pictures" or check.name.startswith("stream ")
