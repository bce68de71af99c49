"""Machines of a Ray cluster that share segments: an actor on each device keeps its engine.

An actor reads the input, and stores segments, where it sees the folders that the job sees;
else it is sent the bytes that its segment takes (:mod:`hatvid.video.excerpt`), and sends
the segment back. What is done lies in the journal in any case: a job whose driver died goes
on from there, and an actor that dies is replaced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import ray
from ray.exceptions import ActorDiedError, RayError

from hatvid.errors import EngineError, HatvidError
from hatvid.jobs.account import Account
from hatvid.jobs.actor import Actor
from hatvid.jobs.crew import Advanced, Finished
from hatvid.jobs.fingerprint import Described, versions_of
from hatvid.jobs.job import Job
from hatvid.jobs.partial import store
from hatvid.jobs.reach import Mark, with_input
from hatvid.jobs.records import Header, Record
from hatvid.jobs.segment import Segment
from hatvid.jobs.upscalers import settled
from hatvid.jobs.worker import Task
from hatvid.jobs.workers import DEATHS, check_alike, stretches

__all__ = ["OnCluster"]

_PATIENCE = 1800
"""Seconds without a word from any worker: engines may have to be compiled."""

_KNOCK = 10
"""Seconds for a machine to answer at all."""

_HERE_TOO = ("version of hatvid", "version of av", "version of FFmpeg")
"""What the driver, which joins but computes nothing, must have in common with the workers."""


class OnCluster:
    """A :class:`~hatvid.jobs.crew.Crew` of Ray actors; use it in a ``with`` block.

    Args:
        account: of the run.
        job: with what an earlier run decided.
        scale: of the model, None where the model decides.
        address: of the cluster, ``auto`` for the one that this machine belongs to,
            ``local`` for one of this machine alone.
        count: of actors; None or 0 is as many as the cluster has devices for.
        most: actors that there is work for.
        size: (height, width) of the frames, in pixels.
        frames: how many there are.

    Raises:
        EngineError: the cluster is not there, or has no such device.
    """

    def __init__(
        self,
        account: Account,
        job: Job,
        scale: int | None,
        *,
        address: str,
        count: int | None,
        most: int,
        size: tuple[int, int],
        frames: int,
    ) -> None:
        self._account = account
        self._job = job
        self._scale = scale
        self._address = address
        self._count = count
        self._most = most
        self._size = size
        self._frames = frames
        self._hands: list[_Hand] = []
        self._connected = False
        self.wanted: Described | None = None
        """What every actor has to come to, once the first was asked."""

    def __enter__(self) -> Self:
        if not ray.is_initialized():  # as by a program that uses Ray itself
            _quiet(True)
            _connect(self._address)
            self._connected = True
        try:
            self._settle_on_devices()
            self._hands = [self._hired() for _ in range(self._actors)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *reason: object) -> None:
        for hand in self._hands:
            hand.dismiss()
        if self._connected:
            ray.shutdown()
            _quiet(False)

    def describe(self) -> Described:
        """See :class:`~hatvid.jobs.crew.Crew`: what the first actor comes to decides."""
        first = self._hands[0]
        first.answers = first.actor.load.remote(self._job, self._frames)
        ready, _ = ray.wait([first.answers], timeout=_PATIENCE)
        if not ready:
            raise _silent()
        try:
            _, found = ray.get(ready[0])
        except RayError as error:
            raise EngineError(
                f"a worker of the cluster cannot begin ({_line(error)}); is hatvid installed on "
                "each node?"
            ) from error
        if isinstance(found, HatvidError):
            raise found
        here = versions_of("")
        for name in _HERE_TOO:
            if found.versions[name] != here[name]:
                raise EngineError(
                    f"the cluster has {found.versions[name]} for {name}, and this machine "
                    f"{here[name]}; install the same everywhere"
                )
        self.wanted = found
        return self.wanted

    def compute(
        self,
        task: Task,
        header: Header,
        segments: Sequence[Segment],
        *,
        advanced: Advanced,
        finished: Finished,
    ) -> None:
        """See :class:`~hatvid.jobs.crew.Crew`; an actor that dies is replaced."""
        decided = replace(self._job, options=settled(self._job.options, header.resolved))
        parts = stretches(segments, self._actors, seeks=task.course.scan.steady)
        for hand in self._hands:
            if hand.sees is None and hand.answers is None:
                hand.answers = hand.actor.load.remote(decided)
        with Mark(task.folder) as mark:
            shift = _Shift(self, decided, task, mark.name, deque(map(_Part, parts)))
            shift.work(self._hands, advanced, finished)

    def hire(self, job: Job) -> _Hand:
        """One more actor, which builds its engine meanwhile."""
        hand = self._hired()
        hand.answers = hand.actor.load.remote(job)
        return hand

    def _hired(self) -> _Hand:
        return _Hand(ray.remote(Actor).options(**self._needs).remote(self._scale, self._size))

    def check(self, where: str, described: Described) -> None:
        """See that an actor computes as the first one does.

        Raises:
            EngineError: it does not.
        """
        assert self.wanted is not None
        mixed = self._account.job.options.segments.mixed
        check_alike(described, self.wanted, mixed=mixed, where=where)
        if described.kind != self.wanted.kind:
            self.note(f"{where} computes on {described.kind}, others on {self.wanted.kind}")

    def note(self, text: str) -> None:
        """A line for the user."""
        self._account.note(text)

    def _settle_on_devices(self) -> None:
        """Decide what each actor gets, and how many there are."""
        options, count = self._job.options, self._count
        told: Any = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node["Resources"] for node in told if node["Alive"]]
        gpus = [int(node.get("GPU", 0)) for node in nodes]
        cores = [int(node.get("CPU", 0)) for node in nodes]
        engine, threads = options.engine, options.engine.threads
        on_gpu = engine.device.startswith("cuda") or (
            engine.device == "auto" and engine.engine not in ("openvino", "replay") and any(gpus)
        )
        beside = -(-(count or len(nodes)) // len(nodes))  # actors on one node
        if on_gpu:
            each = [core // gpu for core, gpu in zip(cores, gpus, strict=True) if gpu]
            threads = threads or max(1, min(each, default=1))
            self._needs = {"num_gpus": 1, "num_cpus": 0}
            room = sum(gpus)
        else:
            threads = threads or max(1, min(filter(None, cores), default=1) // beside)
            self._needs = {"num_gpus": 0, "num_cpus": threads}
            room = sum(core // threads for core in cores)
        if not room:
            raise EngineError(
                f"no node of the cluster has {'a GPU' if on_gpu else f'{threads} cores'}; choose "
                "another --device, or fewer --threads"
            )
        if count and count > room:
            self.note(f"the cluster has room for {room} of {count} workers")
        self._actors = min(count or room, room, self._most)
        engine = replace(
            engine,
            device="cuda" if on_gpu else "cpu",  # Ray shows each actor one GPU
            threads=threads,
            sharers=1 if on_gpu else -(-self._actors // len(nodes)),
        )
        self._job = replace(self._job, options=replace(options, engine=engine))


@dataclass
class _Part:
    """Segments that are given out together; how much of the input is sent with them, see
    :func:`~hatvid.jobs.reach.with_input`."""

    segments: list[Segment]
    level: int = 0


@dataclass
class _Hand:
    """One actor: it loads its network, and then does parts."""

    actor: Any
    answers: Any = None
    """A reference to what it is, or a generator of what it says; None while it is idle."""
    sees: tuple[bool, bool] | None = None
    """The input, and the journal's folder."""
    part: _Part | None = None

    def dismiss(self) -> None:
        with contextlib.suppress(RayError):
            ray.kill(self.actor)


