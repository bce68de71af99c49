"""Several processes of this machine, each with an upscaler of its own, that share segments.

Each is given one stretch of segments at a time and stores them in the journal by itself. One
that dies is replaced, and what it had not stored is given out again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from hatvid.errors import EngineError, HatvidError
from hatvid.jobs.fingerprint import device_kind
from hatvid.jobs.job import Job
from hatvid.jobs.records import Record
from hatvid.jobs.segment import Segment, spans
from hatvid.jobs.upscalers import own_upscaler
from hatvid.jobs.worker import Task, Worker
from hatvid.reuse import Reused
from hatvid.upscaler import Description

__all__ = ["Assignment", "devices_for", "equipped", "share", "stretches"]

_DEATHS = 3
"""Workers that one segment may cost before the job gives up."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What makes a worker, wherever it runs.

    Args:
        task: of the job.
        job: with all that ``auto`` stands for decided, and the device of this worker.
        scale: of its model, None where the model decides.
        facts: what every worker's upscaler has to come to.
        kind: of device, likewise.
    """

    task: Task
    job: Job
    scale: int | None
    facts: Description
    kind: str

    def on(self, device: str) -> Assignment:
        """The same on another device."""
        engine = replace(self.job.options.engine, device=device)
        job = replace(self.job, options=replace(self.job.options, engine=engine))
        return replace(self, job=job)


@contextmanager
def equipped(assignment: Assignment) -> Iterator[Worker]:
    """Build a worker's upscaler, and see that it is as the others'.

    Raises:
        EngineError: it is another one, whose packets would differ.
        HatvidError: it cannot be built.
    """
    info = assignment.task.course.info
    with own_upscaler(assignment.job, assignment.scale) as upscaler:
        facts = upscaler.warm_up(info.height, info.width)
        wanted = assignment.facts
        here = replace(facts, device=wanted.device, fidelity=wanted.fidelity, reuse=wanted.reuse)
        kind = device_kind(facts.device)
        if here != wanted or kind != assignment.kind:
            raise EngineError(
                f"a worker on {facts.device} ({kind}) does not compute as the others do "
                f"({assignment.kind}); name devices of one kind with --workers"
            )
        reading = assignment.task.course.reading
        stay = upscaler.device if reading.hwaccel == "cuda" else None
        yield Worker(assignment.task, upscaler, facts, device=stay if _on_gpu(stay) else None)


def devices_for(workers: int | tuple[str, ...]) -> tuple[str, ...]:
    """A device for each worker.

    Args:
        workers: as in :class:`~hatvid.segment_options.SegmentOptions`.
    """
    if isinstance(workers, tuple):
        return workers
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = workers or max(1, gpus)
    return tuple(f"cuda:{number % gpus}" if gpus else "cpu" for number in range(count))


def stretches(segments: Sequence[Segment], workers: int, *, seeks: bool) -> list[list[Segment]]:
    """Parts to give out one by one: single segments, or where each would have to be decoded
    from the beginning of the file, as few as there are workers."""
    if seeks:
        return [[segment] for segment in segments]
    found = []
    for span in spans(segments):
        length = max(1, -(-len(span) // workers))
        found += [span[begin : begin + length] for begin in range(0, len(span), length)]
    return found


def share(
    assignment: Assignment,
    devices: Sequence[str],
    segments: Sequence[Segment],
    *,
    advanced: Callable[[int, Reused], None],
    finished: Callable[[Record], None],
    note: Callable[[str], None],
) -> None:
    """Let one process for each device work until all segments are stored.

    Args:
        advanced: told how many more frames are computed, and what of them did not have to
            be, from this thread; likewise
        finished: of each segment that is stored.
        note: told of workers that died.

    Raises:
        HatvidError: what a worker met with; what is stored by then stays.
    """
    seeks = assignment.task.course.scan.steady
    parts = stretches(segments, len(devices), seeks=seeks)
    crew = _Crew(assignment, deque(parts), advanced, finished, note)
    try:
        for device in devices[: len(parts)]:
            crew.hire(device)
        while crew.hands:
            crew.listen()
    finally:
        crew.dismiss()


@dataclass
class _Hand:
    """One process, and what it has to do."""

    process: BaseProcess
    line: Connection
    device: str
    part: list[Segment] = field(default_factory=list)


class _Crew:
    """The processes of :func:`share`."""

    def __init__(
        self,
        assignment: Assignment,
        parts: deque[list[Segment]],
        advanced: Callable[[int, Reused], None],
        finished: Callable[[Record], None],
        note: Callable[[str], None],
    ) -> None:
        self._assignment = assignment
        self._parts = parts
        self._advanced = advanced
        self._finished = finished
        self._note = note
        self._deaths: Counter[int] = Counter()
        # Not forked: PyTorch and CUDA do not survive that.
        self._spawn = multiprocessing.get_context("spawn")
        self.hands: list[_Hand] = []

    def hire(self, device: str) -> None:
        line, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=_serve, args=(theirs, self._assignment.on(device)), daemon=True
        )
        process.start()
        theirs.close()
        self.hands.append(_Hand(process, line, device))

    def listen(self) -> None:
        """Take what workers say until one of them is idle, or gone."""
        for line in wait([hand.line for hand in self.hands]):
            hand = next(hand for hand in self.hands if hand.line is line)
            try:
                word, value = hand.line.recv()
            except (EOFError, ConnectionError):
                self._bury(hand)
                continue
            if word == "advanced":
                self._advanced(*value)
            elif word == "stored":
                hand.part = [s for s in hand.part if s.number != value.number]
                self._finished(value)
            elif word == "failed":
                raise value
            elif self._parts:  # it is idle
                hand.part = self._parts.popleft()
                with contextlib.suppress(ConnectionError):
                    hand.line.send(hand.part)
            else:
                self._pay_off(hand)

    def dismiss(self) -> None:
        """Leave nothing running."""
        for hand in self.hands:
            hand.process.kill()
        for hand in self.hands:
            hand.process.join()
            hand.line.close()

    def _pay_off(self, hand: _Hand) -> None:
        self.hands.remove(hand)
        with contextlib.suppress(ConnectionError):
            hand.line.send(None)
        hand.process.join()
        hand.line.close()

    def _bury(self, hand: _Hand) -> None:
        """A worker is gone without a word: another one takes its place."""
        self.hands.remove(hand)
        hand.process.join()
        hand.line.close()
        what = f"a worker on {hand.device} died (exit code {hand.process.exitcode})"
        at = hand.part[0].number if hand.part else -1
        self._deaths[at] += 1
        if self._deaths[at] >= _DEATHS:
            where = f"at segment {at}" if hand.part else "before its first segment"
            raise EngineError(
                f"{what}, as {_DEATHS - 1} others did {where}; look at the system's log (memory?)"
            )
        if hand.part:
            self._parts.appendleft(hand.part)
        self._note(f"{what}; another one takes its place")
        self.hire(hand.device)


def _serve(line: Connection, assignment: Assignment) -> None:
    """A worker's whole life."""
    # Ctrl-C reaches every process of a terminal; what it means is the first one's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def say(word: str, value: Any = None) -> None:
        line.send((word, value))

    try:
        with equipped(assignment) as worker:
            say("idle")
            while (part := line.recv()) is not None:
                worker.work(
                    part,
                    advanced=lambda frames, reused: say("advanced", (frames, reused)),
                    finished=lambda record: say("stored", record),
                )
                say("idle")
    except (EOFError, ConnectionError):
        return  # the job has gone, and with it all reason to work
    except HatvidError as error:
        error.__cause__ = error.__context__ = None  # these may not travel
        with contextlib.suppress(ConnectionError):
            say("failed", error)


def _on_gpu(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"
