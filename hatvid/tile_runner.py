"""Batches of tiles through engines: built when needed, tiles that ran out of range computed
again, and those that were computed before not again."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from hatvid.engine import Engine, ResolvedEngine, TileSpec
from hatvid.engine.cache import hatvid_version, library_version
from hatvid.engine.fidelity import Fidelity
from hatvid.engine.memory import available_memory
from hatvid.engine.repeatable import is_repeatable
from hatvid.engine.sentinel import suspects
from hatvid.engine_selection import EngineFactory, EngineSelection
from hatvid.errors import EngineError
from hatvid.model.forms import Forms
from hatvid.options import EngineOptions, ReuseOptions
from hatvid.reuse import Result, TileReuse
from hatvid.tile_cache import Identity, TileCache

__all__ = ["TileRunner"]

_ENGINES_KEPT = 2

_Key = tuple[TileSpec, bool, ResolvedEngine | None]
"""Shape, whether in chunks, and what runs it; None is the exact one of a tile in fp32."""

_log = logging.getLogger(__name__)


class TileRunner:
    """Runs batches of tiles of any shape through one network.

    In fp16 and bf16 every tile is looked at (:mod:`hatvid.engine.sentinel`); one that
    ran out of range is computed again in fp32.

    Args:
        forms: of the network.
        resolved: which engine runs it.
        requested: the engine as it was asked for.
        scale: of the network.
        factory: builds engines.
        fingerprint: names the network's weights and configuration exactly; None keeps
            no compiled model on disk.
        checked: refuse engines that do not give the network's picture.
        reuse: whether results are taken from tiles before, and what may be kept of them.

    Raises:
        OptionError: only HAT can be brought to the precision.
    """

    def __init__(
        self,
        forms: Forms,
        resolved: ResolvedEngine,
        requested: EngineOptions,
        *,
        scale: int,
        factory: EngineFactory,
        fingerprint: str | None,
        checked: bool = True,
        reuse: ReuseOptions | None = None,
    ) -> None:
        self._selection: EngineSelection | None = EngineSelection(
            forms,
            resolved,
            requested,
            scale=scale,
            factory=factory,
            fingerprint=fingerprint,
            checked=checked,
        )
        self._device, self._sharers = resolved.device, resolved.sharers
        self._fingerprint = fingerprint
        self._engines: OrderedDict[_Key, Engine] = OrderedDict()
        self._reuse = reuse or ReuseOptions()
        self._before: TileReuse | None = None
        # Whether engines give the same bits for the same tile, of those that were tried.
        self._repeatable: dict[Identity, bool] = {}

    @property
    def fidelity(self) -> Fidelity | None:
        """Of the engine built last; see :class:`~hatvid.engine_selection.EngineSelection`."""
        return self.selection.fidelity

    @property
    def selection(self) -> EngineSelection:
        """What decides which engine runs.

        Raises:
            EngineError: the runner was closed.
        """
        if self._selection is None:
            raise EngineError("the upscaler was closed; make a new one")
        return self._selection

    @property
    def device(self) -> torch.device:
        """Where results are."""
        return self._device

    def resolved(self, *, chunked: bool) -> ResolvedEngine:
        """The engine that runs tiles, or whole frames in chunks."""
        return self.selection.resolved(chunked=chunked)

    def warm_up(self, spec: TileSpec, *, chunked: bool = False, runs: int = 0) -> None:
        """Build the engine for a spec, which decides what ``auto`` stands for.

        Args:
            runs: that lie ahead, if that is known; many make it worth while to measure which
                engine is the fastest.
        """
        self.engine(spec, chunked=chunked)
        if not chunked and (other := self.selection.decide_engine(spec, runs)) is not None:
            self.drop_engines()
            self._engines[spec, False, self.resolved(chunked=False)] = other

    def run(
        self, spec: TileSpec, part: Tensor, *, chunked: bool = False
    ) -> tuple[Tensor, list[int]]:
        """Run one batch.

        Args:
            part: (n, C, H, W), at most a batch; a short one is filled up by repeating its
                last tile.
            chunked: the tile is a whole frame, run in chunks.

        Returns:
            (n, C, sH, sW), valid until the next call, and the numbers of the tiles in it
            that were computed again in fp32.

        Raises:
            EngineError: the engine cannot be built, or failed.
        """
        filled = _fill(part, spec.batch)
        engine = self.engine(spec, chunked=chunked)
        larger = engine.run(filled)[: len(part)]
        if engine.precision == "fp32":
            return larger, []
        again: list[int] = suspects(part, larger).nonzero().flatten().tolist()
        if again:
            larger = larger.clone()  # the engine's own buffer
            exact = self._kept((spec, True, None), lambda: self.selection.exact(spec))
            for number in again:
                larger[number] = exact.run(filled[number : number + 1])[0]
        return larger, again

    def results(
        self,
        spec: TileSpec,
        tiles: Tensor,
        *,
        frame: int,
        chunked: bool = False,
    ) -> Iterator[Result]:
        """Run any number of tiles; those that were run before take their results.

        Args:
            tiles: (n, C, H, W).
            frame: how many of them a frame has.
            chunked: each is a whole frame, run in chunks.

        Returns:
            One for each tile, in order; take each before asking for the next.

        Raises:
            EngineError: the engine cannot be built, or failed.
        """
        if not len(tiles):
            return
        # The precision is part of what results depend on.
        self.engine(spec, chunked=chunked)

        def run(part: Tensor) -> tuple[Tensor, list[int]]:
            return self.run(spec, part, chunked=chunked)

        # To be looked up, a tile travels to main memory: on a GPU that takes longer than most.
        far = self.device.type == "cuda" and self._reuse.mode != "on"
        if far or self.reuse(spec, chunked=chunked) in ("off", "refused"):
            for start in range(0, len(tiles), spec.batch):
                larger, again = run(tiles[start : start + spec.batch])
                for number, one in enumerate(larger):
                    yield Result(one, mended=number in again)
            return
        if self._before is None:
            self._before = TileReuse(TileCache((self._reuse.memory or 0) * 2**20))
        if self._reuse.memory is None:
            self._before.cache.serve(frame * spec.tile_bytes, self._free_memory)
        identity = self.identity(spec, chunked=chunked)
        yield from self._before.results(
            tiles, identity, run, allowed=lambda: self.reuses(spec, chunked=chunked)
        )

    def identity(self, spec: TileSpec, *, chunked: bool = False) -> Identity:
        """What results depend on beside the tile, once the precision is decided."""
        resolved = self.resolved(chunked=chunked)
        return Identity(
            model=self._fingerprint or f"module {id(self)}",
            engine=resolved.engine,
            precision=resolved.precision,
            layout=resolved.layout,
            kernel=resolved.kernel,
            versions=(hatvid_version(), torch.__version__, library_version(resolved.engine)),
            scale=spec.scale,
            shape=spec.input_shape,
            slots=resolved.slots(spec.batch),
            chunked=chunked,
            compiled=resolved.compiled,
            threads=resolved.threads,
            streams=resolved.streams,
        )

    def reuses(self, spec: TileSpec, *, chunked: bool = False) -> bool:
        """Whether a tile may take the result of one of the same bytes.

        What the engine gives for the same tile is tried once, by two batches or three, and
        not before something comes again: where nothing does, nothing is lost.

        Raises:
            EngineError: the engine cannot be built, or failed.
        """
        if self._reuse.mode == "off":
            return False
        engine = self.engine(spec, chunked=chunked)
        identity = self.identity(spec, chunked=chunked)
        if identity not in self._repeatable:
            self._repeatable[identity] = is_repeatable(engine, identity.slots)
            if not self._repeatable[identity]:
                _log.info("%s gives other bits for the same tile; none is reused", identity)
        return self._repeatable[identity]

    def reuse(
        self, spec: TileSpec, *, chunked: bool = False
    ) -> Literal["off", "on", "untried", "refused"]:
        """What :meth:`reuses` says, without trying."""
        if self._reuse.mode == "off":
            return "off"
        known = self._repeatable.get(self.identity(spec, chunked=chunked))
        return "untried" if known is None else "on" if known else "refused"

    def engine(self, spec: TileSpec, *, chunked: bool = False, own: bool = False) -> Engine:
        """The engine for a spec, checked.

        Args:
            own: one more, which the caller closes.

        Raises:
            EngineError: it cannot be built, or its picture is wrong.
        """
        if own:
            return self.selection.build(spec, chunked=chunked)
        key = (spec, chunked, self.resolved(chunked=chunked))
        if key not in self._engines:
            self._make_room()
            engine = self.selection.build(spec, chunked=chunked)
            resolved = self.resolved(chunked=chunked)
            if resolved != key[2] and self._engines:
                # Others were refused, or decided, meanwhile: what they run is of no more use.
                for other in [each for each in self._engines if each[2] is not None]:
                    self._engines.pop(other).close()
            key = (spec, chunked, resolved)
            self._engines[key] = engine
        self._engines.move_to_end(key)
        return self._engines[key]

    def forget(self) -> None:
        """Take no results from tiles before."""
        if self._before is not None:
            self._before.cache.clear()

    def drop_engines(self) -> None:
        """Free the engines, and what is kept of tiles; they are built again when they are
        needed."""
        self._before = None
        while self._engines:
            self._engines.popitem()[1].close()

    def close(self) -> None:
        """Free engines and network. Running afterwards is an error."""
        self.drop_engines()
        self._selection = None

    def _kept(self, key: _Key, build: Callable[[], Engine]) -> Engine:
        """An engine that is kept, or built now."""
        if key not in self._engines:
            self._make_room()
            self._engines[key] = build()
        self._engines.move_to_end(key)
        return self._engines[key]

    def _make_room(self) -> None:
        while len(self._engines) >= _ENGINES_KEPT:
            self._engines.popitem(last=False)[1].close()

    def _free_memory(self) -> int:
        return available_memory(self.device) // self._sharers


def _fill(part: Tensor, batch: int) -> Tensor:
    """A short batch, filled up by repeating its last tile."""
    missing = batch - len(part)
    return torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part