@dataclass
class _Shift:
    """Parts of a task, done by some hands."""

    crew: OnCluster
    job: Job
    task: Task
    mark: str
    parts: deque[_Part]
    deaths: Counter[int] = field(default_factory=Counter)

    def work(self, hands: list[_Hand], advanced: Advanced, finished: Finished) -> None:
        """Until all segments are stored; hands that die are exchanged."""
        while self.parts or any(hand.part is not None for hand in hands):
            for hand in hands:
                if hand.answers is None and self.parts:
                    self._give(hand)
            waited = {hand.answers: hand for hand in hands if hand.answers is not None}
            ready, _ = ray.wait(list(waited), num_returns=1, timeout=_PATIENCE)
            if not ready:
                raise _silent()
            hand = waited[ready[0]]
            try:
                if hand.part is None:
                    self._introduced(hand)
                else:
                    self._heard(hand, advanced, finished)
            except RayError as error:
                hands[hands.index(hand)] = self._replaced(hand, error)

    def _introduced(self, hand: _Hand) -> None:
        where, described = ray.get(hand.answers)
        if isinstance(described, HatvidError):
            raise described
        self.crew.check(where, described)
        asked = hand.actor.sees.remote(self.task.course, self.task.folder, self.mark)
        hand.sees = ray.get(asked)
        hand.answers = None

    def _give(self, hand: _Hand) -> None:
        assert hand.sees is not None
        hand.part = part = self.parts.popleft()
        task = self.task if hand.sees[0] else with_input(self.task, part.segments, part.level)
        method = hand.actor.work.options(num_returns="streaming")
        hand.answers = method.remote(ray.put(task), part.segments, hand.sees[1])

    def _heard(self, hand: _Hand, advanced: Advanced, finished: Finished) -> None:
        part = hand.part
        assert part is not None
        try:
            word, *values = ray.get(next(hand.answers))
        except StopIteration:
            hand.part = hand.answers = None
            return
        if word == "advanced":
            advanced(*values)
        elif word == "stored":
            record, data = values
            if data is not None:
                self._store(record, data)
            part.segments = [s for s in part.segments if s.number != record.number]
            finished(record)
        elif word == "short":
            self.parts.appendleft(_Part(part.segments, part.level + 1))
        else:
            raise values[0]

    def _store(self, record: Record, data: bytes) -> None:
        """Take a segment whose worker does not see the folder; first it, then its record."""
        place = self.task.folder / f"{record.number:05d}"
        store(place.with_suffix(".nut"), data, overwrite=True)
        store(place.with_suffix(".json"), record.model_dump_json().encode(), overwrite=True)

    def _replaced(self, hand: _Hand, error: RayError) -> _Hand:
        """An actor is gone: its work is given out again."""
        part = hand.part
        at = part.segments[0].number if part is not None and part.segments else -1
        self.deaths[at] += 1
        what = "a worker of the cluster died"
        if not isinstance(error, ActorDiedError):
            what += f" ({_line(error)})"
        if self.deaths[at] >= DEATHS:
            where = f"at segment {at}" if at >= 0 else "before its first segment"
            raise EngineError(
                f"{what}, as {DEATHS - 1} others did {where}; look at Ray's logs (memory?)"
            ) from error
        if part is not None and part.segments:
            self.parts.appendleft(part)
        self.crew.note(f"{what}; another one takes its place")
        hand.dismiss()
        return self.crew.hire(self.job)


