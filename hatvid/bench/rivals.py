"""The published network as others run it: in PyTorch, compiled by PyTorch, in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hatvid.bench.runner import Array, Frames, Runner, Sequential, Task
from hatvid.errors import EngineError

__all__ = ["compiled", "onnxruntime", "published", "write_onnx"]


def published(task: Task, settings: Mapping[str, Any]) -> Runner:
    """spandrel's HAT in eager fp32: what all others are measured by."""
    network = published_network(task)
    torch.set_num_threads(task.threads)
    return Sequential(Frames.of(task), lambda frame: _run(network, frame))


def compiled(task: Task, settings: Mapping[str, Any]) -> Runner:
    """The same under torch.compile, its weights frozen, with ``mode`` of the settings."""
    import torch._inductor.config as inductor
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise EngineError(
            "torch.compile needs a C++ compiler and finds none; install g++ or clang++"
        ) from error
    inductor.freezing = True
    torch.set_num_threads(task.threads)
    network = torch.compile(published_network(task), mode=settings["mode"], dynamic=False)
    frames = Frames.of(task)
    for number in range(2):
        _run(network, frames.number(number))  # compiles
    return Sequential(frames, lambda frame: _run(network, frame), settings=settings)


def onnxruntime(task: Task, settings: Mapping[str, Any]) -> Runner:
    """The network's ONNX file on onnxruntime's CPU provider."""
    import onnxruntime as ort

    assert task.onnx is not None
    options = ort.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.log_severity_level = 4  # what goes wrong is raised as well
    session = ort.InferenceSession(task.onnx, options, providers=["CPUExecutionProvider"])

    def upscale(frame: Array) -> Array:
        larger: Array = session.run(None, {"input": frame})[0]
        return larger

    return Sequential(Frames.of(task), upscale)


def write_onnx(task: Task) -> None:
    """Write the published network, for frames of the task's size, as ONNX to ``task.onnx``.

    As its users do: PyTorch's exporter and the network as it is, none of hatvid's rewrites.
    """
    assert task.onnx is not None
    torch.onnx.export(
        published_network(task),
        (torch.zeros(1, task.network["num_in_ch"], task.height, task.width),),
        task.onnx,
        dynamo=True,
        external_data=False,
        opset_version=18,
        input_names=["input"],
        output_names=["output"],
        verbose=False,
    )


def published_network(task: Task) -> nn.Module:
    """spandrel's HAT with the task's weights."""
    from safetensors.torch import load_file

    from hatvid.bench import networks
    from hatvid.model.hat import HATConfig

    network = networks.published(HATConfig(**task.network))
    network.load_state_dict(load_file(task.weights), strict=True)
    return network


@torch.no_grad()  # freezing takes no inference mode
def _run(network: Any, frame: Array) -> Array:
    larger: Array = network(torch.from_numpy(frame)).numpy()
    return larger
