"""A module as the exported program that Torch-TensorRT is given.

In a strongly typed TensorRT network the dtypes of tensors decide what is computed in what.
Two rules by which PyTorch computes in more than the dtypes say are not read by Torch-TensorRT
2.14; here they are written out as casts, so that the plan computes what the module does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, Node

__all__ = ["exported", "output_shape", "write_casts_out"]

_aten = torch.ops.aten
_MEANS = {_aten.mean.default, _aten.mean.dim}
_PRODUCTS = {_aten.mul.Tensor, _aten.div.Tensor}
_LOW = {torch.float16, torch.bfloat16}


def exported(module: nn.Module, example: Tensor) -> ExportedProgram:
    """Export a module for the shape, dtype and device of one example.

    Args:
        module: in eval mode, on the example's device; it writes to none of its buffers.
        example: (N, C, H, W); its values do not matter.

    Raises:
        RuntimeError: the module cannot be exported, or fails on the example; what
            torch.export raises is of many classes, and comes as the cause.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(module, (example,))
    except Exception as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RuntimeError(first) from error
    write_casts_out(program)
    return program


def output_shape(program: ExportedProgram) -> tuple[int, ...]:
    """Of the tensor that the program returns; () if it returns anything else."""
    (results,) = program.graph_module.graph.output_node().args
    value = results[0].meta.get("val") if len(results) == 1 else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def write_casts_out(program: ExportedProgram) -> None:
    """Make casts of what PyTorch computes in fp32 without one. Changes the program.

    A mean with ``dtype=`` is taken of the map in that dtype: Torch-TensorRT's converter
    looks at the map only. A 16-bit tensor times a number is computed in fp32 and then
    rounded: the converter rounds the number first, and in fp16 that makes 0.01 / 256 one
    part in a thousand wrong, and 1e-8 zero.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in _MEANS and node.kwargs.get("dtype") is not None:
            kwargs = dict(node.kwargs)
            dtype = kwargs.pop("dtype")
            node.kwargs = kwargs
            with graph.inserting_before(node):
                node.args = (_cast(graph, node.args[0], dtype), *node.args[1:])
        elif node.target in _PRODUCTS and _is_number(node.args[1]):
            dtype = node.args[0].meta["val"].dtype
            if dtype in _LOW:
                with graph.inserting_before(node):
                    node.args = (_cast(graph, node.args[0], torch.float32), *node.args[1:])
                node.meta["val"] = node.meta["val"].to(torch.float32)
                with graph.inserting_after(node):
                    low = _cast(graph, node, dtype)
                node.replace_all_uses_with(low, delete_user_cb=_all_but(low))
    graph.lint()
    program.graph_module.recompile()


def _cast(graph: Graph, node: Node, dtype: torch.dtype) -> Node:
    cast = graph.call_function(_aten.to.dtype, (node, dtype))
    cast.meta["val"] = node.meta["val"].to(dtype)
    return cast


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all_but(this: Node) -> Callable[[Node], bool]:
    return lambda user: user is not this
