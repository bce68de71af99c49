"""Torch-TensorRT's own lowering and converter registry on HATs, without TensorRT or a GPU.

::

    python tests/engine/torch_tensorrt_without_gpu.py WHEEL

The wheel's Python is imported with a stand-in for ``tensorrt`` whose names are empty
classes, and torch.cuda answers as if there were a GPU. The engine's call then goes all
the way to the point where TensorRT's builder would be asked; there each node is looked up
in the registry, validators included.
"""

from __future__ import annotations

import collections
import runpy
import sys
import tempfile
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

HERE = Path(__file__).parent


class _Any(type):
    """A class whose attributes are classes of its kind, numbers and flags at once."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Any(name, (_Name,), {})
        setattr(cls, name, made)
        return made

    def __int__(cls) -> int:
        return 1


class _Name(metaclass=_Any):
    def __init__(self, *args: object, **kwargs: object) -> None:
        pass


class _Package(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "tensorrt_rtx":
            raise AttributeError(name)
        made = _Any(name, (_Name,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


def _stand_in(name: str, **names: object) -> None:
    package = _Package(name)
    vars(package).update(
        names, __spec__=ModuleSpec(name, None, is_package=True), __path__=[], __file__=name
    )
    sys.modules[name] = package


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            # Without its libraries it takes what it calls its Python runtime.
            if name.endswith((".py", "/METADATA", "/top_level.txt", "/RECORD")):
                archive.extract(name, folder)


def _pretend() -> None:
    for name, answer in {
        "current_device": 0,
        "get_device_capability": (8, 9),
        "get_device_properties": SimpleNamespace(major=8, minor=9, name="GPU"),
        "mem_get_info": (2**34, 2**34),
    }.items():
        setattr(torch.cuda, name, lambda *args, answer=answer: answer)


def main(wheel: Path) -> None:
    """Print the operators of each form, and fail if one has no converter."""
    folder = Path(tempfile.mkdtemp())
    _unpack(wheel, folder)
    sys.path.insert(0, str(folder))
    _stand_in("tensorrt", __version__="11.1.0", __loader__=None)
    sys.modules["tensorrt"].tensorrt = sys.modules["tensorrt"]
    _stand_in("dllist", dllist=lambda: [])
    _pretend()
    import torch_tensorrt
    from torch_tensorrt.dynamo import _compiler
    from torch_tensorrt.dynamo.conversion._conversion import SerializedInterpreterResult
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_CONVERTERS

    from hatvid.engine.tensorrt import _options
    from hatvid.engine.tensorrt_graph import exported

    found: dict[str, collections.Counter[str]] = {}

    def interpret(graph_module: Any, inputs: Any, settings: Any, **names: Any) -> Any:
        assert names["input_binding_names"] == ["tiles"], names
        assert names["output_binding_names"] == ["upscaled"], names
        assert settings.require_full_compilation
        assert not settings.attn_bias_is_causal
        DYNAMO_CONVERTERS.set_compilation_settings(settings)
        nodes = [node for node in graph_module.graph.nodes if node.op.startswith("call_")]
        missing = {str(node.target) for node in nodes if DYNAMO_CONVERTERS.get(node) is None}
        assert not missing, missing
        found["operators"] = collections.Counter(str(node.target) for node in nodes)
        return SerializedInterpreterResult(b"plan", ["tiles"], ["upscaled"], False, {}, False)

    _compiler.interpret_module_to_result = interpret
    tests = runpy.run_path(str(HERE / "test_tensorrt_converters.py"))
    tiles = torch.rand(2, 3, 32, 40)
    for config in (tests["NANO"], tests["HAT_S"], tests["WHOLE"]):
        for precision in ("fp32", "fp16", "bf16"):
            for padded in (False, True):
                network = tests["form"](config, precision, padded=padded).prepare(32, 40)
                plan = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                    exported(network, tiles),
                    arg_inputs=(tiles,),
                    device=torch.device("cuda", 0),
                    timing_cache_path=str(folder / "timing"),
                    **_options(precision),
                )
                assert plan == b"plan"
                counts = found["operators"]
                sys.stdout.write(
                    f"embed_dim {config.embed_dim}, {precision}, padded {padded}: "
                    f"{counts.total()} nodes, {len(counts)} operators, a converter for each\n"
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
