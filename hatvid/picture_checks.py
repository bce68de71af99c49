"""Checks of the engines of one network, and what was found before.

What is measured, and why, stands in :mod:`hatvid.engine.checks`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from hatvid.engine import COMPILERS, Engine, ResolvedEngine, TileSpec
from hatvid.engine.cache import (
    ModelCache,
    code_hash,
    default_cache_dir,
    hatvid_version,
    library_version,
    package_hash,
)
from hatvid.engine.calibration import device_facts
from hatvid.engine.checks import (
    FORM_SHAPE,
    FP32_FORM,
    FP32_OTHER,
    MOST_GFLOP,
    ROUNDING,
    SHAPE,
    STAND_IN,
    FormPictures,
    continued,
    gflop,
    reference,
    worst,
)
from hatvid.engine.fidelity import MIN_SNR, Fidelity
from hatvid.errors import EngineError
from hatvid.model.calibration import calibration_picture
from hatvid.model.forms import Forms

__all__ = ["Failure", "FormFigures", "PictureChecks", "plain"]

Make = Callable[[TileSpec, bool, ResolvedEngine], Engine]
"""Builds an engine for a shape, in chunks or not."""


@dataclass(frozen=True, kw_only=True)
class FormFigures:
    """What the form check measured, in dB; kept on disk."""

    fp32: float | None
    """Built in fp32; None for a kernel that has no fp32."""
    snr: float
    """Built in the precision that runs, as ``max_error``."""
    max_error: float
    floor: float | None
    """The same numbers without padding, fusion or capture; None in fp32."""


@dataclass(frozen=True)
class Failure:
    """Why a candidate is not used."""

    short: str
    error: EngineError
    hard: bool = False
    """The picture is wrong, and not only a precision's."""

    @classmethod
    def of(cls, resolved: ResolvedEngine, error: EngineError) -> Failure:
        """A candidate that cannot be built or run."""
        # Without its traceback, which would keep maps alive.
        return cls(f"{_name(resolved)}: {error}", error.with_traceback(None))

    @classmethod
    def wrong(
        cls, resolved: ResolvedEngine, snr: float, least: float, most: float = 0.0
    ) -> Failure:
        """A candidate whose picture is not the network's."""
        kernel = "" if resolved.kernel == "default" else f" with attention {resolved.kernel}"
        error = f", differs from it by up to {most:.3f}," if most else ""
        return cls(
            f"{_name(resolved)}: {snr:.1f} dB, must have {least:.1f}",
            EngineError(
                f"engine {resolved.engine} in {resolved.precision}{kernel} gives a wrong picture: "
                f"against the network itself it has {snr:.1f} dB{error} and must have "
                f"{least:.1f} dB; choose --precision fp32 or --engine eager"
            ),
        )


def plain(resolved: ResolvedEngine) -> ResolvedEngine:
    """PyTorch as it is, in the same precision."""
    return replace(
        resolved, engine="eager", layout="cpu", kernel="default", streams=1, compiled=False
    )


def _name(resolved: ResolvedEngine) -> str:
    named = resolved.engine if resolved.kernel == "default" else resolved.kernel
    return f"{named} in {resolved.precision}"


