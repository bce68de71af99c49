"""A double of torch_tensorrt, tensorrt and the GPU, which runs plans on the CPU.

Calls are held to the signatures in tests/data/torch_tensorrt.json. A plan is the exported
program itself; it is run as Torch-TensorRT's converters read it, on the memory whose
addresses TensorRT was given, and only on a stream.

Used by::

    DOUBLE = runpy.run_path(str(Path(__file__).with_name("tensorrt_double.py")))
    double, build = DOUBLE["double"], DOUBLE["build"]  # fixtures
"""

from __future__ import annotations

import ctypes
import io
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from hatvid.engine import TileSpec
from hatvid.engine.tensorrt import TensorRTEngine

FACTS = json.loads(Path(__file__).parents[1].joinpath("data", "torch_tensorrt.json").read_text())
LOG = "torch_tensorrt [TensorRT Conversion Context]"
NAME = b"double\n"


class AsConverted(fx.Interpreter):
    """Reads two operators as the converters of 2.14 do: ``dtype=`` of a mean is not looked
    at (impl/reduce.py), and a number beside a tensor gets the tensor's dtype
    (impl/elementwise/base.py)."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        aten = torch.ops.aten
        if target in (aten.mean.dim, aten.mean.default):
            kwargs = {name: value for name, value in kwargs.items() if name != "dtype"}
        if target in (aten.mul.Tensor, aten.div.Tensor) and not isinstance(args[1], Tensor):
            args = (args[0], torch.tensor(args[1], dtype=args[0].dtype))
        if target in (aten.conv2d.default, aten.linear.default):
            # Weights follow what comes in (impl/conv.py).
            args = (args[0], *(a.to(args[0].dtype) for a in args[1:3]), *args[3:])
        if target is aten._assert_tensor_metadata.default:
            return None  # taken out before conversion (lowering/passes/remove_assert_nodes.py)
        return super().call_function(target, args, kwargs)


class Streams:
    """What is called of torch.cuda, with a log of what happens in which order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.default = Stream(self, "default", 0)
        self.current = self.default
        self.made = 0
        self.properties = SimpleNamespace(
            name="GPU", major=8, minor=9, multi_processor_count=128, total_memory=2**34
        )

    def new(self, device: torch.device) -> Stream:
        self.made += 1
        return Stream(self, f"stream{self.made}", self.made)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before


class Stream:
    def __init__(self, streams: Streams, name: str, number: int) -> None:
        self.streams, self.name, self.cuda_stream = streams, name, number

    def wait_stream(self, other: Stream) -> None:
        self.streams.log.append(f"{self.name} waits for {other.name}")


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.names

    def execute_async_v3(self, stream: int) -> bool:
        double = self.engine.double
        assert stream != 0, "the default stream"
        double.streams.log.append(f"run on stream{stream}")
        if double.refuses:
            return False
        names = self.engine.names
        with torch.inference_mode():
            result = AsConverted(self.engine.program.module()).run(self._memory(names[0]))
            self._memory(names[1]).copy_(result)
        return True

    def _memory(self, name: str) -> Tensor:
        shape = self.engine.shapes[name]
        size = math.prod(shape)
        floats = (ctypes.c_float * size).from_address(self.addresses[name])
        return torch.frombuffer(floats, dtype=torch.float32).view(shape)


class Engine:
    def __init__(self, double: Double, plan: bytes) -> None:
        self.double = double
        head, _, program = plan.removeprefix(NAME).partition(b"\n")
        self.names: list[str] = json.loads(head)
        self.program = torch.export.load(io.BytesIO(program))
        nodes = self.program.graph_module.graph
        given = next(
            node for node in nodes.nodes if node.name in self.program.graph_signature.user_inputs
        )
        (results,) = nodes.output_node().args
        self.values = dict(
            zip(self.names, (given.meta["val"], results[0].meta["val"]), strict=True)
        )
        self.shapes = {name: tuple(value.shape) for name, value in self.values.items()}
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.values[name].dtype)

    def create_execution_context(self, strategy: object) -> Context | None:
        return None if self.double.no_context else Context(self)


