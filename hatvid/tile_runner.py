"""Batches of tiles through engines: built when needed, the precision decided once, tiles
that ran out of range computed again, and those that were computed before not again."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from hatvid.engine import COMPILERS, Engine, ResolvedEngine, TileSpec
from hatvid.engine.cache import (
    ModelCache,
    code_hash,
    default_cache_dir,
    hatvid_version,
    library_version,
)
from hatvid.engine.calibration import faster_on_cpu, fused_is_faster
from hatvid.engine.fidelity import Fidelity, compare, is_flat, probe
from hatvid.engine.memory import available_memory
from hatvid.engine.repeatable import is_repeatable
from hatvid.engine.sentinel import suspects
from hatvid.errors import EngineError, OptionError
from hatvid.model.forms import Forms
from hatvid.options import Precision, ReuseOptions
from hatvid.reuse import Result, TileReuse
from hatvid.tile_cache import Identity, TileCache

__all__ = ["EngineFactory", "TileRunner"]

EngineFactory = Callable[[nn.Module, TileSpec, ResolvedEngine, str | None], Engine]
"""Like :func:`hatvid.engine.build_engine`."""

_ENGINES_KEPT = 2

_Key = tuple[TileSpec, bool, str]
"""Shape, whether in chunks, precision."""

_log = logging.getLogger(__name__)


class TileRunner:
    """Runs batches of tiles of any shape through one network.

    In fp16 and bf16 every tile is looked at (:mod:`hatvid.engine.sentinel`); one that
    ran out of range is computed again in fp32.

    Args:
        forms: of the network.
        resolved: which engine runs it.
        asked: the precision as it was asked for.
        factory: builds engines.
        free: the engine was not asked for by name, so that the fastest may be taken.
        fingerprint: names the network's weights and configuration exactly; None keeps
            no compiled model on disk.
        reuse: whether results are taken from tiles before, and what may be kept of them.

    Raises:
        OptionError: only HAT can be brought to the precision.
    """

    def __init__(
        self,
        forms: Forms,
        resolved: ResolvedEngine,
        *,
        asked: Precision,
        factory: EngineFactory,
        fingerprint: str | None,
        free: bool = False,
        reuse: ReuseOptions | None = None,
    ) -> None:
        self._forms: Forms | None = forms
        self._resolved = _possible(resolved, forms)
        self._asked = asked
        self._free = free and resolved.engine == "openvino"
        self._factory = factory
        self._fingerprint = fingerprint
        self._engines: OrderedDict[_Key, Engine] = OrderedDict()
        self.fidelity: Fidelity | None = None
        """What the precision was decided by, if it was."""
        self._reuse = reuse or ReuseOptions()
        self._before: TileReuse | None = None
        # Whether engines give the same bits for the same tile, of those that were tried.
        self._repeatable: dict[Identity, bool] = {}

    @property
    def device(self) -> torch.device:
        """Where results are."""
        return self._resolved.device

    def resolved(self, *, chunked: bool) -> ResolvedEngine:
        """The engine that runs tiles, or whole frames in chunks: PyTorch's business alone."""
        if not chunked or self._resolved.engine not in COMPILERS:
            return self._resolved
        precision = "fp32" if self._asked == "auto" else self._asked
        return replace(self._resolved.settled(precision), engine="eager", streams=1)

    def warm_up(
        self, spec: TileSpec, tiles: Tensor, *, chunked: bool = False, runs: int = 0
    ) -> None:
        """Build the engine for a spec.

        Args:
            tiles: (n, C, H, W), at most a batch; the precision is decided by them if need be.
            runs: that lie ahead, if that is known; many make it worth while to measure which
                engine is the fastest.
        """
        tiles = _fill(tiles, spec.batch)
        if self._free and not chunked:
            if self._resolved.tentative:  # which engine is faster hangs on the precision
                self._decide_precision(spec, tiles, chunked)
            self._decide_engine(spec, tiles, runs)
        self._engine(spec, tiles, chunked)

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
        engine = self._engine(spec, filled, chunked)
        larger = engine.run(filled)[: len(part)]
        if engine.precision == "fp32":
            return larger, []
        again: list[int] = suspects(part, larger).nonzero().flatten().tolist()
        if again:
            larger = larger.clone()  # the engine's own buffer may be used by the other
            exact = self._built(spec, chunked, self.resolved(chunked=chunked).settled("fp32"))
            # Each in the slot where it was, which bits may depend on.
            larger[again] = exact.run(filled)[again]
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
        self.warm_up(spec, tiles[: spec.batch], chunked=chunked)

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
        if self.resolved(chunked=chunked).tentative:
            self.warm_up(spec, probe(spec), chunked=chunked)
        identity = self.identity(spec, chunked=chunked)
        if identity not in self._repeatable:
            engine = self.engine(spec, chunked=chunked)
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
        """The engine for a spec, once :meth:`warm_up` has decided the precision.

        Args:
            own: one more, which the caller closes.

        Raises:
            EngineError: it cannot be built.
        """
        resolved = self.resolved(chunked=chunked)
        if own:
            return self._make(spec, chunked, resolved)
        return self._built(spec, chunked, resolved)

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
        self._forms = None

    def _engine(self, spec: TileSpec, tiles: Tensor, chunked: bool) -> Engine:
        """The engine for a spec; ``tiles``, one batch, decide the precision if need be."""
        if self.resolved(chunked=chunked).tentative:
            self._decide_precision(spec, tiles, chunked)
        return self._built(spec, chunked, self.resolved(chunked=chunked))

    def _built(self, spec: TileSpec, chunked: bool, resolved: ResolvedEngine) -> Engine:
        key = (spec, chunked, resolved.precision)
        if key not in self._engines:
            while len(self._engines) >= _ENGINES_KEPT:
                self._engines.popitem(last=False)[1].close()
            self._engines[key] = self._make(spec, chunked, resolved)
        self._engines.move_to_end(key)
        return self._engines[key]

    def _make(self, spec: TileSpec, chunked: bool, resolved: ResolvedEngine) -> Engine:
        if self._forms is None:
            raise EngineError("the upscaler was closed; make a new one")
        compiler = resolved.engine == "openvino"
        network = self._forms.form(
            "fp32" if compiler else resolved.precision,
            chunked=chunked,
            padded=resolved.device.type == "cuda",
            fused=self._fused(self._forms, spec, chunked, resolved),
            compiler=compiler,
        )
        return self._factory(network, spec, resolved, self._fingerprint)

    def _fused(self, forms: Forms, spec: TileSpec, chunked: bool, resolved: ResolvedEngine) -> bool:
        """Whether attention of our own is faster than PyTorch's: measured, on a GPU."""
        if resolved.engine != "cudagraph" or chunked or not forms.rewritable:
            return False

        def build(fused: bool) -> Engine:
            network = forms.form(resolved.precision, padded=True, fused=fused)
            return self._factory(network, spec, resolved, self._fingerprint)

        return fused_is_faster(
            resolved, spec, build, network=str(forms.config), cache=self._choices()
        )

    def _free_memory(self) -> int:
        return available_memory(self.device) // self._resolved.sharers

    def _choices(self) -> ModelCache | None:
        """What was measured before; nothing of a network that has no name."""
        return ModelCache(default_cache_dir("choices")) if self._fingerprint else None

    def _decide_engine(self, spec: TileSpec, tiles: Tensor, runs: int) -> None:
        """OpenVINO or PyTorch, once and for all: what was measured, now or before."""
        self._free = False
        if self._forms is None:
            return
        before, rewritable = self._resolved, self._forms.rewritable
        chosen = faster_on_cpu(
            before,
            spec,
            lambda resolved: self._make(spec, False, resolved),
            fingerprint=self._fingerprint,
            code=code_hash(self._forms.form()),
            eager_precision=before.precision if rewritable else "fp32",
            cache=self._choices(),
            runs=runs,
        )
        if chosen.engine == before.engine:
            return
        told = self.fidelity
        self.drop_engines()
        self._resolved = chosen
        if chosen.precision != "fp32" and self._asked == "auto":
            self._decide_precision(spec, tiles, chunked=False)
            if self._resolved.precision == "fp32":
                # PyTorch in 16 bits was the faster, and is not near enough; OpenVINO was.
                self.drop_engines()
                self._resolved, self.fidelity = before, told

    def _decide_precision(self, spec: TileSpec, tiles: Tensor, chunked: bool) -> None:
        """Keep the faster precision if its output is near enough to that of fp32."""
        tiles = probe(spec) if is_flat(tiles) else tiles
        fp32 = self._resolved.settled("fp32")
        fast = self._resolved.settled(self._resolved.precision)
        # One after the other: both at once would take twice the memory.
        engine = self._make(spec, chunked, fp32)
        try:
            reference = engine.run(tiles).clone()
        finally:
            engine.close()
        del engine
        engine = self._make(spec, chunked, fast)
        try:
            self.fidelity = compare(reference, engine.run(tiles))
        except BaseException:
            engine.close()
            raise
        chosen = fast if self.fidelity.sufficient else fp32
        _log.info(
            "%s against fp32: SNR %.1f dB, largest error %.5f; running in %s",
            fast.precision,
            self.fidelity.snr,
            self.fidelity.max_error,
            chosen.precision,
        )
        if chosen is fast:
            self._engines[spec, chunked, fast.precision] = engine
        else:
            engine.close()
        self._resolved = chosen


def _possible(resolved: ResolvedEngine, forms: Forms) -> ResolvedEngine:
    """What PyTorch computes in fp16 or bf16 must have been brought to it, as only HAT can be."""
    if resolved.engine == "openvino" or resolved.precision == "fp32" or forms.rewritable:
        return resolved
    if resolved.tentative:
        return resolved.settled("fp32")
    raise OptionError(
        f"in {resolved.precision} engine {resolved.engine} runs HAT alone; "
        "choose precision fp32 for this network"
    )


def _fill(part: Tensor, batch: int) -> Tensor:
    """A short batch, filled up by repeating its last tile."""
    missing = batch - len(part)
    return torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part
