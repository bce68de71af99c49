"""Whether Torch-TensorRT has a converter for every operator of the networks.

Torch-TensorRT cannot be imported without a GPU. Its converters and the lists of what it
decomposes are read from its source by ``torch_tensorrt_facts.py``, and lie in tests/data.
Decomposition itself is PyTorch's: the table is put together here as the package does.
"""

from __future__ import annotations

import importlib.util
import json
import operator
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch._export.utils import _collect_all_valid_cia_ops_for_aten_namespace, _get_decomp_for_cia
from torch.export import ExportedProgram
from torch.fx import Node

from hatvid.engine.tensorrt_graph import exported, write_casts_out
from hatvid.model.calibration import calibration_picture
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.padded import pad_channels
from hatvid.model.precision import lower_precision, plan_rescale
from hatvid.model.tail import collapse_tail

HERE = Path(__file__).parent
DOUBLE = runpy.run_path(str(HERE / "tensorrt_double.py"))
FACTS = DOUBLE["FACTS"]
aten = torch.ops.aten

# What the package puts in the place of operators in its own way, where networks have them.
STAND_INS: dict[Any, Callable[..., Any]] = {
    aten.alias.default: lambda x: x,
    aten._unsafe_view.default: torch.reshape,
    aten.view.default: lambda x, size: aten._reshape_copy.default(x, size),
}


def find(name: str) -> Any:
    """An operator, or several, by a name such as ``aten.add.Tensor`` or ``aten.relu_``."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found


def overloads(found: Any) -> list[Any]:
    several = isinstance(found, torch._ops.OpOverloadPacket)
    return [getattr(found, name) for name in found.overloads()] if several else [found]


def table() -> dict[Any, Callable[..., Any]]:
    """As get_decompositions() in torch_tensorrt/dynamo/lowering/_decompositions.py."""
    lists = {
        name: [find(operator) for operator in names]
        for name, names in FACTS["decompositions"].items()
    }
    kept = {
        one for name in ("disabled", "attention") for op in lists[name] for one in overloads(op)
    }
    implicit = {
        op: _get_decomp_for_cia(op) for op in _collect_all_valid_cia_ops_for_aten_namespace()
    }
    return {
        **get_decompositions(lists["enabled"]),
        **{op: way for op, way in implicit.items() if op not in kept},
        **STAND_INS,
    }


def decomposed(module: nn.Module, *shape: int) -> ExportedProgram:
    program = exported(module, torch.rand(shape))
    # Taken out before (lowering/passes/remove_assert_nodes.py).
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    return program.run_decompositions(table())


def _attention(node: Node) -> bool:
    query, key, value = (node.args[at].meta["val"].shape for at in range(3))  # type: ignore
    causal = len(node.args) > 5 and node.args[5]
    same = query[:-2] == key[:-2] and query[-1] == key[-1]
    return key == value and same and not causal


def _ranks_agree(node: Node) -> bool:
    return len({part.meta["val"].dim() for part in node.args[0]}) == 1  # type: ignore


def _casts(node: Node) -> bool:
    return node.kwargs["dtype"] in {
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int32,
        torch.int64,
        torch.int8,
        torch.bool,
    }


def _alone(node: Node) -> bool:
    """From the input to the output, and nothing else."""
    given = any(isinstance(part, Node) and part.op == "placeholder" for part in node.args)
    return given and any(user.op == "output" for user in node.users)


# What validators ask for, in the terms of nodes of static shape.
VALIDATORS: dict[str | None, Callable[[Node], bool]] = {
    None: lambda node: True,
    "cat_validator": _ranks_agree,
    "convolution_capability_validator": lambda node: True,  # asks on TensorRT-RTX only
    "getitem_validator": lambda node: converter(node.args[0]),  # type: ignore
    "has_static_shapes_in_args([1])": lambda node: True,
    "scaled_dot_product_attention_validator": _attention,
    "is_only_operator_on_placeholder": _alone,
    "lambda node, settings: not is_only_operator_on_placeholder(node, settings)": (
        lambda node: not _alone(node)
    ),
    "to_copy_dtype_validator(placeholder_only=False)": (
        lambda node: _casts(node) and not _alone(node)
    ),
    "to_copy_dtype_validator(placeholder_only=True)": lambda node: _casts(node) and _alone(node),
    "zero_output_validator": lambda node: 0 not in node.args[1],  # type: ignore
}


def converter(node: Node) -> bool:
    name = "operator.getitem" if node.target is operator.getitem else str(node.target)
    validators = FACTS["converters"].get(name, [])
    unknown = set(validators) - set(VALIDATORS)
    assert not unknown, f"{name}: read {unknown} and say here what it asks for"
    return any(VALIDATORS[validator](node) for validator in validators)


def without_converter(program: ExportedProgram) -> set[str]:
    nodes = [node for node in program.graph_module.graph.nodes if node.op == "call_function"]
    assert nodes
    assert all(str(node.target) not in FACTS["decompositions"]["own"] for node in nodes)
    return {str(node.target) for node in nodes if not converter(node)}


NANO = HATConfig(embed_dim=48, depths=(2,), num_heads=(3,), squeeze_factor=12, num_feat=32)
HAT_S = HATConfig(embed_dim=144, depths=(2,), num_heads=(6,), compress_ratio=24, squeeze_factor=24)
WHOLE = HATConfig(depths=(2,), num_heads=(6,), upscale=3)


def form(config: HATConfig, precision: str, *, padded: bool) -> HAT:
    """As the upscaler gives it to the engine."""
    torch.manual_seed(1)
    network = collapse_tail(HAT(config).eval())
    network = pad_channels(network) if padded else network
    if precision != "fp32":
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        network = lower_precision(network, dtype, plan_rescale(network, calibration_picture()))
    return network.eval()


@pytest.mark.parametrize(
    ("config", "precision", "padded"),
    [
        pytest.param(NANO, "fp32", False, id="nano fp32", marks=pytest.mark.long),
        pytest.param(NANO, "fp16", False, id="nano fp16"),
        pytest.param(HAT_S, "fp32", True, id="HAT-S fp32, padded", marks=pytest.mark.long),
        pytest.param(HAT_S, "fp16", True, id="HAT-S fp16, padded", marks=pytest.mark.long),
        pytest.param(WHOLE, "fp16", False, id="HAT fp16", marks=pytest.mark.long),
        pytest.param(WHOLE, "fp16", True, id="HAT fp16, padded"),
        pytest.param(WHOLE, "bf16", True, id="HAT bf16, padded"),
    ],
)
def test_every_operator_of_a_hat_has_a_converter(
    config: HATConfig, precision: str, padded: bool
) -> None:
    """A block, a shifted block and an OCAB have all operators that a whole network has."""
    network = form(config, precision, padded=padded).prepare(32, 40)
    program = decomposed(network, 2, 3, 32, 40)
    assert without_converter(program) == set()
    attention = [
        node for node in program.graph_module.graph.nodes if "dot_product" in str(node.target)
    ]
    # Whole: TensorRT has fused kernels for attention, not for its parts.
    assert {str(node.target) for node in attention} == {"aten.scaled_dot_product_attention.default"}


class _Planted(nn.Module):
    def __init__(self, violate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.violate = violate

    def forward(self, x: Tensor) -> Tensor:
        return self.violate(torch.relu(x)) + x


def _grouped_values(x: Tensor) -> Tensor:
    half = torch.nn.functional.scaled_dot_product_attention(x, x, x[..., :8])
    return torch.cat((half, half), -1)


@pytest.mark.parametrize(
    ("violate", "operator"),
    [
        (lambda x: torch.special.bessel_j0(x), "aten.special_bessel_j0.default"),
        (lambda x: x.double().float(), "aten._to_copy.default"),  # a validator says no
        (_grouped_values, "aten.scaled_dot_product_attention.default"),
    ],
    ids=["no converter", "float64", "values of another size"],
)
def test_an_operator_without_a_converter_is_seen(
    violate: Callable[[Tensor], Tensor], operator: str
) -> None:
    assert without_converter(decomposed(_Planted(violate), 1, 3, 8, 16)) == {operator}


def _wheel() -> Path | None:
    """Torch-TensorRT's source: its wheel or folder by name, or where it is installed."""
    if named := os.environ.get("HATVID_TORCH_TENSORRT"):
        return Path(named)
    spec = importlib.util.find_spec("torch_tensorrt")
    return None if spec is None or spec.origin is None else Path(spec.origin).parents[1]