class PictureChecks:
    """Measures engines against the network itself, and remembers what it found.

    Args:
        forms: of the network.
        make: builds engines of the network.
        scale: of the network.
        device: where engines run.
        threads: of the CPU.
        fingerprint: names the network's weights and configuration exactly; None keeps
            nothing on disk.

    Attributes:
        fidelity: what the job check measured last; None where the engine is the network
            itself.
    """

    def __init__(
        self,
        forms: Forms,
        make: Make,
        *,
        scale: int,
        device: torch.device,
        threads: int,
        fingerprint: str | None,
    ) -> None:
        self._forms = forms
        self._make = make
        self._scale = scale
        self._device = device
        self._threads = threads
        self._fingerprint = fingerprint
        self._floors: dict[tuple[str, bool], float] = {}
        self._figures: dict[str, Mapping[str, float | None]] = {}
        self.fidelity: Fidelity | None = None

    # The form that a GPU is given.

    def form_is_due(self, resolved: ResolvedEngine, *, chunked: bool) -> bool:
        """Whether the form check is still to come. TensorRT takes minutes for each shape, and
        has the job check alone."""
        checked = resolved.layout == "gpu" and resolved.engine not in COMPILERS
        return checked and self._form_of(resolved, chunked) is None

    def form(self, candidate: ResolvedEngine, *, chunked: bool) -> Failure | None:
        """Measure what a GPU is given at a small shape, and say what is wrong with it."""
        try:
            figures = self._remembered(
                self.identity("form", candidate, chunked, None),
                lambda: asdict(self.measure_form(candidate, chunked=chunked)),
            )
        except EngineError as error:
            return Failure.of(candidate, error)
        found = FormFigures(**figures)  # type: ignore[arg-type]
        least = self.fp32_bar
        if found.fp32 is not None and found.fp32 < least:
            return Failure.wrong(candidate.fp32, found.fp32, least)
        if found.floor is not None and found.snr < found.floor - ROUNDING:
            return Failure.wrong(candidate, found.snr, found.floor - ROUNDING)
        return None

    @property
    def fp32_bar(self) -> float:
        """dB that the network must have in fp32 at the form check's shape."""
        return FP32_FORM if self._forms.rewritable else FP32_OTHER

    def measure_form(self, candidate: ResolvedEngine, *, chunked: bool = False) -> FormFigures:
        """Run what a GPU is given at a small shape, in fp32 and in the candidate's precision.

        Raises:
            EngineError: it cannot be built, or failed.
        """
        pictures, references = self._form_pictures
        spec = pictures.spec(self._scale)

        def run(resolved: ResolvedEngine) -> Fidelity:
            engine = self._make(spec, chunked, resolved)
            try:
                return pictures.run(engine, references)
            finally:
                engine.close()

        exact = None if candidate.kernel == "cudnn" else run(candidate.fp32)
        found, floor = exact, None
        if found is None or candidate.precision != "fp32":
            found = run(candidate)
            key = candidate.precision, chunked
            if key not in self._floors:
                # The same numbers, without padding, fusion and capture.
                self._floors[key] = run(plain(candidate)).snr
            floor = self._floors[key]
        return FormFigures(
            fp32=None if exact is None else exact.snr,
            snr=found.snr,
            max_error=found.max_error,
            floor=floor,
        )

    @cached_property
    def _form_pictures(self) -> tuple[FormPictures, tuple[Tensor, ...]]:
        """The form check's inputs, and what the network itself makes of them."""
        grid = self._forms.grid
        size = FORM_SHAPE if self._forms.rewritable else tuple(_up(n, grid) for n in FORM_SHAPE)
        pictures = FormPictures(calibration_picture(), size, self._device)
        return pictures, tuple(self._reference(picture) for picture in pictures.pictures)

    def _form_of(self, resolved: ResolvedEngine, chunked: bool) -> float | None:
        """dB that the form check measured; None if there was none."""
        figures = self._figures.get(self.identity("form", resolved, chunked, None))
        return None if figures is None else figures["snr"]

    # At the job's shape.

    def job(
        self, engine: Engine, spec: TileSpec, resolved: ResolvedEngine, *, chunked: bool
    ) -> Failure | None:
        """Measure the very engine that a job uses, and say what is wrong with it."""
        if resolved.engine == "eager" and resolved.layout == "cpu" and not self._forms.rewritable:
            self.fidelity = None  # it is the reference
            return None
        figures = self._remembered(
            self.identity("job", resolved, chunked, spec),
            lambda: self._measure_job(engine, spec, chunked, resolved),
        )
        snr, most = figures["snr"], figures["max_error"]
        assert snr is not None
        assert most is not None
        self.fidelity = Fidelity(snr=snr, max_error=most)
        low = resolved.precision != "fp32"
        form = self._form_of(resolved, chunked)
        least = form - SHAPE if form is not None else -torch.inf if low else FP32_OTHER
        if snr < least:
            return replace(Failure.wrong(resolved, snr, least), hard=True)
        if low and not self.fidelity.sufficient:
            return Failure.wrong(resolved, snr, MIN_SNR, most)
        return None

    def _measure_job(
        self, engine: Engine, spec: TileSpec, chunked: bool, resolved: ResolvedEngine
    ) -> dict[str, float | None]:
        picture = calibration_picture()
        if self._device.type == "cpu" and gflop(self._forms.published, spec) > MOST_GFLOP:
            side = _up(STAND_IN, self._forms.grid)
            spec = replace(spec, batch=1, height=side, width=side)
            stand_in = self._make(spec, chunked, resolved)
            try:
                tiles = continued(picture, spec)
                return asdict(worst(self._reference(tiles), stand_in.run(tiles)))
            finally:
                stand_in.close()
        tiles = continued(picture, spec)
        return asdict(worst(self._reference(tiles), engine.run(tiles)))

    def _reference(self, tiles: Tensor) -> Tensor:
        in_chunks = self._forms.published_in_chunks if self._forms.rewritable else None
        return reference(self._forms.published, in_chunks, tiles, self._scale, self._threads)

    # What was found before.

    def identity(
        self, check: str, resolved: ResolvedEngine, chunked: bool, spec: TileSpec | None
    ) -> str:
        """All that the result of a check depends on."""
        about = {
            "check": check,
            "network": self._fingerprint or "",
            "code": self._code,
            "engine": resolved.engine,
            "precision": resolved.precision,
            "layout": resolved.layout,
            "kernel": resolved.kernel,
            "compiled": resolved.compiled,
            "chunked": chunked,
            "shape": "" if spec is None else str(spec.input_shape),
            "hatvid": hatvid_version(),
            "torch": torch.__version__,
            "library": library_version(resolved.engine),
            "device": device_facts(resolved.device),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _remembered(
        self, key: str, measure: Callable[[], dict[str, float | None]]
    ) -> Mapping[str, float | None]:
        """Figures of a check, measured now or before."""
        if key not in self._figures:
            cache = self._cache("checks")
            kept = None if cache is None else cache.read(key)
            figures = measure() if kept is None else json.loads(kept)
            if kept is None and cache is not None:
                cache.write(key, json.dumps(figures).encode())
            self._figures[key] = figures
        return self._figures[key]

    @cached_property
    def _code(self) -> str:
        return code_hash(self._forms.form()) + package_hash("hatvid.engine")

    def _cache(self, name: str) -> ModelCache | None:
        """Nothing of a network that has no name."""
        return ModelCache(default_cache_dir(name)) if self._fingerprint else None


def _up(size: int, grid: int) -> int:
    """The next multiple of the grid."""
    return -(-size // grid) * grid
