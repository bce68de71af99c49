"""What tests need to know of Torch-TensorRT, read from its source without importing it.

It cannot be imported without a GPU. Kept in tests/data; made anew, for another release, by::

    python tests/engine/torch_tensorrt_facts.py WHEEL_OR_FOLDER > tests/data/torch_tensorrt.json

where WHEEL_OR_FOLDER is the wheel, or the folder that has ``torch_tensorrt`` in it.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

CONVERTER = "dynamo_tensorrt_converter"
GROUPS = "torch_tensorrt/dynamo/lowering/_decomposition_groups.py"
OWN = "torch_tensorrt/dynamo/lowering/_decompositions.py"
COMPILER = "torch_tensorrt/dynamo/_compiler.py"
CONVERT = "convert_exported_program_to_serialized_trt_engine"
RUNTIME = (
    "torch_tensorrt/dynamo/runtime/_TRTEngine.py",
    "torch_tensorrt/runtime/_runtime_config.py",
)
TENSORRT_CALLS = {
    "Runtime",
    "create_execution_context",
    "deserialize_cuda_engine",
    "execute_async_v3",
    "get_tensor_dtype",
    "get_tensor_name",
    "get_tensor_shape",
    "set_tensor_address",
}


def read(place: Path) -> dict[str, str]:
    """Python files of the package, by their path in the wheel."""
    if place.is_dir():
        return {
            path.relative_to(place).as_posix(): path.read_text(encoding="utf-8")
            for path in place.glob("torch_tensorrt/**/*.py")
        }
    with zipfile.ZipFile(place) as wheel:
        return {
            name: wheel.read(name).decode("utf-8")
            for name in wheel.namelist()
            if name.startswith("torch_tensorrt/") and name.endswith(".py")
        }


def facts(place: Path) -> dict[str, Any]:
    """The facts, as they lie in tests/data."""
    sources = {name: ast.parse(text) for name, text in sorted(read(place).items())}
    versions = _strings(sources["torch_tensorrt/_version.py"])
    return {
        "torch_tensorrt": versions["__version__"],
        "tensorrt": versions["__tensorrt_version__"],
        "converters": _converters(sources),
        "decompositions": {
            "enabled": _set(sources[GROUPS], "torch_enabled_decompositions"),
            "disabled": _set(sources[GROUPS], "torch_disabled_decompositions"),
            "attention": _set(sources[OWN], "ATTENTION_DECOMPOSITION_OPS"),
            "own": _own(sources[OWN]),
        },
        "convert": _parameters(sources[COMPILER], CONVERT),
        "tensorrt_calls": _calls([sources[name] for name in RUNTIME]),
    }


def _strings(tree: ast.Module) -> dict[str, str]:
    return {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
    }


def _converters(sources: dict[str, ast.Module]) -> dict[str, list[str | None]]:
    """For each operator the validators of its converters: a node has a converter if one of
    them takes it, and None takes any."""
    found: dict[str, list[str | None]] = {}
    for name, tree in sources.items():
        if not name.startswith("torch_tensorrt/dynamo/conversion/"):
            continue
        for node in ast.walk(tree):
            if not (isinstance(node, ast.FunctionDef) and node.decorator_list):
                continue
            for call in node.decorator_list:
                if not (isinstance(call, ast.Call) and ast.unparse(call.func) == CONVERTER):
                    continue
                options = {word.arg: word.value for word in call.keywords}
                if "enabled" in options and not ast.literal_eval(options["enabled"]):
                    continue
                validator = options.get("capability_validator")
                target = _operator(ast.unparse(call.args[0]))
                found.setdefault(target, []).append(
                    None if validator is None else ast.unparse(validator)
                )
    return dict(sorted(found.items()))


def _set(tree: ast.Module, name: str) -> list[str]:
    """Members of a set of operators that is written out."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if target is not None and ast.unparse(target) == name:
            value = node.value  # type: ignore[union-attr]
            assert isinstance(value, ast.Set), name
            return sorted(_operator(ast.unparse(member)) for member in value.elts)
    raise LookupError(name)


def _own(tree: ast.Module) -> list[str]:
    """Operators that the package decomposes in its own way."""
    names = {"register_torch_trt_decomposition", "replace_inplace_op"}
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
    ]
    operators = {_operator(ast.unparse(call.args[0])) for call in calls}
    return sorted(operators - {"aten_op"})


def _parameters(tree: ast.Module, name: str) -> list[str]:
    """Those with names; what goes to ``**kwargs`` is ignored without a word."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    raise LookupError(name)


def _calls(trees: list[ast.Module]) -> dict[str, list[int]]:
    """With how many arguments the package itself calls TensorRT."""
    found: dict[str, set[int]] = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in TENSORRT_CALLS and not ast.unparse(node.func.value).startswith("self._trt"):
                found.setdefault(name, set()).add(len(node.args))
    return {name: sorted(counts) for name, counts in sorted(found.items())}


def _operator(name: str) -> str:
    return name.replace("torch.ops.", "")


if __name__ == "__main__":
    json.dump(facts(Path(sys.argv[1])), sys.stdout, indent=1)
    sys.stdout.write("\n")
