"""One network as a file for other programs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hatvid.errors import OptionError, OutputError, OutputExistsError
from hatvid.jobs.partial import PartialFile
from hatvid.model.export import DEFAULT_OPSET, check_onnx, require_packages, to_onnx
from hatvid.model.forms import Forms
from hatvid.model.zoo import load_model, resolve_model
from hatvid.options import DEFAULT_MODEL

__all__ = ["Exported", "export_onnx"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What :func:`export_onnx` wrote."""

    name: str
    """Of the network."""

    scale: int

    size: int
    """Of the file, in bytes."""

    error: float | None
    """Largest difference between onnxruntime and PyTorch, in standard deviations of the
    output; None if that was not tried."""


def export_onnx(
    path: Path,
    *,
    model: str = DEFAULT_MODEL,
    scale: int | None = None,
    height: int | None = None,
    width: int | None = None,
    batch: int = 1,
    opset: int = DEFAULT_OPSET,
    precision: Literal["fp32", "fp16"] = "fp32",
    check: bool = True,
    overwrite: bool = False,
) -> Exported:
    """Write a network as an ONNX file, which gets its name only when it is whole and checked.

    Args:
        path: of the file.
        model: a known name, or the path of a checkpoint.
        scale: what the network must have; None takes any.
        height: of the one shape to serve; None for any shape.
        width: likewise.
        batch: of the one shape.
        opset: version of ONNX's operators.
        precision: ``fp16``, for HATs, is rescaled so that it stays in range, and keeps in
            fp32 what needs it, input and output too.
        check: run it in onnxruntime, if that is installed, beside PyTorch.
        overwrite: replace a file of that name.

    Raises:
        OptionError: such a shape, opset or precision cannot be; or the scale is another.
        UsageError: a package is not installed.
        OutputExistsError: the file exists and may not be overwritten.
        OutputError: it cannot be written; VerificationError, that it is not the network.
        CheckpointError: the model cannot be found, read or trusted.
        EngineError: PyTorch cannot export the network.
    """
    require_packages()
    _check_target(path, overwrite=overwrite)
    found = resolve_model(model, scale)
    network = load_model(model, scale)
    if scale is not None and network.scale != scale:
        raise OptionError(
            f"model {found.name} upscales by {network.scale}, and exported it is not reduced to "
            f"{scale}; choose another model, or export it with scale {network.scale}"
        )
    forms = Forms(network)
    if precision != "fp32" and not forms.rewritable:
        raise OptionError(f"{found.name} is no HAT and can be exported in fp32 only")
    with PartialFile(path, overwrite=overwrite) as partial:
        proto = to_onnx(
            forms.form(precision),
            name=found.name,
            licence="unknown" if found.known is None else found.known.licence,
            height=height,
            width=width,
            batch=batch,
            opset=opset,
        )
        error = check_onnx(proto, network, precision) if check else None
        data = proto.SerializeToString(deterministic=True)
        try:
            partial.file.write(data)
        except OSError as failed:
            raise OutputError(
                f"{path} cannot be written ({failed.strerror}); free some space, or choose "
                "another place with -o"
            ) from failed
        partial.seal()
        partial.publish()
    return Exported(name=found.name, scale=network.scale, size=len(data), error=error)


def _check_target(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise OptionError(f"{path} is a folder; give the model a file name")
    if os.path.lexists(path) and not overwrite:
        raise OutputExistsError(f"{path} exists; use --overwrite to replace it, or -o to rename")
