"""Which engine, precision and attention kernel run one network: decided by checks, then by time.

Nothing runs unseen. What a GPU is given is checked at a small shape in fp32, where faults of
layout stand out, then in the precision that runs; the engine that a job uses is checked at
the job's shape (:mod:`hatvid.engine.checks`). What fails is refused, and the next
candidate takes its place: another kernel, fp32, PyTorch without rewrites. Whatever was asked
for by name is never replaced: it stops with the figure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from hatvid.engine import COMPILERS, KERNELS, Engine, ResolvedEngine, TileSpec
from hatvid.engine.cache import ModelCache, code_hash, default_cache_dir
from hatvid.engine.calibration import faster_on_cpu, fastest_kernel
from hatvid.engine.fidelity import Fidelity
from hatvid.errors import EngineError, OptionError, OutOfMemoryError
from hatvid.model.forms import Forms
from hatvid.options import EngineOptions, Kernel
from hatvid.picture_checks import Failure, PictureChecks, plain

__all__ = ["EngineFactory", "EngineSelection"]

EngineFactory = Callable[[nn.Module, TileSpec, ResolvedEngine, str | None], Engine]
"""Like :func:`hatvid.engine.build_engine`."""

_log = logging.getLogger(__name__)


class EngineSelection:
    """Builds the engines of one network, each checked before it is used.

    What was decided holds as long as the selection does, but for an engine that fails at a
    shape that comes later.

    Args:
        forms: of the network.
        resolved: from :func:`~hatvid.engine.resolve_engine`.
        requested: as the user asked; what is named in it is never replaced.
        scale: of the network.
        factory: builds engines.
        fingerprint: names the network's weights and configuration exactly; None keeps
            nothing on disk.
        checked: refuse engines that do not give the network's picture.

    Attributes:
        checks: of the network's engines.
        refused: what failed a check or cannot be built, one line each.
        warning: of a precision that was asked for by name and is not near enough.

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
    ) -> None:
        self._forms = forms
        self._resolved = _possible(resolved, forms)
        self._requested = requested
        self._scale = scale
        self._factory = factory
        self._fingerprint = fingerprint
        self._free = requested.engine == "auto" and resolved.engine == "openvino"
        self._others: list[Kernel] = []  # kernels that passed, behind the one that was taken
        self.checks = PictureChecks(
            forms,
            self._make,
            scale=scale,
            device=resolved.device,
            threads=resolved.threads,
            fingerprint=fingerprint,
        )
        self._checked = checked
        self.refused: list[str] = []
        self.warning: str | None = None

    @property
    def fidelity(self) -> Fidelity | None:
        """Of the engine built last, against the network itself; None where it is the network
        itself."""
        return self.checks.fidelity

    @property
    def device(self) -> torch.device:
        """Where results are."""
        return self._resolved.device

    def resolved(self, *, chunked: bool) -> ResolvedEngine:
        """The engine that runs tiles, or whole frames in chunks, which compilers do not take."""
        if not chunked or self._resolved.engine not in COMPILERS:
            return self._resolved
        requested = self._requested.precision
        precision = "fp32" if requested == "auto" else requested
        return replace(self._resolved.settled(precision), engine="eager", streams=1)

    def build(self, spec: TileSpec, *, chunked: bool = False) -> Engine:
        """An engine that passed its checks, as :meth:`resolved` then says.

        Raises:
            EngineError: no engine that may be used passes, or can be built.
        """
        while True:
            if self._unchecked(chunked):
                self._decide_kernel(chunked)
                continue
            resolved = self.resolved(chunked=chunked)
            try:
                engine = self._make(spec, chunked, resolved)
            except OutOfMemoryError:
                raise
            except EngineError as error:
                if not self._others:
                    raise
                failure = Failure.of(resolved, error)
            else:
                try:
                    found = self._job_failure(engine, spec, chunked, resolved)
                except BaseException:
                    engine.close()
                    raise
                if found is None:
                    if resolved is self._resolved:
                        self._resolved = resolved.settled(resolved.precision)
                    return engine
                engine.close()
                failure = found
            self._refuse(failure, resolved)

    def exact(self, spec: TileSpec) -> Engine:
        """Of one tile in fp32, in little memory: for tiles that ran out of a precision's range.

        Raises:
            EngineError: it cannot be built.
        """
        resolved = plain(self._resolved.settled("fp32"))
        return self._make(replace(spec, batch=1), self._forms.rewritable, resolved)

    def decide_engine(self, spec: TileSpec, runs: int) -> Engine | None:
        """Take PyTorch in OpenVINO's place where it is measured to be faster on this CPU.

        Args:
            spec: of the tiles; :meth:`build` was called for it.
            runs: that lie ahead; many make it worth while to measure.

        Returns:
            The engine that was taken in place of the one before; None if that stays.
        """
        if not self._free or self._resolved.engine != "openvino":
            return None
        self._free = False
        before = self._resolved, self.checks.fidelity
        chosen = faster_on_cpu(
            self._resolved,
            spec,
            lambda resolved: self._make(spec, False, resolved),
            fingerprint=self._fingerprint,
            code=code_hash(self._forms.form()),
            eager_precision=self._resolved.precision if self._forms.rewritable else "fp32",
            cache=self._choices,
            runs=runs,
        )
        if chosen.engine == self._resolved.engine:
            return None
        engine = self._make(spec, False, chosen)
        self._resolved = chosen
        failure = self._job_failure(engine, spec, False, chosen)
        if failure is None:
            return engine
        # PyTorch is the faster, and not near enough; OpenVINO was.
        engine.close()
        self._note(failure)
        self._resolved, self.checks.fidelity = before
        return None

    # What is built.

    def _make(self, spec: TileSpec, chunked: bool, resolved: ResolvedEngine) -> Engine:
        network = self._network(chunked, resolved)
        final = resolved.settled(resolved.precision)
        return self._factory(network, spec, final, self._fingerprint)

    def _job_failure(
        self, engine: Engine, spec: TileSpec, chunked: bool, resolved: ResolvedEngine
    ) -> Failure | None:
        """What is wrong with the very engine that a job uses."""
        if not self._checked:
            return None
        found = self.checks.job(engine, spec, resolved, chunked=chunked)
        if found is None or found.hard or self._requested.precision == "auto":
            return found
        _log.warning("%s", found.error)
        self.warning = f"{found.short}; it runs all the same, as it was asked for by name"
        return None

    def _network(self, chunked: bool, resolved: ResolvedEngine) -> nn.Module:
        compiler = resolved.engine == "openvino"
        gpu = resolved.layout == "gpu"
        return self._forms.form(
            "fp32" if compiler else resolved.precision,
            chunked=chunked,
            padded=gpu,
            fused=resolved.kernel == "triton",
            channels_last=gpu and resolved.engine not in COMPILERS,
            compiler=compiler,
        )

    # Attention kernels.

    def _unchecked(self, chunked: bool) -> bool:
        """Whether the form check is still to come."""
        if not self._checked:
            return False
        if self.resolved(chunked=chunked) != self._resolved:
            return False
        return self._resolved.kernel == "auto" or self.checks.form_is_due(
            self._resolved, chunked=chunked
        )

    def _decide_kernel(self, chunked: bool) -> None:
        """Check each kernel that may be taken, and take the fastest that passes.

        Raises:
            EngineError: none may be taken.
        """
        resolved = self._resolved
        names: tuple[Kernel, ...]
        if resolved.kernel != "auto":
            names = (resolved.kernel,)
        else:
            names = KERNELS if self._forms.rewritable else ("default",)
            if resolved.precision == "fp32":
                names = tuple(name for name in names if name != "cudnn")  # it has no fp32
        passed: list[Kernel] = []
        failures: list[Failure] = []
        for name in names:
            candidate = replace(resolved, kernel=name)
            failure = self.checks.form(candidate, chunked=chunked)
            if failure is None:
                passed.append(name)
            else:
                failures.append(failure)
        for failure in failures if passed else failures[:-1]:
            self._note(failure)
        if not passed:
            self._others = []
            self._refuse(failures[-1], resolved)
            return
        chosen = passed[0]
        if len(passed) > 1:
            chosen = fastest_kernel(
                {name: replace(resolved, kernel=name) for name in passed},
                lambda spec, candidate: self._make(spec, chunked, candidate),
                scale=self._scale,
                network=str(self._forms.config),
                cache=self._choices,
            )
        self._others = [name for name in passed if name != chosen]
        self._resolved = replace(resolved, kernel=chosen)

    @property
    def _choices(self) -> ModelCache | None:
        """What was timed before; nothing of a network that has no name."""
        return ModelCache(default_cache_dir("choices")) if self._fingerprint else None

    # Falling back.

    def _refuse(self, failure: Failure, resolved: ResolvedEngine) -> None:
        """Take the next candidate in place of one that failed.

        Raises:
            EngineError: the failure, where there is none that may be taken.
        """
        requested, now = self._requested, self._resolved
        if resolved != now:  # PyTorch, which stands in for a compiler where there are chunks
            raise failure.error
        if self._others:
            self._resolved = replace(now, kernel=self._others.pop(0))
        elif requested.precision == "auto" and now.precision != "fp32":
            undecided = now.layout == "gpu" and now.records and requested.kernel == "auto"
            kernel = "auto" if undecided else now.kernel
            self._resolved = replace(now.settled("fp32"), kernel=kernel)
        elif requested.engine == "auto" == requested.kernel and now.engine != "eager":
            self._free = False
            self._resolved = replace(
                now.settled(now.precision),
                engine="eager",
                kernel="default",
                streams=1,
                compiled=False,
            )
        else:
            raise failure.error
        self._note(failure)

    def _note(self, failure: Failure) -> None:
        _log.warning("%s", failure.error)
        self.refused.append(failure.short)


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
