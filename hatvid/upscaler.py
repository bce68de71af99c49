"""Frames in, larger frames out: a :class:`~hatvid.tiling.TilePlan` and an engine."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fspath
from types import TracebackType
from typing import Literal, Self

import torch
from torch import Tensor, nn

from hatvid.engine import Engine, ResolvedEngine, TileSpec, build_engine, resolve_engine
from hatvid.engine.fidelity import Fidelity, compare, is_flat, probe
from hatvid.engine.memory import available_memory, bytes_per_pixel, choose_tile
from hatvid.errors import EngineError, OptionError
from hatvid.model.checkpoint import state_dict_hash
from hatvid.model.zoo import load_model, resolve_model
from hatvid.options import (
    DEFAULT_MODEL,
    DEFAULT_OVERLAP,
    EngineName,
    EngineOptions,
    Precision,
    TileOptions,
)
from hatvid.tiling import Canvas, TilePlan

__all__ = ["Description", "EngineFactory", "Upscaler"]

EngineFactory = Callable[[nn.Module, TileSpec, ResolvedEngine, str | None], Engine]
"""Like :func:`hatvid.engine.build_engine`."""

_ENGINES_KEPT = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Description:
    """How frames of one size are upscaled: every choice, with ``auto`` decided."""

    model: str
    scale: int
    engine: str
    precision: str
    """``auto`` until the first frames, or :meth:`Upscaler.warm_up`, decided it."""
    device: str
    threads: int
    tile_height: int
    """In input pixels, as is all that follows."""
    tile_width: int
    overlap: int
    tiles: int
    """Of one frame."""
    batch: int
    fidelity: Fidelity | None
    """What the precision was decided by, if it was."""


class Upscaler:
    """Runs a network over frames of any size.

    Frames are cut into tiles, the tiles of all frames packed into batches of one
    fixed shape (the last is filled up: bits depend on the batch shape, so what a
    frame becomes must not depend on how many come with it), and put together.

    What ``auto`` stands for is decided once and then holds as long as the
    upscaler: the tile for each frame size by the memory then free; the precision
    by comparing the first batch with fp32 (:mod:`hatvid.engine.fidelity`).

    Calls from several threads run one after another. Use it as a context manager,
    or call :meth:`close`.

    Args:
        module: maps (N, 3, H, W) to (N, 3, sH, sW), float32. It is not changed.
        scale: s.
        engine_options: which engine, precision, device, threads.
        tile_options: tile, overlap, batch.
        fingerprint: names the module's weights and configuration exactly; without
            one, no compiled model is kept on disk.
        engine_factory: builds engines, in place of hatvid's own.
        name: of the model, for messages.

    Raises:
        OptionError: the options do not fit each other or this machine.
    """

    name: str
    scale: int

    def __init__(
        self,
        module: nn.Module,
        *,
        scale: int,
        engine_options: EngineOptions | None = None,
        tile_options: TileOptions | None = None,
        fingerprint: str | None = None,
        engine_factory: EngineFactory = build_engine,
        name: str = "custom",
    ) -> None:
        if scale < 1:
            raise OptionError(f"scale is {scale}; it must be at least 1")
        self.name = name
        self.scale = scale
        self._module: nn.Module | None = module
        self._resolved = resolve_engine(engine_options or EngineOptions())
        self._tiles = tile_options or TileOptions()
        self._fingerprint = fingerprint
        self._factory = engine_factory
        self._fidelity: Fidelity | None = None
        self._bytes_per_pixel: int | None = None
        self._plans: dict[tuple[int, int], TilePlan] = {}
        self._engines: OrderedDict[TileSpec, Engine] = OrderedDict()
        self._lock = threading.RLock()

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: str | PathLike[str] = DEFAULT_MODEL,
        *,
        scale: int | None = None,
        engine: EngineName = "auto",
        precision: Precision = "auto",
        tile: int | Literal["auto"] = "auto",
        overlap: int = DEFAULT_OVERLAP,
        batch: int | Literal["auto"] = "auto",
        device: str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Load a HAT and choose how to run it.

        Args:
            name_or_path: a known name, the path of a checkpoint, or ``auto``: the
                embedded model of the asked scale.
            scale: what the model must have; None takes what it has.
            engine: see :class:`~hatvid.options.EngineOptions`, as ``precision``,
                ``device`` and ``threads``.
            precision: ``auto``, ``fp32`` or ``bf16``.
            tile: see :class:`~hatvid.options.TileOptions`, as ``overlap`` and ``batch``.
            overlap: in input pixels.
            batch: tiles in one call of the engine.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            threads: of the CPU.

        Raises:
            OptionError: an option is wrong or does not fit the others.
            CheckpointError: the checkpoint cannot be found, read or trusted.
        """
        # The options are looked at first: a typing mistake should not wait for a download.
        engine_options = EngineOptions(
            engine=engine, precision=precision, device=device, threads=threads
        )
        tile_options = TileOptions(tile=tile, overlap=overlap, batch=batch)
        wanted = fspath(name_or_path)
        model = load_model(wanted, scale)
        return cls(
            model,
            scale=model.config.upscale,
            engine_options=engine_options,
            tile_options=tile_options,
            fingerprint=state_dict_hash(model),
            name=resolve_model(wanted, scale).name,
        )

    @property
    def device(self) -> torch.device:
        """Where results are."""
        return self._resolved.device

    def __call__(self, frames: Tensor) -> Tensor:
        """Upscale frames.

        Args:
            frames: (N, 3, H, W) RGB in [0, 1], any floating dtype, on any device.

        Returns:
            (N, 3, sH, sW) float32 on :attr:`device`, not clamped: as the network
            gives it, it may leave [0, 1] a little. Clamp where it is quantised.

        Raises:
            OptionError: the frames are not what is said above.
            EngineError: the engine cannot be built, or failed.
        """
        _check_frames(frames)
        with self._lock, torch.no_grad():
            frames = frames.detach().to(self.device, torch.float32)
            plan = self._plan(frames.shape[2], frames.shape[3])
            canvas = Canvas(plan, len(frames), scale=self.scale, device=self.device)
            if not len(frames):
                return canvas.frames
            tiles = plan.extract(frames)
            spec = self._spec(plan)
            for start in range(0, len(tiles), spec.batch):
                part = tiles[start : start + spec.batch]
                filled = _fill(part, spec.batch)
                canvas.extend(self._engine(spec, filled).run(filled)[: len(part)])
            return canvas.frames

    def warm_up(self, height: int, width: int, frames: Tensor | None = None) -> Description:
        """Build the engine for frames of one size, and decide the precision.

        Args:
            height: of the frames in pixels.
            width: of the frames in pixels.
            frames: (N, 3, height, width), to decide the precision by; without them
                it is decided by a fixed test picture, so that every run decides alike.

        Raises:
            OptionError: the size, or the frames, are not possible.
            EngineError: the engine cannot be built.
        """
        with self._lock, torch.no_grad():
            plan = self._plan(height, width)
            spec = self._spec(plan)
            if frames is None:
                tiles = probe(spec)
            else:
                _check_frames(frames)
                tiles = plan.extract(frames.detach().to(self.device, torch.float32))
            self._engine(spec, _fill(tiles[: spec.batch], spec.batch))
            return self.describe(height, width)

    def describe(self, height: int, width: int) -> Description:
        """How frames of one size are, or would be, upscaled.

        Raises:
            OptionError: the size is not possible.
        """
        with self._lock:
            plan = self._plan(height, width)
            resolved = self._resolved
            return Description(
                model=self.name,
                scale=self.scale,
                engine=resolved.engine,
                precision="auto" if resolved.tentative else resolved.precision,
                device=str(resolved.device),
                threads=resolved.threads,
                tile_height=plan.tile_height,
                tile_width=plan.tile_width,
                overlap=self._tiles.overlap,
                tiles=plan.count,
                batch=self._spec(plan).batch,
                fidelity=self._fidelity,
            )

    def close(self) -> None:
        """Free engines and module. Upscaling afterwards is an error."""
        with self._lock:
            while self._engines:
                self._engines.popitem()[1].close()
            self._module = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_module(self) -> nn.Module:
        if self._module is None:
            raise EngineError("the upscaler was closed; make a new one")
        return self._module

    def _plan(self, height: int, width: int) -> TilePlan:
        if (height, width) not in self._plans:
            tile = self._tiles.tile
            if tile == "auto":
                tile = self._auto_tile(height, width)
            self._plans[height, width] = TilePlan.make(
                height, width, tile=tile, overlap=self._tiles.overlap
            )
        return self._plans[height, width]

    def _auto_tile(self, height: int, width: int) -> int:
        if self._bytes_per_pixel is None:
            self._bytes_per_pixel = bytes_per_pixel(
                self._open_module(), scale=self.scale, engine=self._resolved.engine
            )
        batch = 1 if self._tiles.batch == "auto" else self._tiles.batch
        # The result itself, and the strip of it that is being put together.
        result = 2 * height * width * 3 * self.scale**2 * torch.float32.itemsize
        return choose_tile(
            height,
            width,
            self._bytes_per_pixel * batch,
            max(available_memory(self.device) - result, 0),
            self._tiles.overlap,
        )

    def _spec(self, plan: TilePlan) -> TileSpec:
        # One tile keeps all cores busy, and a larger tile is better than more of them.
        batch = 1 if self._tiles.batch == "auto" else self._tiles.batch
        return TileSpec(
            batch=batch,
            height=plan.tile_height,
            width=plan.tile_width,
            scale=self.scale,
            device=self.device,
        )

    def _engine(self, spec: TileSpec, tiles: Tensor) -> Engine:
        """The engine for a spec; ``tiles``, one batch, decide the precision if need be."""
        module = self._open_module()
        if self._resolved.tentative:
            self._decide_precision(module, spec, tiles)
        if spec not in self._engines:
            while len(self._engines) >= _ENGINES_KEPT:
                self._engines.popitem(last=False)[1].close()
            self._engines[spec] = self._factory(module, spec, self._resolved, self._fingerprint)
        self._engines.move_to_end(spec)
        return self._engines[spec]

    def _decide_precision(self, module: nn.Module, spec: TileSpec, tiles: Tensor) -> None:
        """Keep the faster precision if its output is near enough to that of fp32."""
        tiles = probe(spec) if is_flat(tiles) else tiles
        fp32 = self._resolved.settled("fp32")
        fast = self._resolved.settled(self._resolved.precision)
        # One after the other: both at once would take twice the memory.
        engine = self._factory(module, spec, fp32, self._fingerprint)
        try:
            reference = engine.run(tiles).clone()
        finally:
            engine.close()
        del engine
        engine = self._factory(module, spec, fast, self._fingerprint)
        try:
            self._fidelity = compare(reference, engine.run(tiles))
        except BaseException:
            engine.close()
            raise
        chosen = fast if self._fidelity.sufficient else fp32
        _log.info(
            "%s against fp32: SNR %.1f dB, largest error %.5f; running in %s",
            fast.precision,
            self._fidelity.snr,
            self._fidelity.max_error,
            chosen.precision,
        )
        if chosen is fast:
            self._engines[spec] = engine
        else:
            engine.close()
        self._resolved = chosen


def _fill(part: Tensor, batch: int) -> Tensor:
    """A short batch, filled up by repeating its last tile."""
    missing = batch - len(part)
    return torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part


def _check_frames(frames: Tensor) -> None:
    if not isinstance(frames, Tensor):
        raise OptionError(f"frames are {type(frames).__name__}; pass a torch tensor (N, 3, H, W)")
    if not frames.is_floating_point():
        raise OptionError(
            f"frames are {frames.dtype}; pass floating point in [0, 1], for 8 bits "
            "frames.float() / 255"
        )
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise OptionError(
            f"frames are {tuple(frames.shape)}; pass RGB (N, 3, H, W), one picture as (1, 3, H, W)"
        )
