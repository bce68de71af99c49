"""Bring a module to the one shape that an engine runs, and check what enters and leaves."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hatvid.engine.base import TileSpec
from hatvid.engine.settings import ran_out
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = ["Preparable", "Shrinkable", "check_input", "check_output", "copied", "prepared"]


@runtime_checkable
class Preparable(Protocol):
    """A module that builds buffers for one input size before it runs."""

    def prepare(self, height: int, width: int) -> object:
        """Build what inputs of (N, C, height, width) need."""
        ...


@runtime_checkable
class Shrinkable(Protocol):
    """A module that can do the same in smaller pieces, with less memory."""

    def shrink(self) -> bool:
        """Take smaller pieces from now on; False if they are at their smallest."""
        ...


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def prepared(module: nn.Module, spec: TileSpec, precision: str = "fp32") -> nn.Module:
    """The module as an engine runs it: on the device, in eval mode, ready for the shape.

    The module that is passed in stays as it is. What comes back is a copy that
    shares its parameters, so that engines of several shapes do not overwrite each
    other's buffers, nor hold the weights twice; only on another device the
    weights are copied.

    Args:
        module: its parameters are of ``spec.dtype``, or of the precision's.
        spec: the one shape.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        EngineError: a parameter is of another dtype.
        OutOfMemoryError: the device does not hold the weights.
    """
    parameters = list(module.parameters())
    allowed = {spec.dtype, DTYPES[precision]} if precision != "fp32" else {spec.dtype}
    for parameter in parameters:
        if parameter.is_floating_point() and parameter.dtype not in allowed:
            raise EngineError(
                f"the module has {parameter.dtype} parameters, the engine runs {spec.dtype}; "
                "convert it first, for example with module.float()"
            )
    here = all(_same_device(parameter.device, spec.device) for parameter in parameters)
    try:
        ready = copied(module, share=here).to(spec.device).eval()
        if isinstance(ready, Preparable):
            with torch.no_grad():
                ready.prepare(spec.height, spec.width)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise OutOfMemoryError(
            f"memory of {spec.device} ran out for the network itself ({first}); choose a smaller "
            "tile, a smaller model, or another device"
        ) from error
    return ready


def copied(module: nn.Module, *, share: bool) -> nn.Module:
    """A copy with buffers of its own, for tensors without contents too.

    Args:
        share: take the module's parameters, and not copies of them.
    """
    memo: dict[int, object] = {id(b): b.clone() for b in module.buffers()}
    for p in module.parameters():
        # Strides stay, as a plain deepcopy would have them.
        memo[id(p)] = p if share else nn.Parameter(p.detach().clone(), p.requires_grad)
    return copy.deepcopy(module, memo)


def check_input(spec: TileSpec, tiles: Tensor) -> None:
    """Raise EngineError unless ``tiles`` is what ``spec`` says."""
    if tuple(tiles.shape) != spec.input_shape:
        raise EngineError(
            f"the engine runs {spec.input_shape}, not {tuple(tiles.shape)}; "
            "build another for that shape"
        )
    if tiles.dtype != spec.dtype or not _same_device(tiles.device, spec.device):
        raise EngineError(
            f"the engine takes {spec.dtype} on {spec.device}, not {tiles.dtype} on {tiles.device}; "
            "convert the tiles first"
        )


def check_output(spec: TileSpec, shape: tuple[int, ...]) -> None:
    """Raise EngineError unless a result of ``shape`` is what ``spec`` says."""
    if shape != spec.output_shape:
        raise EngineError(
            f"the module made {shape} from {spec.input_shape}, not {spec.output_shape}; "
            f"check that its scale is {spec.scale}"
        )


def _same_device(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (one.index or 0) == (other.index or 0)
