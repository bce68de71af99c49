"""A network as an ONNX model, for other programs to run.

The graph holds all that the network is: weights, the relative position bias of each
block as it was gathered from its table, and the masks of the shifted windows. Static,
it serves one shape; dynamic, inputs of any height, width and batch.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hatvid import __version__
from hatvid.errors import (
    EngineError,
    OptionError,
    OutOfMemoryError,
    UsageError,
    VerificationError,
)
from hatvid.model.export_dynamic import DynamicHAT
from hatvid.model.hat import HAT

if TYPE_CHECKING:
    import onnx

__all__ = ["DEFAULT_OPSET", "OPSETS", "check_onnx", "require_packages", "to_onnx"]

OPSETS = range(18, 23)
"""PyTorch writes none below. From 23 on it writes an Attention operator, which not every
runtime has."""

DEFAULT_OPSET = OPSETS.start

LARGEST_ERROR = {"fp32": 1e-3, "fp16": 3e-2}
"""Between onnxruntime and PyTorch in fp32, in standard deviations of the output. Rounding
makes some 1e-6 and 1e-3; a mistake makes much more."""


def to_onnx(
    model: nn.Module,
    *,
    name: str,
    licence: str = "unknown",
    height: int | None = None,
    width: int | None = None,
    batch: int = 1,
    opset: int = DEFAULT_OPSET,
) -> onnx.ModelProto:
    """Export a network.

    Input and output of the graph are called ``input`` and ``output``: (N, 3, H, W) and
    (N, 3, sH, sW), float32, RGB in [0, 1]; the output is not clamped. H and W need not be
    multiples of the window: the graph pads and crops as the network does. Metadata say
    name, scale, licence, window, and what the input is.

    Args:
        model: a HAT as it was built, or rewritten; with a fixed shape, any network of
            such input and output. It is not changed.
        name: for the metadata.
        licence: of the weights, for the metadata.
        height: H of the one shape to serve; None for any shape (and batch).
        width: W, likewise.
        batch: N of the one shape.
        opset: version of ONNX's operators, one of :data:`OPSETS`.

    Raises:
        OptionError: such a shape or opset cannot be; or any shape, and no HAT.
        UsageError: a package is not installed.
        EngineError: PyTorch cannot export the network.
    """
    _check_options(height, width, batch, opset)
    if height is None and not isinstance(model, HAT):
        raise OptionError(
            f"{name} is no HAT, and only HATs are exported for any size; give height and width"
        )
    require_packages()
    graph, example = _graph(model, height, width, batch)
    axes = {0: "batch", 2: "height", 3: "width"} if height is None else None
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=(axes,),
                verbose=False,
            )
        assert program is not None
        proto: onnx.ModelProto = program.model_proto
    except (RuntimeError, ValueError, TypeError) as error:
        raise EngineError(f"PyTorch cannot export this network: {_reason(error)}") from error
    _tidy(proto)
    _describe(proto, model, name, licence, dynamic=height is None)
    return proto


def check_onnx(
    proto: onnx.ModelProto, model: nn.Module, precision: Literal["fp32", "fp16"] = "fp32"
) -> float | None:
    """Ask ONNX's checker, then run the graph in onnxruntime beside the network.

    A dynamic graph is run in three shapes.

    Args:
        proto: made by :func:`to_onnx`.
        model: what it was made from, in fp32.
        precision: what was exported; that decides which error is allowed.

    Returns:
        The largest error, in standard deviations of the output; None without onnxruntime.

    Raises:
        VerificationError: the graph is not valid, cannot be run, or is not the network.
        OutOfMemoryError: the network itself cannot be run in its shape here.
    """
    import onnx

    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(
            f"what was exported is no valid ONNX ({_reason(error)}); choose another --opset"
        ) from error
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    session = _tried(
        lambda: onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    )
    reference = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    errors = []
    for shape in _shapes_to_try(proto, model):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        try:
            with torch.inference_mode():
                wanted = reference(x)
        except RuntimeError as error:
            raise OutOfMemoryError(
                f"PyTorch cannot run the network on {shape} ({_reason(error)}); choose a smaller "
                "shape, or --no-check"
            ) from error
        feed = {"input": x.numpy()}
        got = torch.from_numpy(_tried(partial(session.run, None, feed))[0])
        if got.shape != wanted.shape:
            raise VerificationError(
                f"the exported network makes {tuple(got.shape)} of {shape}, "
                f"not {tuple(wanted.shape)}; choose another --opset"
            )
        # A network of zeros has no deviation, and no error either.
        errors.append(float((got - wanted).abs().max() / wanted.std().clamp(min=1e-6)))
    worst = max(errors, key=lambda error: (math.isnan(error), error))
    if not worst <= LARGEST_ERROR[precision]:  # not a number is not less than one
        raise VerificationError(
            f"onnxruntime and PyTorch differ by {worst:.1e} standard deviations of the output; "
            "nothing was kept; choose another --opset"
        )
    return worst


def _check_options(height: int | None, width: int | None, batch: int, opset: int) -> None:
    if (height is None) != (width is None):
        raise OptionError("height and width go together; give both, or neither for any size")
    if any(number is not None and number < 1 for number in (height, width, batch)):
        raise OptionError(
            f"an input of {batch}x3x{height}x{width} has no pixels; all must be at least 1"
        )
    if height is None and batch != 1:
        raise OptionError("a dynamic model takes any batch; leave the batch out")
    if opset not in OPSETS:
        raise OptionError(
            f"opset {opset} cannot be written; choose one from {OPSETS.start} to {OPSETS.stop - 1}"
        )


def require_packages() -> None:
    """Ask for what exporting needs, before anything else takes time.

    Raises:
        UsageError: a package is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f'exporting needs the package {error.name}; run: pip install "hatvid[onnx]"'
        ) from error


