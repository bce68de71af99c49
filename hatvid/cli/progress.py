"""How a running job is shown: a bar for people, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from hatvid.cli.lines import one_line
from hatvid.cli.signals import ignore_signals
from hatvid.jobs.progress import Progress, Started
from hatvid.jobs.receipt import Receipt, ShardReceipt
from hatvid.jobs.stills import PictureReceipt
from hatvid.reuse import Reused

__all__ = ["reporter"]


class Reporter(Progress, Protocol):
    """A job's progress with an end, as a context manager."""

    def finished(self, receipt: Receipt | PictureReceipt | ShardReceipt) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def reporter(
    kind: str, *, to_stdout: bool = True, publishing: Callable[[], None] = ignore_signals
) -> Reporter:
    """The one for ``--progress`` bar, json or none.

    Args:
        kind: of the three.
        to_stdout: standard output is free for JSON lines; else they go to standard error.
        publishing: called right before the output gets its name.
    """
    if kind == "json":
        return _JsonLines(sys.stdout if to_stdout else sys.stderr, publishing)
    return _People(publishing, bar=kind == "bar")


class _Rate(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.2f} fps" if speed else "- fps")


class _Share(ProgressColumn):
    """Tiles that took the result of one before; nothing where none did."""

    def render(self, task: Task) -> Text:
        share = task.fields.get("reused", 0.0)
        return Text(f"{share:.0%} reused" if share else "")


class _People:
    """Notes and a summary on standard error; the bar only where that is a terminal."""

    def __init__(self, publishing: Callable[[], None], *, bar: bool) -> None:
        self.publishing = publishing
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = not bar
        self._early: list[str] | None = []
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._verifying: TaskID | None = None
        if bar and self._console.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                _Share(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def note(self, text: str) -> None:
        if self._early is not None:
            # A job that is refused says why and nothing else.
            self._early.append(text)
        else:
            self._print(f"hatvid: {text}")

    def started(self, facts: Started) -> None:
        early, self._early = self._early or [], None
        for text in early:
            self.note(text)
        if self._bars is None:
            if not self._quiet:
                self._print(_headline(facts))
            return
        if self._task is not None:  # the job starts over
            self._bars.remove_task(self._task)
        self._bars.start()
        self._task = self._bars.add_task(
            escape(one_line(_short(facts))), total=facts.frames, completed=facts.done
        )

    def reused(self, tiles: Reused) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, reused=tiles.share)

    def advanced(self, frames: int) -> None:
        if self._bars is None or self._task is None:
            return
        total = self._bars.tasks[0].total
        if total is not None and frames > total:  # the container promised too few
            self._bars.update(self._task, total=None)
        self._bars.update(self._task, completed=frames)

    def verifying(self, frames: int) -> None:
        if self._bars is None:
            return
        if self._verifying is None:
            done = self._bars.tasks[0].completed
            self._verifying = self._bars.add_task("verifying", total=done or None)
        self._bars.update(self._verifying, completed=frames)

    def finished(self, receipt: Receipt | PictureReceipt | ShardReceipt) -> None:
        if self._bars is not None:
            self._bars.stop()
        if not self._quiet:
            self._print(f"hatvid: {_summary(receipt)}")

    def _print(self, text: str) -> None:
        self._console.print(one_line(text), markup=False, emoji=False)


class _JsonLines:
    """One JSON object a line, each with its ``event``."""

    def __init__(self, stream: TextIO, publishing: Callable[[], None]) -> None:
        self._stream = stream
        self.publishing = publishing
        self._began = time.monotonic()
        self._total: int | None = None
        self._done = self._before = 0
        self._reused = Reused()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._print("failed", error=str(error) or type(error).__name__)

    def note(self, text: str) -> None:
        self._print("note", text=text)

    def started(self, facts: Started) -> None:
        self._began = time.monotonic()
        self._total, self._before = facts.frames, facts.done
        self._print("started", **asdict(facts))

    def reused(self, tiles: Reused) -> None:
        self._reused = tiles

    def advanced(self, frames: int) -> None:
        self._done = frames
        seconds = time.monotonic() - self._began
        fps = (frames - self._before) / seconds if seconds > 0 else 0.0
        left = None
        if self._total is not None and fps > 0:
            left = round(max(0, self._total - frames) / fps, 1)
        self._print(
            "progress",
            frames=frames,
            of=self._total,
            fps=round(fps, 3),
            eta=left,
            reused=asdict(self._reused),
        )

    def verifying(self, frames: int) -> None:
        self._print("verifying", frames=frames, of=self._done)

    def finished(self, receipt: Receipt | PictureReceipt | ShardReceipt) -> None:
        self._print("finished", **receipt.as_dict())

    def _print(self, event: str, **values: Any) -> None:
        self._stream.write(json.dumps({"event": event, **values}) + "\n")
        self._stream.flush()


def _summary(receipt: Receipt | PictureReceipt | ShardReceipt) -> str:
    if isinstance(receipt, ShardReceipt):
        return (
            f"{receipt.output}: {receipt.frames} frames in {receipt.seconds:.1f} s; of the whole, "
            f"{receipt.done} of {receipt.segments} segments are done"
        )
    size = f"{receipt.width}x{receipt.height}"
    if isinstance(receipt, PictureReceipt):
        one = receipt.frames == 1
        what = size if one else f"{receipt.frames} pictures, up to {size},"
        return f"{receipt.output}: {what} in {receipt.seconds:.1f} s"
    copied = sum(fate.fate == "copied" for fate in receipt.streams)
    streams = f", {copied} stream{'s' * (copied != 1)} copied" if copied else ""
    verified = ""
    if receipt.verification is not None:
        failed, checks = len(receipt.verification.failed), len(receipt.verification.checks)
        verified = f", verified in {checks - failed}{f' of {checks}' if failed else ''} checks"
    share = receipt.reused.share
    reused = f", {share:.0%} of the tiles reused" if share else ""
    return (
        f"{receipt.output}: {size}, {receipt.frames} frames in {receipt.seconds:.1f} s "
        f"({receipt.fps:.2f} fps){reused}{streams}{verified}"
    )


def _engine(facts: Started) -> str:
    height, width = facts.tile
    tiles = "whole frame" if facts.tiles == 1 else f"{facts.tiles} tiles {width}x{height}"
    kernel = "" if facts.kernel == "default" else f" {facts.kernel}"
    return f"{facts.engine} {facts.precision}{kernel}, {tiles}"


def _checked(facts: Started) -> str:
    """What the checks of the engine found."""
    snr = "" if facts.snr is None else f", {facts.snr:.0f} dB"
    return snr + "".join(f", not {each}" for each in facts.refused)


def _short(facts: Started) -> str:
    return "encoding" if facts.scale == 1 else f"{facts.model} on {_engine(facts)}"


def _headline(facts: Started) -> str:
    frames = f"{facts.frames} frames" if facts.frames else "frames"
    engine = f"{_engine(facts)}{_checked(facts)}"
    how = f"to {facts.width}x{facts.height} by {facts.model} on {facts.device} ({engine})"
    if facts.scale == 1:  # of a script
        how = f"of {facts.width}x{facts.height} as they are"
    return f"hatvid: {facts.input} -> {facts.output}: {frames} {how}, {facts.codec} {facts.pix_fmt}"
