"""``torch.cuda`` without a GPU: streams that really run late, graphs that really repeat.

Work that is given to a stream is queued. When the host waits for an event, queues are
worked off in an order drawn at random, held back by nothing but events: whoever forgot to
wait for something sees it unfinished, sooner or later. A captured graph is the list of
operators that ran, with the very tensors they ran on; a replay runs them on the same
memory. Every call is written down in ``calls``.

Beside it a clock runs: ``cost`` tells how long what takes, and events know when they happen.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Work = Callable[[], None]
Cost = Callable[[str, "Stream"], float]


class Stream:
    def __init__(self, cuda: CudaDouble, number: int) -> None:
        self.cuda = cuda
        self.number = number
        self.queue: deque[tuple[str, Any]] = deque()
        self.time = 0.0
        self.busy: list[tuple[float, float]] = []

    def __repr__(self) -> str:
        return f"stream {self.number}"

    def wait_stream(self, other: Stream) -> None:
        self.cuda.calls.append(("wait_stream", self.number, other.number))
        event = Event(self.cuda)
        event.record(other)
        event.wait(self)


class Event:
    def __init__(self, cuda: CudaDouble) -> None:
        self.cuda = cuda
        self.asked = self.reached = 0
        self.time = 0.0

    def record(self, stream: Stream) -> None:
        self.asked += 1
        self.time = stream.time
        self.cuda.enqueue(stream, "record", (self, self.asked))

    def wait(self, stream: Stream) -> None:
        stream.time = max(stream.time, self.time)
        self.cuda.enqueue(stream, "wait", (self, self.asked))

    def synchronize(self) -> None:
        asked = self.asked
        self.cuda.run_until(lambda: self.reached >= asked)
        self.cuda.now = max(self.cuda.now, self.time)


class CUDAGraph:
    def __init__(self, cuda: CudaDouble) -> None:
        self.cuda = cuda
        self.operators: list[Work] = []
        self.ended = False

    def reset(self) -> None:
        self.cuda.calls.append(("reset",))
        self.operators.clear()

    def replay(self) -> None:
        assert self.ended, "replayed before its capture ended"
        self.cuda.calls.append(("replay", self.cuda.current_stream().number))
        self.cuda.work("replay", self._run)

    def _run(self) -> None:
        for operator in self.operators:
            operator()


class _Capture(TorchDispatchMode):
    """Write each operator down, and how to do it again into the same memory."""

    def __init__(self, graph: CUDAGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.is_view:
            return result
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        kept = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]

        def again() -> None:
            fresh = [
                leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)
            ]
            for old, new in zip(kept, fresh, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

        self.graph.operators.append(again)
        return result


class _Queueing(TorchDispatchMode):
    """Copies go to the stream; views and empty tensors are made at once, as they are no work."""

    def __init__(self, cuda: CudaDouble, stream: Stream) -> None:
        super().__init__()
        self.cuda, self.stream = cuda, stream

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.copy_.default:
            self.cuda.calls.append(("copy", self.stream.number))
            self.cuda.work("copy", lambda: func(*args, **kwargs))
            return args[0]
        no_work = func.is_view or func._schema.name.startswith("prim::")
        assert no_work or func is torch.ops.aten.empty_like.default, f"{func} in a stream"
        return func(*args, **kwargs)


class CudaDouble:
    """What :class:`hatvid.engine.cudagraph.CudaRuntime` calls of ``torch.cuda``.

    Args:
        seed: of the order in which streams get on.
        pool: how many streams of each priority there are; they are handed out in turn.
        cost: how long a kind of work takes on a stream.
    """

    def __init__(
        self, seed: int = 0, cost: Cost = lambda kind, stream: 0.0, pool: int = 32
    ) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.streams: list[Stream] = []
        self.now = 0.0
        self._cost = cost
        self._random = random.Random(seed)
        self._default = Stream(self, -1)
        self._current = self._default
        self._capturing = False
        self._pools: defaultdict[int, deque[Stream]] = defaultdict(deque)
        self._pool_size = pool

    # The names of torch.cuda.

    def is_available(self) -> bool:
        return False

    def Stream(self, device: object = None, priority: int = 0) -> Stream:
        pool = self._pools[priority]
        if len(pool) == self._pool_size:
            pool.rotate(-1)
        else:
            self.streams.append(Stream(self, len(self.streams)))
            pool.append(self.streams[-1])
        return pool[-1]

    def Event(self, *, blocking: bool = False) -> Event:
        return Event(self)

    def CUDAGraph(self) -> CUDAGraph:
        return CUDAGraph(self)

    def current_stream(self, device: object = None) -> Stream:
        return self._current

    @contextmanager
    def device(self, device: object) -> Iterator[None]:
        self.calls.append(("device", str(device)))
        yield

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self._current = self._current, stream
        # Before a capture, work on a side stream runs at once: nothing is beside it yet.
        if stream.number in self._warming:
            self.calls.append(("warm up on", stream.number))
            try:
                yield
            finally:
                self._current = before
            return
        try:
            with _Queueing(self, stream):
                yield
        finally:
            self._current = before

    @contextmanager
    def graph(self, graph: CUDAGraph, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert not self._capturing
        self.synchronize()
        self.calls.append(("capture", stream.number, capture_error_mode))
        before, self._current, self._capturing = self._current, stream, True
        try:
            with _Capture(graph):
                yield
        finally:
            self._current, self._capturing = before, False
        graph.ended = True

    def synchronize(self, device: object = None) -> None:
        self.run_until(lambda: not any(stream.queue for stream in self.streams))
        self.now = max([self.now, *(stream.time for stream in self.streams)])

    def empty_cache(self) -> None:
        self.calls.append(("empty_cache",))

    # The machinery.

    @property
    def _warming(self) -> set[int]:
        """Streams that are to capture and have not yet: they waited for the default stream."""
        warming: set[int] = set()
        for call in self.calls:
            if call[0] == "wait_stream" and call[2] == -1:
                warming.add(call[1])
            if call[0] == "capture":
                warming.discard(call[1])
        return warming

    def work(self, kind: str, run: Work) -> None:
        """Something for the current stream to do."""
        stream = self._current
        if stream is self._default:
            self.synchronize()
            run()
            return
        took = self._cost(kind, stream)
        start = max(stream.time, self.now)
        stream.time = start + took
        if took:
            stream.busy.append((start, stream.time))
        self.enqueue(stream, "work", run)

    def enqueue(self, stream: Stream, kind: str, what: Any) -> None:
        if stream is self._default:
            event, asked = what
            if kind == "record":
                event.reached = asked
            else:
                self.run_until(lambda: event.reached >= asked)
            return
        stream.queue.append((kind, what))

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            ready = [stream for stream in self.streams if self._can_go_on(stream)]
            assert ready, "streams wait for each other for ever"
            self._step(self._random.choice(ready))

    def _can_go_on(self, stream: Stream) -> bool:
        if not stream.queue:
            return False
        kind, what = stream.queue[0]
        return kind != "wait" or what[0].reached >= what[1]

    def _step(self, stream: Stream) -> None:
        kind, what = stream.queue.popleft()
        if kind == "work":
            with torch.no_grad():
                what()
        elif kind == "record":
            what[0].reached = what[1]
