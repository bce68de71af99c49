"""Frames in, larger frames out: a plan for each frame size, and an engine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from os import PathLike, fspath
from typing import Literal, Self

import torch
from torch import Tensor, nn

from hatvid.description import Description, MendedTile
from hatvid.engine import TileSpec, build_engine, build_runtime, resolve_engine
from hatvid.engine.runtime import Runtime
from hatvid.engine_selection import EngineFactory
from hatvid.errors import OptionError
from hatvid.frame_plan import FramePlan, FramePlanner, check_frames
from hatvid.frame_program import FrameProgram
from hatvid.model.fingerprint import state_dict_hash
from hatvid.model.forms import Forms
from hatvid.model.zoo import load_model, resolve_model
from hatvid.options import (
    DEFAULT_MODEL,
    AnyEngineName,
    EngineOptions,
    Precision,
    ReuseMode,
    ReuseOptions,
    TileOptions,
)
from hatvid.resampling import resample
from hatvid.reuse import Reused
from hatvid.tile_runner import TileRunner
from hatvid.tiling import Canvas

__all__ = ["Description", "EngineFactory", "MendedTile", "Upscaler"]

_log = logging.getLogger(__name__)


class Upscaler:
    """Runs a network over frames of any size.

    Frames are cut into tiles, the tiles of all frames packed into batches of one
    fixed shape (the last is filled up: bits depend on the batch shape, so what a
    frame becomes must not depend on how many come with it), and put together.

    What ``auto`` stands for is decided once and then holds as long as the
    upscaler: the tile for each frame size by the memory then free; engine, precision and
    attention kernel by checks against the network itself (:mod:`hatvid.engine.checks`).

    In fp16 and bf16 every tile is looked at (:mod:`hatvid.engine.sentinel`); one that
    ran out of range is computed again in fp32, and told.

    A tile of the same bytes as one before takes its result (:mod:`hatvid.reuse`), where
    the engine gives the same bits for the same tile: that is tried when one first comes
    again.

    Calls from several threads run one after another. Use it as a context manager,
    or call :meth:`close`.

    Args:
        module: maps (N, 3, H, W) to (N, 3, sH, sW), float32. It is not changed.
        scale: s.
        output_scale: what frames come out at; what the network gives beyond it is
            reduced, bicubic, so that nothing aliases. None is s.
        engine_options: which engine, precision, device, threads.
        tile_options: tile, overlap, batch.
        reuse: whether results are taken from tiles before, and what may be kept of them.
        fingerprint: names the module's weights and configuration exactly; without
            one, no compiled model is kept on disk.
        engine_factory: builds engines, in place of hatvid's own.
        checked: refuse engines that do not give the network's picture. False is for engines
            that are not meant to.
        name: of the model, for messages.

    Raises:
        OptionError: the options do not fit each other or this machine.
    """

    name: str
    scale: int
    """Of what comes out."""
    network_scale: int
    reuse: ReuseOptions
    reused: Reused
    """In all calls so far."""
    fingerprint: str | None
    """Names the network exactly, None where nobody said."""

    def __init__(
        self,
        module: nn.Module,
        *,
        scale: int,
        output_scale: int | None = None,
        engine_options: EngineOptions | None = None,
        tile_options: TileOptions | None = None,
        reuse: ReuseOptions | None = None,
        fingerprint: str | None = None,
        engine_factory: EngineFactory = build_engine,
        checked: bool = True,
        name: str = "custom",
    ) -> None:
        if scale < 1:
            raise OptionError(f"scale is {scale}; it must be at least 1")
        if output_scale is not None and not 1 <= output_scale <= scale:
            raise OptionError(
                f"a network that upscales by {scale} gives no {output_scale}; choose 1 to {scale}"
            )
        self.name = name
        self.fingerprint = fingerprint
        self.network_scale = scale
        self.scale = scale if output_scale is None else output_scale
        engine_options = engine_options or EngineOptions()
        tile_options = tile_options or TileOptions()
        forms, resolved = Forms(module), resolve_engine(engine_options)
        self.reuse, self.reused = reuse or ReuseOptions(), Reused()
        self._runner = TileRunner(
            forms,
            resolved,
            engine_options,
            scale=scale,
            factory=engine_factory,
            fingerprint=fingerprint,
            checked=checked,
            reuse=self.reuse,
        )
        self._planner = FramePlanner(
            forms,
            scale=scale,
            engine=resolved.engine,
            fixed=engine_options.engine != "auto",
            options=tile_options,
            device=resolved.device,
            # Of the two attentions on a GPU PyTorch's, which takes more memory.
            runs=lambda chunked: forms.form(
                resolved.precision, chunked=chunked, padded=resolved.layout == "gpu"
            ),
            streams=resolved.streams,
            sharers=resolved.sharers,
        )
        self._lock = threading.RLock()

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: str | PathLike[str] = DEFAULT_MODEL,
        *,
        scale: int | None = None,
        engine: AnyEngineName = "auto",
        precision: Precision = "auto",
        tile: int | Literal["auto"] = "auto",
        overlap: int | Literal["auto"] = "auto",
        batch: int | Literal["auto"] = "auto",
        device: str = "auto",
        threads: int | None = None,
        streams: int | Literal["auto"] = 1,
        compiled: bool = False,
        reuse: ReuseMode = "auto",
        reuse_memory: int | None = None,
    ) -> Self:
        """Load a network and choose how to run it.

        Args:
            name_or_path: a known name, the path of a checkpoint, or ``auto``: the
                embedded model of the asked scale.
            scale: what comes out; a model of a larger scale is reduced to it. None takes
                the model's.
            engine, precision, device, threads, streams, compiled: see
                :class:`~hatvid.options.EngineOptions`; ``streams="auto"`` is for callers who
                give several frames at once.
            tile, overlap, batch: see :class:`~hatvid.options.TileOptions`.
            reuse, reuse_memory: see :class:`~hatvid.options.ReuseOptions`.

        Raises:
            OptionError: an option is wrong or does not fit the others.
            CheckpointError: the checkpoint cannot be found, read or trusted.
        """
        # Looked at first: a typing mistake should not wait for a download.
        engine_options = EngineOptions(
            engine=engine,
            precision=precision,
            device=device,
            threads=threads,
            streams=streams,
            compiled=compiled,
        )
        tile_options = TileOptions(tile=tile, overlap=overlap, batch=batch)
        reuse_options = ReuseOptions(mode=reuse, memory=reuse_memory)
        model = load_model(wanted := fspath(name_or_path), scale)
        return cls(
            model,
            scale=model.scale,
            output_scale=scale,
            engine_options=engine_options,
            tile_options=tile_options,
            reuse=reuse_options,
            fingerprint=state_dict_hash(model),
            name=resolve_model(wanted, scale).name,
        )

    @property
    def device(self) -> torch.device:
        """Where results are."""
        return self._runner.device

    def __call__(
        self,
        frames: Tensor,
        *,
        mended: Callable[[MendedTile], None] | None = None,
        reused: Callable[[Reused], None] | None = None,
    ) -> Tensor:
        """Upscale frames.

        Args:
            frames: (N, 3, H, W) RGB in [0, 1], any floating dtype, on any device.
            mended: told of each tile that was computed again in fp32.
            reused: told how many tiles did not have to be computed.

        Returns:
            (N, 3, sH, sW) float32 on :attr:`device`, not clamped: as the network
            gives it, it may leave [0, 1] a little. Clamp where it is quantised.

        Raises:
            OptionError: the frames are not what is said above.
            OutOfMemoryError: see :meth:`shrink`.
            EngineError: the engine cannot be built, or failed.
        """
        check_frames(frames)
        with self._lock, torch.no_grad():
            frames = frames.detach().to(self.device, torch.float32)
            height, width = frames.shape[2:]
            plan = self._planner.plan(height, width)
            canvas = Canvas(plan.tiles, len(frames), scale=self.network_scale, device=self.device)
            tiles = plan.tiles.extract(frames) if len(frames) else frames[:0]
            results = self._runner.results(
                self._spec(plan), tiles, frame=plan.tiles.count, chunked=plan.chunked
            )
            hits = 0
            for number, result in enumerate(results):
                canvas.extend((result.larger,))
                hits += result.taken
                if result.mended:
                    tile = plan.tiles.place(number)
                    _log.info("%s ran out of range and was computed in fp32", tile)
                    if mended is not None:
                        mended(MendedTile(*tile, plan.tiles.tile_height, plan.tiles.tile_width))
            counted = Reused(tiles=len(tiles), hits=hits)
            self.reused += counted
            if reused is not None:
                reused(counted)
            return resample(canvas.frames, height * self.scale, width * self.scale)

    def reuses(self, height: int, width: int) -> bool:
        """Whether a frame of the same bytes may take the result of one before; where that
        hangs on the engine, it is tried when it is first asked."""
        with self._lock, torch.no_grad():
            plan = self._planner.plan(height, width)
            return self._runner.reuses(self._spec(plan), chunked=plan.chunked)

    def forget(self) -> None:
        """Take no results from what was upscaled before."""
        with self._lock:
            self._runner.forget()

    def runtime(self, height: int, width: int) -> Runtime | None:
        """What can keep several frames of one size on their way; None if nothing can."""
        chunked = self._planner.plan(height, width).chunked
        return build_runtime(self._runner.resolved(chunked=chunked))

    def program(
        self,
        runtime: Runtime,
        inputs: tuple[Tensor, ...],
        *,
        height: int,
        width: int,
        before: Callable[[tuple[Tensor, ...]], Tensor],
        after: Callable[[Tensor], tuple[Tensor, ...]],
        own: bool = False,
    ) -> FrameProgram:
        """All that happens to frames of one size on a device, recorded.

        Args:
            runtime: from :meth:`runtime`.
            inputs: as :class:`~hatvid.frame_program.FrameProgram`, and ``before``, ``after``.
            height, width: of the frames in pixels.
            own: with an engine of its own; needed to run beside another program.

        Raises:
            OutOfMemoryError: see :meth:`shrink`.
            EngineError: the engine cannot be built, or recorded.
        """
        with self._lock, torch.no_grad():
            plan = self._planner.plan(height, width)
            spec = self._spec(plan)
            engine = self._runner.engine(spec, chunked=plan.chunked, own=own)
            size = height * self.scale, width * self.scale
            return FrameProgram(
                runtime, engine, plan.tiles, inputs, before=before, after=after, size=size
            )

    def shrink(self, height: int, width: int) -> bool:
        """Take smaller tiles for frames of one size from now on, as memory ran out.

        Frames made before and after differ along the seams: what was made with the
        larger tiles should be made again.

        Returns:
            False if there is nothing smaller: the whole frame was asked for, or the tiles
            are at their smallest.
        """
        with self._lock:
            self._runner.drop_engines()
            return self._planner.shrink(height, width)

    def warm_up(self, height: int, width: int, *, ahead: int | None = None) -> Description:
        """Build the engine for frames of one size, check it, and decide what ``auto`` stands for.

        All is decided by a fixed test picture, so that every run decides alike.

        Args:
            height, width: of the frames in pixels.
            ahead: how many frames are to come, if that is known. If they are many, ``auto`` on
                a CPU measures whether OpenVINO or PyTorch is faster, and keeps the answer for
                a network's fingerprint and size; else it is the kept one, or OpenVINO.

        Raises:
            OptionError: the size is not possible.
            EngineError: the engine cannot be built, or its picture is wrong.
        """
        with self._lock, torch.no_grad():
            plan = self._planner.plan(height, width)
            spec = self._spec(plan)
            runs = (ahead or 0) * plan.tiles.count // spec.batch
            self._runner.warm_up(spec, chunked=plan.chunked, runs=runs)
            self._planner.settle(self._runner.resolved(chunked=False))
            if (settled := self._spec(self._planner.plan(height, width))) != spec:
                self._runner.warm_up(settled, chunked=plan.chunked)
            return self.describe(height, width)

    def describe(self, height: int, width: int) -> Description:
        """How frames of one size are, or would be, upscaled.

        Raises:
            OptionError: the size is not possible.
        """
        with self._lock:
            plan = self._planner.plan(height, width)
            resolved = self._runner.resolved(chunked=plan.chunked)
            return Description(
                model=self.name,
                scale=self.scale,
                network_scale=self.network_scale,
                engine=resolved.engine,
                precision="auto" if resolved.tentative else resolved.precision,
                layout=resolved.layout,
                kernel=resolved.kernel,
                device=str(resolved.device),
                threads=resolved.threads,
                streams=resolved.streams,
                tile_height=plan.tiles.tile_height,
                tile_width=plan.tiles.tile_width,
                overlap=plan.tiles.rows.overlap,
                tiles=plan.tiles.count,
                tile=plan.asked,
                chunked=plan.chunked,
                batch=plan.batch,
                fidelity=self._runner.fidelity,
                refused=tuple(self._runner.selection.refused),
                warning=self._runner.selection.warning,
                alone=resolved.slots(plan.batch) == 1,
                streamed=resolved.streamed,
                reuse=self._runner.reuse(self._spec(plan), chunked=plan.chunked),
            )

    def close(self) -> None:
        """Free engines and module. Upscaling afterwards is an error."""
        with self._lock:
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _spec(self, plan: FramePlan) -> TileSpec:
        return plan.spec(self.network_scale, self.device)
