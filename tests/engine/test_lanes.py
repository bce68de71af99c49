"""Several on their way at once, in an order that is drawn at random but for events."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from cuda_double import CudaDouble, Event, Stream
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hatvid.engine.cudagraph import CudaRuntime
from hatvid.engine.lanes import Lanes
from hatvid.engine.runtime import HostRuntime, Recording, Runtime

CPU = torch.device("cpu")
SEEDS = range(12)
HELD = 3


def _record(runtime: Runtime, offset: float) -> Recording:
    inputs = (torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.uint8))
    return runtime.record(lambda a, b: (a * 2 + offset, b + 1, a.sum(1) + b.sum(1)), inputs)


def _given(number: int, rows: int = 2) -> tuple[Tensor, Tensor]:
    return (torch.full((rows, 4), float(number)), torch.full((rows, 3), number, dtype=torch.uint8))


def _run(runtime: Runtime, streams: int, count: int = 20) -> None:
    """Send numbered items through and look at each that lands, some time later."""
    programs = [_record(runtime, 0.5) for _ in range(streams)]
    lanes: Lanes[int] = Lanes(runtime, programs, held=HELD)
    landed = []
    kept: list[tuple[int, tuple[Tensor, ...], Callable[[], None]]] = []

    def look(least: int) -> None:
        while len(kept) > least:
            number, outputs, release = kept.pop(0)
            assert outputs[0].eq(2 * number + 0.5).all(), number
            assert outputs[1].eq(number + 1).all(), number
            assert outputs[2].eq(7 * number).all(), number
            release()
            landed.append(number)

    def collect() -> None:
        done = lanes.collect()
        kept.append((done.item, done.outputs, done.release))
        look(HELD)

    for number in range(count):
        if lanes.full:
            collect()
        given = _given(number)
        lanes.submit(given, number)
        for tensor in given:
            tensor.fill_(99)  # the caller's own again
    while lanes:
        collect()
    look(0)
    assert landed == list(range(count))


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_each_comes_back_as_it_was_sent(streams: int) -> None:
    _run(HostRuntime(), streams)
    for seed in SEEDS:
        _run(CudaRuntime(CPU, CudaDouble(seed)), streams)


class _Deaf(CudaRuntime):
    """Its events let every stream pass that comes ``which``-th to one of them."""

    def __init__(self, double: CudaDouble, which: int) -> None:
        super().__init__(CPU, double)
        self.which = which
        self.made: list[Event] = []

    def event(self) -> Event:
        number = len(self.made) % 3  # uploaded, computed, downloaded
        event = _Open() if number == self.which else Event(self._cuda)
        self.made.append(event)  # type: ignore[arg-type]
        return event  # type: ignore[return-value]


class _Open:
    """An event that nothing waits for."""

    def record(self, stream: Stream) -> None:
        pass

    def wait(self, stream: Stream) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.mark.parametrize("which", [0, 1, 2], ids=["uploaded", "computed", "downloaded"])
def test_without_any_one_event_it_goes_wrong(which: int) -> None:
    def run_all() -> None:
        for seed in SEEDS:
            _run(_Deaf(CudaDouble(seed), which), 2)

    with pytest.raises(AssertionError):
        run_all()


class _LateDefaultStream(TorchDispatchMode):
    """The default stream, behind with its work.

    A clone is filled when the stream gets there, which may be after an upload; and memory
    that is allocated on it may be what work before still writes to.
    """

    def __init__(self, double: CudaDouble) -> None:
        super().__init__()
        self.double, self.late = double, double.Stream()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.double.current_stream().number == -1:
            aten = torch.ops.aten
            if func is aten.clone.default:
                values = result.clone()
                self.double.enqueue(self.late, "work", lambda: result.copy_(values))
            if func is aten.empty_like.default:
                self.double.enqueue(self.late, "work", lambda: result.fill_(77))
        return result


def test_buffers_belong_to_the_stream_that_fills_them() -> None:
    """Not to the default stream, which nothing waits for: red with ``clone()``, and with
    ``empty_like`` outside of the stream."""
    for seed in SEEDS:
        double = CudaDouble(seed)
        runtime = CudaRuntime(CPU, double)
        program = _record(runtime, 0.5)
        with _LateDefaultStream(double):
            lanes: Lanes[int] = Lanes(runtime, [program], held=0)
        for number in (4, 5):
            lanes.submit(_given(number), number)
        for number in (4, 5):
            landed = lanes.collect()
            assert landed.outputs[0].eq(2 * number + 0.5).all()
            assert landed.outputs[1].eq(number + 1).all()
            assert landed.outputs[2].eq(7 * number).all()


def test_calls_of_one_frame_in_their_order() -> None:
    double = CudaDouble()
    runtime = CudaRuntime(CPU, double)
    program = _record(runtime, 0)
    lanes: Lanes[str] = Lanes(runtime, [program], held=0)
    upload, download, compute = (stream.number for stream in double.streams[-3:])
    double.calls.clear()
    lanes.submit(_given(1), "frame")
    assert double.calls == [
        ("copy", upload),
        ("copy", upload),
        ("copy", compute),
        ("copy", compute),
        ("replay", compute),
        ("copy", compute),
        ("copy", compute),
        ("copy", compute),
        ("copy", download),
        ("copy", download),
        ("copy", download),
    ]


def test_a_short_batch_is_filled_up_with_its_last_row() -> None:
    lanes: Lanes[int] = Lanes(HostRuntime(), [_record(HostRuntime(), 0)], held=0)
    lanes.submit(_given(7), 0)
    lanes.collect().release()
    lanes.submit(_given(3, rows=1), 1)
    assert lanes.collect().outputs[0].eq(6).all()


def test_outputs_can_stay_on_the_device() -> None:
    for seed in SEEDS:
        double = CudaDouble(seed)
        runtime = CudaRuntime(CPU, double)
        lanes: Lanes[int] = Lanes(runtime, [_record(runtime, 0)], held=1, download=False)
        lanes.submit(_given(2), 0)
        lanes.submit(_given(5), 1)
        one, other = lanes.collect(), lanes.collect()
        assert one.outputs[0].eq(4).all()
        assert other.outputs[0].eq(10).all()


# How long it all takes, by a clock of the double's own.


class _Timed:
    """A program that does nothing for a while."""

    def __init__(self, double: CudaDouble) -> None:
        self.double = double
        self.inputs = (torch.zeros(1),)
        self.outputs = (torch.zeros(1),)

    def replay(self) -> None:
        self.double.work("replay", lambda: None)


READ_AHEAD, WRITE_BEHIND = 16, 4


def _simulate(
    *, decode: float, upload: float, compute: float, download: float, encode: float, frames: int
) -> tuple[float, CudaDouble, Stream]:
    """The three threads of a job about real lanes, with stages of given lengths.

    Returns:
        When the last frame is encoded, the double, and the stream that computes.
    """
    lengths: dict[int, float] = {}

    def cost(kind: str, stream: Stream) -> float:
        if kind == "replay":
            return compute
        return lengths.get(stream.number, 0.0)

    double = CudaDouble(cost=cost)
    lanes: Lanes[int] = Lanes(CudaRuntime(CPU, double), [_Timed(double)], held=WRITE_BEHIND + 1)
    up, down, computing = double.streams[-3:]
    lengths.update({up.number: upload, down.number: download})
    decoded = 0.0
    taken: list[float] = []  # when the compute thread took each frame
    begun: list[float] = []  # when the encoder began with each
    ended: list[float] = []

    def put() -> None:
        landed = lanes.collect()
        landed.release()
        if len(begun) > WRITE_BEHIND:  # no room before that one has left the queue
            double.now = max(double.now, begun[-WRITE_BEHIND])
        begun.append(max(double.now, ended[-1] if ended else 0.0))
        ended.append(begun[-1] + encode)

    for number in range(frames):
        if number > READ_AHEAD:
            decoded = max(decoded, taken[number - READ_AHEAD - 1])
        decoded += decode
        if lanes.full:
            put()
        double.now = max(double.now, decoded)
        taken.append(double.now)
        lanes.submit((torch.zeros(1),), number)
    while lanes:
        put()
    return ended[-1], double, computing


def _gaps(stream: Stream) -> list[float]:
    return [start - end for (_, end), (start, _) in pairwise(stream.busy)]


@pytest.mark.parametrize("copies", [0.1, 1.0, 9.9])
@pytest.mark.parametrize("threads", [0.1, 5.0, 9.9])
def test_the_gpu_never_waits_where_it_is_the_slowest(copies: float, threads: float) -> None:
    frames = 60
    last, _, computing = _simulate(
        decode=threads,
        upload=copies,
        compute=10,
        download=copies,
        encode=threads,
        frames=frames,
    )
    assert len(computing.busy) == frames
    assert max(_gaps(computing)) < 1e-9
    # What is not computing: the first frame on its way in, the last on its way out; an encoder
    # that is nearly as slow gets its last frames a little late.
    late = last - (10 * frames + 2 * threads + 2 * copies)
    assert -1e-9 < late < 10


@pytest.mark.parametrize("slowest", ["decode", "upload", "download", "encode"])
def test_else_the_slowest_stage_is_all_that_counts(slowest: str) -> None:
    lengths = {"decode": 3.0, "upload": 3.0, "download": 3.0, "encode": 3.0, slowest: 12.0}
    frames = 60
    last, _, _ = _simulate(compute=10, frames=frames, **lengths)
    assert last < 12 * frames + 40


def test_the_clock_would_tell() -> None:
    """Were each frame waited for before the next is sent, stages would add up."""
    double = CudaDouble(cost=lambda kind, stream: 10.0 if kind == "replay" else 1.0)
    lanes: Lanes[int] = Lanes(CudaRuntime(CPU, double), [_Timed(double)], held=1)
    computing = double.streams[-1]
    for number in range(5):
        lanes.submit((torch.zeros(1),), number)
        lanes.collect().release()
    replays = [begin for begin, end in computing.busy if end - begin > 5]
    gaps = [later - earlier - 10 for earlier, later in pairwise(replays)]
    assert min(gaps) > 3


@pytest.mark.needs_cuda
@pytest.mark.parametrize("streams", [1, 3])
def test_on_a_gpu(streams: int) -> None:
    device = torch.device("cuda:0")
    runtime = CudaRuntime(device)

    def program() -> Recording:
        inputs = (torch.zeros(2, 512, 512, device=device),)

        def function(x: Tensor) -> tuple[Tensor, ...]:
            for _ in range(20):  # long enough for a copy that does not wait to come too early
                x = x @ torch.eye(512, device=device)
            return (x + 1,)

        return runtime.record(function, inputs)

    lanes: Lanes[int] = Lanes(runtime, [program() for _ in range(streams)], held=1)
    for number in range(50):
        if lanes.full:
            landed = lanes.collect()
            assert landed.outputs[0].eq(landed.item + 1).all()
            landed.release()
        lanes.submit((torch.full((2, 512, 512), float(number)),), number)
    while lanes:
        landed = lanes.collect()
        assert landed.outputs[0].eq(landed.item + 1).all()
        landed.release()