class Double:
    """What a test may look at, and how it makes calls fail.

    Attributes:
        conversions: arguments of each, but for program and inputs.
        fails: raised instead of converting.
        says: what TensorRT logs as errors while it converts.
        no_context: execution contexts cannot be made.
        refuses: work cannot be queued.
    """

    def __init__(self) -> None:
        self.streams = Streams()
        self.conversions: list[dict[str, Any]] = []
        self.fails: BaseException | None = None
        self.says: list[str] = []
        self.no_context = self.refuses = False

    def convert(self, exported_program: Any, **options: Any) -> bytes:
        assert set(options) <= set(FACTS["convert"]), "it would be ignored without a word"
        assert options.pop("device") == torch.device("cpu", 0)
        (example,) = options.pop("arg_inputs")
        self.conversions.append(options)
        timing = Path(options["timing_cache_path"])
        assert timing.parent.stat().st_mode & 0o777 == 0o700
        timing.write_bytes(b"timings")
        warnings.warn("Interpretation will fail due to missing operations", stacklevel=1)
        for text in self.says:
            logging.getLogger(LOG).error(text)
        if self.fails is not None:
            network = "\n".join(["GraphModule(", *["  node"] * 1000])
            logging.getLogger("torch_tensorrt.dynamo._compiler").error(network)
            raise RuntimeError(f"Conversion of module {network} failed") from self.fails
        # As the compiler holds names to the trees of what goes in and comes out.
        signature = exported_program.module_call_graph[0].signature
        flatten = torch.utils._pytree.tree_flatten
        inputs, inputs_tree = flatten(options["arg_input_binding_names"])
        outputs, outputs_tree = flatten(options["output_binding_names"])
        assert inputs_tree == signature.in_spec.child(0)
        assert outputs_tree == signature.out_spec
        assert flatten((example,))[1] == inputs_tree
        buffer = io.BytesIO()
        torch.export.save(exported_program, buffer)
        return NAME + json.dumps(inputs + outputs).encode() + b"\n" + buffer.getvalue()

    def deserialize(self, plan: bytes) -> Engine | None:
        return Engine(self, plan) if plan.startswith(NAME) else None


def install(patch: pytest.MonkeyPatch) -> Double:
    """Put doubles in the place of both packages and of torch.cuda."""
    double = Double()
    torch_tensorrt, tensorrt = ModuleType("torch_tensorrt"), ModuleType("tensorrt")
    packages: tuple[tuple[Any, dict[str, Any]], ...] = (
        (
            torch_tensorrt,
            {
                "__version__": FACTS["torch_tensorrt"],
                "dynamo": SimpleNamespace(
                    convert_exported_program_to_serialized_trt_engine=double.convert
                ),
                "logging": SimpleNamespace(TRT_LOGGER=object()),
            },
        ),
        (
            tensorrt,
            {
                "__version__": FACTS["tensorrt"],
                "DataType": SimpleNamespace(FLOAT="torch.float32"),
                "ExecutionContextAllocationStrategy": SimpleNamespace(STATIC=object()),
                "Runtime": lambda logger: SimpleNamespace(
                    deserialize_cuda_engine=double.deserialize
                ),
            },
        ),
    )
    for module, names in packages:
        vars(module).update(names, __spec__=ModuleSpec(module.__name__, None))
        patch.setitem(sys.modules, module.__name__, module)

    streams = double.streams
    for name, value in {
        "Stream": streams.new,
        "current_device": lambda: 0,
        "current_stream": lambda device: streams.current,
        "default_stream": lambda device: streams.default,
        "device": lambda device: torch.device(device),  # a context manager, too
        "get_device_properties": lambda device: streams.properties,
        "stream": streams.on,
        "synchronize": lambda device: streams.log.append("synchronize"),
    }.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr("hatvid.engine.tensorrt.DEVICE", "cpu")
    patch.setattr("hatvid.engine.tensorrt._driver", lambda: "610.1")
    return double


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(monkeypatch)


@pytest.fixture
def build(
    double: Double, net: nn.Module, spec: TileSpec, tmp_path: Path
) -> Callable[..., TensorRTEngine]:
    def make(**changes: Any) -> TensorRTEngine:
        arguments: dict[str, Any] = {
            "module": net,
            "spec": spec,
            "precision": "fp32",
            "fingerprint": "weights",
            "cache_dir": tmp_path / "cache",
        }
        arguments |= changes
        return TensorRTEngine(arguments.pop("module"), arguments.pop("spec"), **arguments)

    return make
