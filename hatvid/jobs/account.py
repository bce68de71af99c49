"""What one run of a job has to tell: notes on its way, the proof and the receipt in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from hatvid.errors import OutOfMemoryError, VerificationError
from hatvid.jobs.checks import Check, Verification
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.job import Job, said_of_scale
from hatvid.jobs.partial import PartialFile
from hatvid.jobs.piped import StandardOutput
from hatvid.jobs.pipeline import Sink
from hatvid.jobs.progress import Progress, Started
from hatvid.jobs.receipt import Receipt
from hatvid.jobs.remarks import Met, Told
from hatvid.jobs.verify import verify
from hatvid.jobs.verify_script import Given
from hatvid.selectors import PIPE
from hatvid.upscaler import Description, Upscaler
from hatvid.video.source import VideoSource

__all__ = ["Account", "expected_frames"]


@dataclass
class Account:
    """One run of a job, and what it has to tell."""

    job: Job
    progress: Progress
    notes: list[str] = field(default_factory=list)
    met: Met = field(default_factory=Met)
    heard: int = 0
    done: int = 0
    """Frames that were computed, and are not among those met yet."""

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

    def note_scale(self, name: str, network_scale: int, scale: int) -> None:
        """Where a larger network stands in for the scale that was asked for."""
        for note in said_of_scale(name, network_scale, scale):
            self.note(note)

    def note_checks(self, facts: Description) -> None:
        """What failed a check, and a precision that is not near enough to fp32."""
        for refused in facts.refused:
            self.note(f"not used: {refused}")
        if facts.warning is not None:
            self.note(facts.warning)

    def note_reuse(self, facts: Description) -> None:
        """Where what was asked for with it is not done."""
        if facts.reuse == "refused":
            self.note(
                f"nothing is reused: engine {facts.engine} in {facts.precision} gave other bits "
                "for the same tile"
            )

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
            f"memory ran out after {max(self.met.frames, self.done)} frames with tiles of "
            f"{before.tile_width}x{before.tile_height}: starting again with tiles of "
            f"{after.tile_width}x{after.tile_height}"
        )
        self.met = Met()
        self.heard = self.done = 0

    def verified(
        self,
        place: PartialFile | StandardOutput,
        plan: OutputPlan,
        *,
        spoilt: bool,
        given: Given | None = None,
    ) -> Verification | None:
        """Compare what was written with the input.

        Args:
            spoilt: the input was found to be damaged.
            given: what a script gave, if the input is one.

        Raises:
            VerificationError: it is not the input, only larger.
        """
        options, output = self.job.options, self.job.output
        if options.verify == "none":
            return None
        if isinstance(place, StandardOutput) or options.input == PIPE:
            self.note("not verified: a pipe cannot be read twice")
            return None
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

    def spoilt(self, source: Told, sink: Sink) -> bool:
        """Whether the input is damaged, as far as the job has met with it."""
        frames = self.met.repeated or self.met.damaged or self.met.moved
        packets = sink.packets_moved or sink.packets_lost
        return bool(frames or packets or source.ended_early)

    def receipt(
        self,
        source: Told,
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
            kernel=facts.kernel,
            snr=facts.snr,
            refused=facts.refused,
            seconds=seconds,
            verification=verification,
            notes=tuple(self.notes),
        )

    def started(
        self, source: VideoSource, plan: OutputPlan, facts: Description, *, done: int = 0
    ) -> Started:
        return Started(
            input=str(source.info.path),
            output=str(self.job.output),
            frames=expected_frames(source),
            width=plan.padded[0],
            height=plan.padded[1],
            scale=facts.scale,
            model=facts.model,
            engine=facts.engine,
            precision=facts.precision,
            kernel=facts.kernel,
            snr=facts.snr,
            refused=facts.refused,
            device=facts.device,
            tile=(facts.tile_height, facts.tile_width),
            tiles=facts.tiles,
            batch=facts.batch,
            done=done,
            codec="png" if plan.form is None else plan.form.encoder.codec,
            pix_fmt=plan.layout.pix_fmt,
        )


def expected_frames(source: VideoSource) -> int | None:
    """How many frames a job will take, as far as its input tells."""
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
