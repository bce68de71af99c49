"""An engine that runs its module once, records what that did, and replays it."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from hatvid.engine.base import TileSpec
from hatvid.engine.prepare import Shrinkable, check_input, check_output, copied, prepared
from hatvid.engine.runtime import Recording, Runtime
from hatvid.engine.settings import cpu_threads
from hatvid.errors import EngineError, OutOfMemoryError

__all__ = ["RecordedEngine", "recordable"]


def recordable(module: nn.Module, spec: TileSpec, precision: str = "fp32") -> nn.Module:
    """What a :class:`RecordedEngine` records: a copy with weights of its own, prepared for the
    shape.

    Nothing but the memory it lies in depends on ``spec.device``.

    Args:
        module: see :func:`~hatvid.engine.prepare.prepared`, as the others.
    """
    return prepared(copied(module, share=False), spec, precision)


class RecordedEngine:
    """Runs a module by replaying a recording of it.

    The tiles are copied into a static input, the recording is replayed, and the static
    output is returned: the same buffer every time. The engine has weights of its own, so
    that nothing that is done to the module changes what a recording reads.

    Args:
        module: maps ``spec.input_shape`` to ``spec.output_shape``. It is not changed.
        spec: the one shape to run, on the runtime's device.
        runtime: records and replays; its kind is the engine's name.
        name: of the engine.
        kernel: which kernel computes attention, as
            :meth:`~hatvid.engine.runtime.Runtime.attention` knows it.
        precision: what the module computes in, as with
            :class:`~hatvid.engine.eager.EagerEngine`.
        threads: of the CPU while it runs; None leaves PyTorch's setting alone.
        compiled: let torch.compile work on the module before it is recorded.

    Raises:
        EngineError: the module cannot be recorded, fails, or is not in the precision.
        OutOfMemoryError: there is no room for it.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: TileSpec,
        *,
        runtime: Runtime,
        name: str,
        precision: str = "fp32",
        kernel: str = "default",
        threads: int | None = None,
        compiled: bool = False,
    ) -> None:
        self.name = name
        self.spec = spec
        self.precision: str = precision
        self._threads = threads
        ready = recordable(module, spec, precision)
        network = _compiled(ready) if compiled else ready
        tiles = torch.zeros(spec.input_shape, dtype=spec.dtype, device=spec.device)

        def function(tiles: Tensor) -> tuple[Tensor, ...]:
            output = network(tiles)
            if not isinstance(output, Tensor):
                raise EngineError(f"the module returned {type(output).__name__}, not a tensor")
            check_output(spec, tuple(output.shape))
            return (output,)

        self._recording: Recording | None = None
        while self._recording is None:
            try:
                with self._settings(), runtime.attention(kernel):
                    self._recording = runtime.record(function, (tiles,))
            except OutOfMemoryError as error:
                failed = str(error)
            if self._recording is None:
                # Outside of the except clause: the error's traceback keeps the maps alive.
                runtime.empty_cache()
                if not (isinstance(ready, Shrinkable) and ready.shrink()):
                    raise OutOfMemoryError(failed)
        # What a recording reads of it must live as long as the recording does.
        self._module: nn.Module | None = ready

    def run(self, tiles: Tensor) -> Tensor:
        """See :meth:`hatvid.engine.base.Engine.run`."""
        if self._recording is None:
            raise EngineError("the engine was closed; build a new one")
        check_input(self.spec, tiles)
        (static,) = self._recording.inputs
        with self._settings():
            static.copy_(tiles, non_blocking=True)
            self._recording.replay()
        return self._recording.outputs[0]

    def close(self) -> None:
        """Let recording, buffers and weights go."""
        self._recording = None
        self._module = None

    def _settings(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(torch.no_grad())
        if self._threads is not None and self.spec.device.type == "cpu":
            stack.enter_context(cpu_threads(self._threads))
        return stack


def _compiled(module: nn.Module) -> nn.Module:
    # Its own CUDA graphs would be captured into ours.
    compiled = torch.compile(module, dynamic=False, options={"triton.cudagraphs": False})
    assert isinstance(compiled, nn.Module)
    return compiled