def _connect(address: str) -> None:
    """Become a driver of a cluster.

    Raises:
        EngineError: it is not there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Who computes on the CPU says so itself; Ray warns where this is left open.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    alone: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        ray.init(
            address=address,
            namespace="hatvid",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **alone,
        )
    except Exception as error:  # Ray raises no more special one where its programs are late
        raise EngineError(
            f"there is no cluster at {address} ({_line(error)}); start one with ray start --head, "
            "or give its address"
        ) from error
    finally:
        # Ray brings handlers of its own; what a signal means to a job is not its business.
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, handler)


def _quiet(quiet: bool) -> None:
    """Keep Ray from printing what it met with on standard output, where a job's progress, or
    its video, may go; ``log_to_driver`` does not. This is the switch that its debugger uses."""
    worker: Any = ray._private.worker
    worker._worker_logs_enabled = not quiet


def _knock(address: str) -> None:
    """See that somebody listens, where Ray itself would try for a minute.

    Raises:
        OSError: nobody does.
    """
    if match := re.fullmatch(r"([^/:]+):(\d+)", address, re.ASCII):
        socket.create_connection((match[1], int(match[2])), timeout=_KNOCK).close()


def _silent() -> EngineError:
    return EngineError(
        f"no worker of the cluster says anything for {_PATIENCE // 60} minutes; are its devices "
        "free? See ray status"
    )


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
