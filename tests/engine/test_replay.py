"""Recordings repeat what was recorded, on other inputs, without the module's Python."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cuda_double import CudaDouble
from torch import Tensor, nn

from hatvid.engine import TileSpec, cudagraph
from hatvid.engine.cudagraph import WARM_UPS, CudaRuntime
from hatvid.engine.eager import EagerEngine
from hatvid.engine.recorded import RecordedEngine
from hatvid.engine.replay import Replay
from hatvid.engine.runtime import HostRuntime, Recording, Runtime
from hatvid.errors import EngineError, OutOfMemoryError
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig

CPU = torch.device("cpu")
RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "replay": HostRuntime,
    "cudagraph": lambda: CudaRuntime(CPU, CudaDouble()),
}
SHAPES = [(16, 16), (32, 48), (20, 37)]


@pytest.fixture(params=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return RUNTIMES[request.param]()


@pytest.fixture(scope="module")
def forms() -> Forms:
    """Of a small network with both kinds of window, weights redrawn."""
    config = HATConfig(
        embed_dim=24, depths=(2,), num_heads=(2,), squeeze_factor=6, num_feat=8, upscale=4
    )
    generator = torch.Generator().manual_seed(3)
    network = HAT(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return Forms(network)


def _tiles(spec: TileSpec, seed: int) -> Tensor:
    return torch.rand(spec.input_shape, generator=torch.Generator().manual_seed(seed))


def _poison(engine: RecordedEngine) -> None:
    assert engine._recording is not None
    for output in engine._recording.outputs:
        output.fill_(float("nan"))


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_it_is_eager_bit_for_bit_whatever_shape_comes_next(
    runtime: Runtime, forms: Forms, batch: int
) -> None:
    engines = []
    for height, width in SHAPES:
        spec = TileSpec(batch=batch, height=height, width=width, scale=4)
        engines.append(
            (
                RecordedEngine(forms.form(), spec, runtime=runtime, name="replay"),
                EagerEngine(forms.form(), spec),
            )
        )
    for turn in range(2):
        for number, (recorded, eager) in enumerate(engines):
            tiles = _tiles(eager.spec, 10 * turn + number)
            _poison(recorded)
            assert torch.equal(recorded.run(tiles), eager.run(tiles))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_so_are_the_forms_that_a_gpu_gets(
    runtime: Runtime, forms: Forms, precision: str, chunked: bool
) -> None:
    spec = TileSpec(batch=2, height=32, width=32, scale=4)
    form = forms.form(precision, chunked=chunked)
    recorded = RecordedEngine(form, spec, runtime=runtime, name="replay", precision=precision)
    eager = EagerEngine(form, spec, precision=precision)
    for seed in range(2):
        tiles = _tiles(spec, seed)
        _poison(recorded)
        assert torch.equal(recorded.run(tiles), eager.run(tiles))


class _Mute(nn.Module):
    """Raises once ``spoken``: copies of it share that."""

    def __init__(self, net: nn.Module, spoken: list[bool]) -> None:
        super().__init__()
        self.net = net
        self.spoken = spoken

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mute:
        import copy

        return _Mute(copy.deepcopy(self.net, memo), self.spoken)

    def forward(self, x: Tensor) -> Tensor:
        if self.spoken:
            raise AssertionError("Python ran again")
        result: Tensor = self.net(x)
        return result


def test_no_python_of_the_module_runs_again(
    runtime: Runtime, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    spoken: list[bool] = []
    engine = RecordedEngine(_Mute(net, spoken), spec, runtime=runtime, name="replay")
    spoken.append(True)
    with torch.no_grad():
        expected = net(1 - tiles)
    _poison(engine)
    assert torch.equal(engine.run(1 - tiles), expected)


def test_the_output_is_one_buffer(
    runtime: Runtime, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    engine = RecordedEngine(net, spec, runtime=runtime, name="replay")
    first = engine.run(tiles)
    assert engine.run(1 - tiles) is first


def test_the_weights_are_its_own(
    runtime: Runtime, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    import copy

    other = copy.deepcopy(net)
    engine = RecordedEngine(other, spec, runtime=runtime, name="replay")
    with torch.no_grad():
        expected = net(tiles)
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(engine.run(tiles), expected)


class _Reads(nn.Module):
    def __init__(self, net: nn.Module, reads: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.reads = net, reads

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(self.reads(x))
        return result


def _branch(x: Tensor) -> Tensor:
    return x if x.mean() > 0.4 else -x


def _item(x: Tensor) -> Tensor:
    return x * float(x.max())


@pytest.mark.parametrize("reads", [_branch, _item])
def test_what_reads_values_is_refused(
    runtime: Runtime, net: nn.Module, spec: TileSpec, reads: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(EngineError) as caught:
        RecordedEngine(_Reads(net, reads), spec, runtime=runtime, name="replay")
    assert "\n" not in str(caught.value)


class _Hungry(nn.Module):
    """Has no memory until it was asked to take smaller pieces often enough."""

    def __init__(self, net: nn.Module, refusals: int) -> None:
        super().__init__()
        self.net, self.refusals = net, refusals

    def shrink(self) -> bool:
        self.refusals -= 1
        return self.refusals >= 0

    def forward(self, x: Tensor) -> Tensor:
        if self.refusals:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        result: Tensor = self.net(x)
        return result


def test_memory_that_runs_out_makes_pieces_smaller(
    runtime: Runtime, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    engine = RecordedEngine(_Hungry(net, 2), spec, runtime=runtime, name="replay")
    with torch.no_grad():
        assert torch.equal(engine.run(tiles), net(tiles))


class _LeavesAMap(_Hungry):
    """Makes a large tensor before memory runs out, and looks whether it is gone."""

    def __init__(self, net: nn.Module, maps: list[weakref.ref[Tensor]]) -> None:
        super().__init__(net, 1)
        self.maps = maps
        self.alive: list[object] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> _LeavesAMap:
        return self

    def shrink(self) -> bool:
        self.alive += [made() for made in self.maps]
        return super().shrink()

    def forward(self, x: Tensor) -> Tensor:
        feature_map = x.repeat(1, 8, 1, 1)
        if self.refusals:
            self.maps.append(weakref.ref(feature_map))
        return super().forward(x)


def test_maps_of_what_failed_are_gone_before_the_next_try(
    double: CudaDouble, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    """And PyTorch has given them back by then; the same stream is used again, whose
    workspaces are there."""
    maps: list[weakref.ref[Tensor]] = []
    module = _LeavesAMap(net, maps)
    runtime = CudaRuntime(CPU, double)
    engine = RecordedEngine(module, spec, runtime=runtime, name="cudagraph")
    assert len(maps) == 1
    assert module.alive == [None]
    with torch.no_grad():
        assert torch.equal(engine.run(tiles), net(tiles))
    order = [call[0] for call in double.calls]
    assert order.index("empty_cache") < order.index("capture")
    warmed = [call[1] for call in double.calls if call[0] == "warm up on"]
    assert warmed == [warmed[0]] * 2
    assert _captured_on(double) == warmed[:1]


def test_memory_that_runs_out_in_a_capture_breaks_its_end_too(
    double: CudaDouble, net: nn.Module, spec: TileSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def graph(*given: object, **options: object) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")

    class Last(_Hungry):
        def shrink(self) -> bool:
            return False

        def forward(self, x: Tensor) -> Tensor:
            runs.append(0)
            self.refusals = int(len(runs) > WARM_UPS)
            return super().forward(x)

    runs: list[int] = []
    monkeypatch.setattr(double, "graph", graph)
    with pytest.raises(OutOfMemoryError, match="choose a smaller tile"):
        RecordedEngine(Last(net, 0), spec, runtime=CudaRuntime(CPU, double), name="cudagraph")


def test_memory_that_is_not_there_is_said(runtime: Runtime, net: nn.Module, spec: TileSpec) -> None:
    class Never(_Hungry):
        def shrink(self) -> bool:
            return False

    with pytest.raises(OutOfMemoryError, match="choose a smaller tile"):
        RecordedEngine(Never(net, 1), spec, runtime=runtime, name="replay")


def test_a_view_of_an_input_is_copied() -> None:
    """Or the output would follow the input before the next replay."""
    recording = Replay(lambda x: (x[:, :1], x + 1), (torch.zeros(2, 3),))
    recording.inputs[0].fill_(5)
    assert recording.outputs[0].eq(0).all()
    recording.replay()
    assert recording.outputs[0].eq(5).all()
    assert recording.outputs[1].eq(6).all()


def test_compiled_before_it_is_recorded(
    monkeypatch: pytest.MonkeyPatch, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    double = CudaDouble()
    seen: list[Any] = []

    def compile_(module: nn.Module, **options: Any) -> nn.Module:
        seen.append((options, list(double.calls)))
        return module

    monkeypatch.setattr(torch, "compile", compile_)
    engine = RecordedEngine(
        net, spec, runtime=CudaRuntime(CPU, double), name="cudagraph", compiled=True
    )
    ((options, before),) = seen
    assert before == [], "compiled before anything is recorded"
    assert options["options"] == {"triton.cudagraphs": False}
    assert options["dynamic"] is False
    with torch.no_grad():
        assert torch.equal(engine.run(tiles), net(tiles))


@pytest.fixture
def double() -> CudaDouble:
    return CudaDouble()


def test_order_of_warm_up_capture_and_replay(
    double: CudaDouble, net: nn.Module, spec: TileSpec, tiles: Tensor
) -> None:
    engine = RecordedEngine(
        net, spec, runtime=CudaRuntime(torch.device("cpu"), double), name="cudagraph"
    )
    side = double.streams[0].number
    assert double.calls == [
        ("device", "cpu"),
        ("wait_stream", side, -1),  # what made the inputs, before the warm-up reads them
        ("warm up on", side),
        ("wait_stream", -1, side),  # the warm-up, before anything else
        ("capture", side, "thread_local"),  # on the stream that was warmed up
    ]
    double.calls.clear()
    engine.run(tiles)
    assert double.calls == [("replay", -1)]


class _Watched:
    """A lock that tells when somebody comes to it."""

    def __init__(self, came: threading.Event) -> None:
        self.lock, self.came = threading.RLock(), came

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            self.came.set()
            self.lock.acquire()

    def __exit__(self, *reason: object) -> None:
        self.lock.release()


@pytest.mark.parametrize("runs", [1, WARM_UPS + 1], ids=["warming up", "capturing"])
def test_one_capture_at_a_time(
    double: CudaDouble, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    """Whoever else would capture waits, and so does who waits for the device."""
    came = threading.Event()
    monkeypatch.setattr(cudagraph, "_CAPTURING", _Watched(came))
    runtime = CudaRuntime(CPU, double)
    inside: list[str] = []
    at_once: list[list[str]] = []

    def one(x: Tensor) -> tuple[Tensor, ...]:
        inside.append("one")
        if inside.count("one") == runs:
            thread.start()
            came.wait()  # until the other waits for the lock, or is inside as well
            at_once.append(list(inside))
        return (x + 1,)

    def other(x: Tensor) -> tuple[Tensor, ...]:
        inside.append("other")
        came.set()
        return (x + 2,)

    thread = threading.Thread(target=lambda: runtime.record(other, (torch.zeros(1),)))
    runtime.record(one, (torch.zeros(1),))
    thread.join()
    assert at_once == [["one"] * runs]
    assert inside == ["one"] * (WARM_UPS + 1) + ["other"] * (WARM_UPS + 1)


@pytest.mark.parametrize("ask", ["synchronize", "empty_cache"])
def test_the_device_is_left_alone_while_a_graph_is_captured(
    double: CudaDouble, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    came = threading.Event()
    monkeypatch.setattr(cudagraph, "_CAPTURING", _Watched(came))
    asked: list[str] = []

    def answer(device: object = None) -> None:
        asked.append(threading.current_thread().name)
        came.set()

    runtime = CudaRuntime(CPU, double)
    thread = threading.Thread(target=getattr(runtime, ask), name="asks")
    runs: list[list[str]] = []

    def function(x: Tensor) -> tuple[Tensor, ...]:
        if not runs:
            monkeypatch.setattr(double, ask, answer)
            thread.start()
            came.wait()
        runs.append([name for name in asked if name == "asks"])
        return (x + 1,)

    runtime.record(function, (torch.zeros(1),))
    thread.join()
    assert runs == [[]] * (WARM_UPS + 1)
    assert asked[-1] == "asks"


def _captured_on(double: CudaDouble) -> list[int]:
    return [call[1] for call in double.calls if call[0] == "capture"]


def test_no_two_graphs_that_live_have_one_stream() -> None:
    """A stream's cuBLAS workspace is captured with the graph, and goes with it."""
    double = CudaDouble(pool=3)
    runtime = CudaRuntime(CPU, double)

    def record() -> Recording:
        return runtime.record(lambda x: (x + 1,), (torch.zeros(1),))

    for _ in range(5):
        record()  # none lives when the next comes: they take turns on one stream
    assert set(_captured_on(double)) == {0}
    assert double.calls.count(("reset",)) == 5
    kept = [record() for _ in range(3)]
    assert sorted(_captured_on(double)[5:]) == [0, 1, 2]
    with pytest.raises(EngineError, match="close upscalers that are not used"):
        record()
    del kept[1]
    kept.append(record())
    assert _captured_on(double)[-1] == _captured_on(double)[6]


