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

from hatvid.engine.devices import gpu_count
from hatvid.errors import EngineError, HatvidError
from hatvid.jobs.account import Account
from hatvid.jobs.crew import Advanced, Finished, stays_on
from hatvid.jobs.fingerprint import Described
from hatvid.jobs.job import Job
from hatvid.jobs.records import Header
from hatvid.jobs.segment import Segment, spans
from hatvid.jobs.upscalers import own_upscaler, settled
from hatvid.jobs.worker import Task, Worker

__all__ = ["Assignment", "DEATHS", "Processes", "check_alike", "devices_for", "stretches"]

DEATHS = 3
"""Workers that one segment may cost before the job gives up."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What makes a worker, wherever it runs.

    Args:
        task: of the job.
        job: with all that ``auto`` stands for decided, and the device of this worker.
        scale: of its model, None where the model decides.
        wanted: what every worker's upscaler has to come to.
        mixed: but for the kind of its device.
    """

    task: Task
    job: Job
    scale: int | None
    wanted: Described
    mixed: bool

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
        check_alike(Described.of(upscaler, facts), assignment.wanted, mixed=assignment.mixed)
        device = stays_on(upscaler, assignment.task.course.reading)
        yield Worker(assignment.task, upscaler, facts, device=device)


def check_alike(here: Described, wanted: Described, *, mixed: bool, where: str = "") -> None:
    """See that a worker computes as the others do.

    Args:
        mixed: devices of several kinds may take part.
        where: it is, for the message.

    Raises:
        EngineError: it does not.
    """
    facts = here.facts
    who = f"a worker on {where or facts.device}"
    for name, version in wanted.versions.items():
        if (own := here.versions.get(name, "nothing")) != version:
            raise EngineError(
                f"{who} has {own} for {name}, and the others {version}; install the same everywhere"
            )
    if here.kind != wanted.kind and not mixed:
        raise EngineError(
            f"{who} ({here.kind}) does not compute as the others do ({wanted.kind}); name devices "
            "of one kind with --workers, or accept other bits in places with --mixed"
        )
    told = wanted.facts
    alike = replace(
        facts,
        device=told.device,
        fidelity=told.fidelity,
        refused=told.refused,
        warning=told.warning,
        reuse=told.reuse,
    )
    if (alike, here.fingerprint) != (wanted.facts, wanted.fingerprint):
        raise EngineError(
            f"{who} came to other settings ({facts.engine}, {facts.precision}, attention "
            f"{facts.kernel}, tiles of {facts.tile_width}x{facts.tile_height}) or another network "
            "than the others; give "
            "--engine, --precision, --tile and --model by name"
        )


def devices_for(workers: int | tuple[str, ...]) -> tuple[str, ...]:
    """A device for each worker.

    Args:
        workers: as in :class:`~hatvid.segment_options.SegmentOptions`.
    """
    if isinstance(workers, tuple):
        return workers
    gpus = gpu_count()
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


class Processes:
    """A :class:`~hatvid.jobs.crew.Crew` of processes, one for each device.

    Args:
        account: of the run.
        job: with what an earlier run decided.
        scale: of the model, None where the model decides.
        devices: of the workers.
        size: (height, width) of the frames, in pixels.
        frames: how many there are.
    """

    def __init__(
        self,
        account: Account,
        job: Job,
        scale: int | None,
        devices: Sequence[str],
        *,
        size: tuple[int, int],
        frames: int,
    ) -> None:
        self._account = account
        self._scale = scale
        self._devices = devices
        self._size = size
        self._frames = frames
        options, threads = job.options, job.options.engine.threads
        engine = replace(
            options.engine,
            device=devices[0],
            threads=threads or max(1, torch.get_num_threads() // len(devices)),
            sharers=Counter(devices).most_common(1)[0][1],
        )
        self._job = replace(job, options=replace(options, engine=engine))
        self._wanted: Described | None = None

    def describe(self) -> Described:
        """See :class:`~hatvid.jobs.crew.Crew`."""
        with own_upscaler(self._job, self._scale) as upscaler:  # each worker has its own
            facts = upscaler.warm_up(*self._size, ahead=self._frames)
            self._account.note_reuse(facts)
            self._wanted = Described.of(upscaler, facts)
        return self._wanted

    def compute(
        self,
        task: Task,
        header: Header,
        segments: Sequence[Segment],
        *,
        advanced: Advanced,
        finished: Finished,
    ) -> None:
        """See :class:`~hatvid.jobs.crew.Crew`; one process that dies is replaced."""
        assert self._wanted is not None
        assignment = Assignment(
            task=task,
            job=replace(self._job, options=settled(self._job.options, header.resolved)),
            scale=self._scale,
            wanted=self._wanted,
            mixed=self._account.job.options.segments.mixed,
        )
        seeks = task.course.scan.steady
        parts = stretches(segments, len(self._devices), seeks=seeks)
        crew = _Crew(assignment, deque(parts), advanced, finished, self._account.note)
        try:
            for device in self._devices[: len(parts)]:
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
    """The processes at work."""

    def __init__(
        self,
        assignment: Assignment,
        parts: deque[list[Segment]],
        advanced: Advanced,
        finished: Finished,
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
        if self._deaths[at] >= DEATHS:
            where = f"at segment {at}" if hand.part else "before its first segment"
            raise EngineError(
                f"{what}, as {DEATHS - 1} others did {where}; look at the system's log (memory?)"
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
