"""A whole video in this process, from its first frame to its last, through one encoder."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from hatvid.errors import OutputError
from hatvid.jobs.account import Account, expected_frames
from hatvid.jobs.as_is import as_is
from hatvid.jobs.format import OutputPlan
from hatvid.jobs.partial import PartialFile
from hatvid.jobs.piped import StandardOutput
from hatvid.jobs.pipeline import Sink, pump
from hatvid.jobs.receipt import Receipt
from hatvid.jobs.remarks import remarks
from hatvid.jobs.sources import given_by
from hatvid.jobs.stills import place_file
from hatvid.reuse import Reused
from hatvid.upscaler import Description, Upscaler
from hatvid.video.picture_sink import PictureSink
from hatvid.video.sink import VideoSink
from hatvid.video.source import FrameBatch, SourceInfo, VideoSource
from hatvid.video.streams import StreamPlan

__all__ = ["Straight"]


@dataclass
class Straight:
    """A video from its first frame to its last, through one encoder."""

    account: Account
    placed: set[Path] = field(default_factory=set)

    def carry_out(
        self,
        source: VideoSource,
        plan: OutputPlan,
        streams: StreamPlan | None,
        upscaler: Upscaler | None,
    ) -> Receipt:
        job, account = self.account.job, self.account
        if plan.form is None:
            frames = PictureSink(job.output, source, tags=plan.tags, place=self._place)
            facts, seconds = self._pumped(source, frames, plan, upscaler)
            account.progress.publishing()
            return account.receipt(source, frames, plan, facts, seconds, None)
        with self._destination() as place:
            device = None
            if upscaler is not None and upscaler.device.type == "cuda":
                device = upscaler.device
            sink = VideoSink(
                place.file, plan.form, source, cut=job.cut, plan=streams, device=device
            )
            facts, seconds = self._pumped(source, sink, plan, upscaler)
            place.seal()
            verification = account.verified(
                place,
                plan,
                spoilt=account.spoilt(source, sink),
                given=given_by(source, job.options),
            )
            # From here on the output is whole; breaking off would tell an untruth.
            account.progress.publishing()
            place.publish()
        return account.receipt(source, sink, plan, facts, seconds, verification)

    def _place(self, path: Path, data: bytes) -> None:
        again = path in self.placed  # by this job, before it was started over
        place_file(path, data, overwrite=self.account.job.options.overwrite or again)
        self.placed.add(path)

    def _destination(self) -> AbstractContextManager[PartialFile | StandardOutput]:
        if self.account.job.to_stdout:
            return StandardOutput()
        return PartialFile(self.account.job.output, overwrite=self.account.job.options.overwrite)

    def _pumped(
        self, source: VideoSource, sink: Sink, plan: OutputPlan, upscaler: Upscaler | None
    ) -> tuple[Description, float]:
        """Bring all frames through the network; what ran them, and for how many seconds."""
        account = self.account
        try:
            for note in sink.notes:
                account.note(note)
            # Compiling and checking the network is no part of the frame rate.
            info = source.info
            if upscaler is None:
                facts = as_is(info)
            else:
                facts = upscaler.warm_up(info.height, info.width, ahead=expected_frames(source))
                account.note_checks(facts)
                account.note_reuse(facts)
            account.progress.started(account.started(source, plan, facts))
            began = time.monotonic()
            pump(
                source,
                sink,
                upscaler,
                facts,
                plan,
                lambda batch, reused: self._count(info, batch, reused),
                lambda batch, tile: account.met.mend(info, batch, tile),
            )
            sink.finish()
        except BaseException:
            sink.abort()
            raise
        seconds = time.monotonic() - began
        if sink.frames != account.met.frames:
            raise OutputError(
                f"{account.met.frames} frames were upscaled and {sink.frames} written; "
                "please report this"
            )
        account.note_new(source)
        if upscaler is not None:
            account.note_reuse(upscaler.describe(info.height, info.width))
        for note in remarks(source, sink, account.met, cut=account.job.cut):
            account.note(note)
        return facts, seconds

    def _count(self, info: SourceInfo, batch: FrameBatch, reused: Reused) -> None:
        account = self.account
        account.met.count(info, batch, reused)
        account.progress.reused(account.met.reused)
        account.progress.advanced(account.met.frames)