def test_a_stream_is_free_only_when_its_graph_is_gone(double: CudaDouble) -> None:
    """A graph that goes frees the workspaces of its stream, whoever has that by then."""
    runtime = CudaRuntime(CPU, double)
    first = runtime.record(lambda x: (x + 1,), (torch.zeros(1),))
    graph = first._graph  # type: ignore[attr-defined]
    seen: list[Recording] = []

    def reset() -> None:
        seen.append(runtime.record(lambda x: (x + 1,), (torch.zeros(1),)))

    graph.reset = reset
    del first
    one, other = _captured_on(double)
    assert one != other


def test_other_streams_are_of_another_pool() -> None:
    """Work that is given to a stream that captures would be captured."""
    double = CudaDouble(pool=1)
    runtime = CudaRuntime(CPU, double)
    streams = [runtime.stream() for _ in range(3)]
    recording = runtime.record(lambda x: (x + 1,), (torch.zeros(1),))
    streams += [runtime.stream() for _ in range(3)]
    assert recording.outputs
    assert _captured_on(double)[0] not in {stream.number for stream in streams}


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu(forms: Forms, precision: str) -> None:
    device = torch.device("cuda:0")
    spec = TileSpec(batch=2, height=48, width=64, scale=4, device=device)
    form = forms.form(precision)
    recorded = RecordedEngine(
        form, spec, runtime=CudaRuntime(device), name="cudagraph", precision=precision
    )
    eager = EagerEngine(form, spec, precision=precision)
    for seed in range(3):
        tiles = _tiles(spec, seed).to(device)
        _poison(recorded)
        tolerance = 1e-4 if precision == "fp32" else 2e-2
        torch.testing.assert_close(recorded.run(tiles), eager.run(tiles), rtol=0, atol=tolerance)