if (wheel := _wheel()) is not None:
    # Only where there is something to read: elsewhere the facts in tests/data are all there is.

    def test_facts_are_those_of_the_release() -> None:
        read = runpy.run_path(str(HERE / "torch_tensorrt_facts.py"))["facts"]
        assert json.loads(json.dumps(read(wheel))) == FACTS


if wheel is not None and wheel.is_file():
    # An installed one would find the TensorRT that is installed beside it.

    @pytest.mark.long
    def test_the_release_itself_finds_a_converter_for_each() -> None:
        script = HERE / "torch_tensorrt_without_gpu.py"
        done = subprocess.run(
            [sys.executable, str(script), str(wheel)],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("a converter for each") == 18


class _Mean(nn.Module):
    """What an fp16 network does that is not in its tensors' dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = x.half()
        gate = self.gate(low.mean((2, 3), keepdim=True, dtype=torch.float32))
        return (low * 1e-8).float() * 1e8 + (low / 3e5).float() * gate


@torch.no_grad()
def test_casts_that_converters_do_not_see_are_written_out() -> None:
    torch.manual_seed(0)
    module = _Mean().eval()
    tiles = torch.rand(1, 3, 16, 16) * 60000
    expected = module(tiles)
    as_read = DOUBLE["AsConverted"]
    plain = torch.export.export(module, (tiles,))
    error = (as_read(plain.module()).run(tiles) - expected).abs().max() / expected.abs().max()
    assert error > 1e-3, "the double reads casts that the converters do not"
    write_casts_out(plain)
    torch.testing.assert_close(as_read(plain.module()).run(tiles), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(plain.module()(tiles), expected, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_hat_in_16_bits_comes_out_as_converters_read_it(precision: str) -> None:
    network = form(NANO, precision, padded=True)
    tiles = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(2))
    program = exported(network.prepare(32, 40), tiles)
    as_read = DOUBLE["AsConverted"](program.module()).run(tiles)
    torch.testing.assert_close(as_read, network(tiles), atol=1e-6, rtol=0)