def _graph(
    model: nn.Module, height: int | None, width: int | None, batch: int
) -> tuple[nn.Module, Tensor]:
    """What is to be traced, ready, and an input to trace it with."""
    if height is None or width is None:
        assert isinstance(model, HAT)
        window, channels = model.config.window_size, model.config.num_in_ch
        # No size here is a multiple of the window, equal to another one, or 1: to each
        # the tracer would tie the graph.
        shape = (2, channels, 2 * window + 5, 3 * window + 3)
        return DynamicHAT(model), torch.zeros(shape)
    graph = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    if not isinstance(graph, HAT):
        return graph, torch.zeros(batch, 3, height, width)
    graph.prepare(height, width)
    return graph, torch.zeros(batch, graph.config.num_in_ch, height, width)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own notes, about what is not exported here, from the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _tidy(proto: onnx.ModelProto) -> None:
    """Leave out what tells of this machine (stack traces), and what any reader works out."""
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    # With another input shape, which some programs write into the file, they are wrong.
    del proto.graph.value_info[:]


def _describe(
    proto: onnx.ModelProto, model: nn.Module, name: str, licence: str, *, dynamic: bool
) -> None:
    import onnx

    taken, made = proto.graph.input[0], proto.graph.output[0]
    shape = made.type.tensor_type.shape.dim
    if isinstance(model, HAT):
        scale = model.scale
    else:
        scale = shape[3].dim_value // taken.type.tensor_type.shape.dim[3].dim_value
    if dynamic:
        shape[2].dim_param, shape[3].dim_param = f"{scale}*height", f"{scale}*width"

    proto.producer_name, proto.producer_version = "hatvid", __version__
    proto.graph.name = name
    facts: dict[str, object] = {
        "name": name,
        "scale": scale,
        "input": "RGB, float32, 0 to 1, (batch, 3, height, width)",
        "shape": "dynamic" if dynamic else "static",
        "size_multiple": 1,  # the graph pads and crops by itself
        "hatvid_version": __version__,
        "license": licence,
    }
    if isinstance(model, HAT):
        facts["window_size"] = model.config.window_size
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in facts.items()})


def _tried(call: Callable[[], Any]) -> Any:
    """What onnxruntime answers; its errors have no class of their own above them."""
    try:
        return call()
    except Exception as error:
        raise VerificationError(
            f"onnxruntime cannot run what was exported ({_reason(error)}); choose another --opset, "
            "or if memory ran out a smaller shape, or --no-check"
        ) from error


def _shapes_to_try(proto: onnx.ModelProto, model: nn.Module) -> list[tuple[int, ...]]:
    dims: Any = proto.graph.input[0].type.tensor_type.shape.dim
    if all(dim.HasField("dim_value") for dim in dims):
        return [tuple(dim.dim_value for dim in dims)]
    assert isinstance(model, HAT)
    window, channels = model.config.window_size, dims[1].dim_value
    # One window in all; one row, one column; not square, and with windows of each kind.
    return [
        (1, channels, window, window),
        (1, channels, 1, window + 1),
        (2, channels, 3 * window, window + 3),
    ]


def _reason(error: BaseException) -> str:
    """The innermost error's first line: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
