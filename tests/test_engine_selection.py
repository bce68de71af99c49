"""Which engine runs: what is checked, what is refused, and what takes its place.

No GPU is needed: a CPU builds what a GPU gets (layout ``gpu``), and engine ``replay`` records
and repeats it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hatvid.engine.recorded
import hatvid.engine_selection
import hatvid.picture_checks
from hatvid.engine import KERNELS, Engine, ResolvedEngine, TileSpec, build_engine
from hatvid.engine.checks import continued, worst
from hatvid.engine_selection import EngineSelection
from hatvid.errors import EngineError, OutOfMemoryError
from hatvid.model.calibration import calibration_picture
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT, HATConfig
from hatvid.options import EngineOptions

CPU = torch.device("cpu")
SCALE = 2
SPEC = TileSpec(batch=1, height=32, width=48, scale=SCALE)
SMALL = (16, 24)
"""Of the form check, where only what follows from it is looked at."""


@pytest.fixture(scope="module")
def forms() -> Forms:
    """Of a small network with every kind of block; heads have to be padded."""
    config = HATConfig(
        embed_dim=24, depths=(2,), num_heads=(2,), squeeze_factor=6, num_feat=8, upscale=SCALE
    )
    generator = torch.Generator().manual_seed(3)
    network = HAT(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return Forms(network)


class Factory:
    """Builds the real engines; what ``wrong`` says is off, or cannot be built."""

    def __init__(self, wrong: Callable[[TileSpec, ResolvedEngine], float | EngineError]) -> None:
        self.wrong = wrong
        self.built: list[tuple[TileSpec, ResolvedEngine]] = []
        self.open = 0

    def __call__(
        self, module: nn.Module, spec: TileSpec, resolved: ResolvedEngine, fingerprint: str | None
    ) -> Engine:
        noise = self.wrong(spec, resolved)
        if isinstance(noise, EngineError):
            raise noise
        self.built.append((spec, resolved))
        engine = build_engine(module, spec, resolved, None)
        run, close = engine.run, engine.close
        self.open += 1

        def shifted(tiles: Tensor) -> Tensor:
            output = run(tiles)
            ramp = torch.linspace(-1, 1, output.numel()).view(output.shape)
            return output + noise * output.std() * ramp

        def counted() -> None:
            self.open -= 1
            close()

        engine.run, engine.close = shifted, counted  # type: ignore[method-assign]
        return engine

    @property
    def of_checks(self) -> list[ResolvedEngine]:
        """What was built at the form check's shape."""
        return [resolved for spec, resolved in self.built if spec.input_shape[2:] == SMALL]


def selection(
    forms: Forms,
    factory: Factory,
    *,
    precision: Any = "fp32",
    tentative: bool = False,
    requested: EngineOptions | None = None,
    kernel: Any = "auto",
    fingerprint: str | None = None,
) -> EngineSelection:
    resolved = ResolvedEngine(
        engine="replay",
        precision=precision,
        tentative=tentative,
        device=CPU,
        threads=1,
        layout="gpu",
        kernel=kernel,
    )
    return EngineSelection(
        forms,
        resolved,
        requested or EngineOptions(engine="replay", kernel=kernel),
        scale=SCALE,
        factory=factory,
        fingerprint=fingerprint,
    )


def fine(spec: TileSpec, resolved: ResolvedEngine) -> float:
    return 0.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hatvid.picture_checks, "FORM_SHAPE", SMALL)


@pytest.fixture(autouse=True)
def first_is_fastest(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """In place of a measurement, which is tried elsewhere; says what was measured."""
    measured: list[tuple[str, ...]] = []

    def first(candidates: dict[str, ResolvedEngine], *_: Any, **__: Any) -> str:
        measured.append(tuple(candidates))
        return next(iter(candidates))

    monkeypatch.setattr(hatvid.engine_selection, "fastest_kernel", first)
    return measured


def test_what_a_gpu_gets_is_the_published_network(
    forms: Forms, first_is_fastest: list[tuple[str, ...]]
) -> None:
    chosen = selection(forms, factory := Factory(fine))
    engine = chosen.build(SPEC)
    assert first_is_fastest == [("efficient", "triton")], "cuDNN has no fp32"
    assert chosen.resolved(chunked=False).kernel == "efficient"
    assert chosen.fidelity is not None
    assert chosen.fidelity.snr > 100
    assert chosen.refused == []
    tiles = continued(calibration_picture(), SPEC)
    with torch.no_grad():
        assert worst(forms.published(tiles), engine.run(tiles)).snr > 100
    engine.close()
    assert factory.open == 0, "what was built for checks is closed"


def test_each_kernel_is_checked_in_the_precision_that_runs(forms: Forms) -> None:
    chosen = selection(forms, factory := Factory(fine), precision="bf16")
    chosen.build(SPEC).close()
    checked = {(each.kernel, each.precision, each.layout) for each in factory.of_checks}
    assert checked == {
        ("efficient", "fp32", "gpu"),
        ("efficient", "bf16", "gpu"),
        ("cudnn", "bf16", "gpu"),
        ("triton", "fp32", "gpu"),
        ("triton", "bf16", "gpu"),
        ("default", "bf16", "cpu"),  # the floor: the same numbers without those rewrites
    }


def test_a_kernel_that_is_wrong_in_fp32_is_refused(
    forms: Forms, first_is_fastest: list[tuple[str, ...]]
) -> None:
    """85 dB: far better than 16 bits, and a fault all the same."""

    def wrong(spec: TileSpec, resolved: ResolvedEngine) -> float:
        return 1e-4 if (resolved.kernel, resolved.precision) == ("efficient", "fp32") else 0.0

    chosen = selection(forms, Factory(wrong), precision="bf16")
    chosen.build(SPEC).close()
    assert first_is_fastest == [("cudnn", "triton")]
    (line,) = chosen.refused
    assert line.startswith("efficient in fp32: 8")
    assert line.endswith("dB, must have 90.0")


def test_a_kernel_that_loses_more_than_rounding_is_refused(
    forms: Forms, first_is_fastest: list[tuple[str, ...]]
) -> None:
    """Right in fp32, and in bf16 no worse than a video would show."""

    def wrong(spec: TileSpec, resolved: ResolvedEngine) -> float:
        return 1e-2 if (resolved.kernel, resolved.precision) == ("triton", "bf16") else 0.0

    chosen = selection(forms, Factory(wrong), precision="bf16")
    chosen.build(SPEC).close()
    assert first_is_fastest == [("efficient", "cudnn")]
    (line,) = chosen.refused
    assert line.startswith("triton in bf16: ")


def test_one_that_cannot_be_built_leaves_the_others(
    forms: Forms, first_is_fastest: list[tuple[str, ...]]
) -> None:
    def wrong(spec: TileSpec, resolved: ResolvedEngine) -> float | EngineError:
        broken = resolved.kernel == "efficient"
        return EngineError("No valid execution plans built") if broken else 0.0

    chosen = selection(forms, Factory(wrong))
    chosen.build(SPEC).close()
    assert first_is_fastest == [], "one is left"
    assert chosen.resolved(chunked=False).kernel == "triton"
    assert chosen.refused == ["efficient in fp32: No valid execution plans built"]


def test_where_none_can_be_built_the_last_error_is_raised(forms: Forms) -> None:
    chosen = selection(forms, Factory(lambda spec, resolved: EngineError("no kernel image")))
    with pytest.raises(EngineError, match="no kernel image"):
        chosen.build(SPEC)


def test_a_kernel_that_fails_at_the_jobs_shape_gives_way(forms: Forms) -> None:
    def wrong(spec: TileSpec, resolved: ResolvedEngine) -> float:
        return 1e-3 if (spec.height, resolved.kernel) == (SPEC.height, "efficient") else 0.0

    chosen = selection(forms, factory := Factory(wrong))
    chosen.build(SPEC)
    assert chosen.resolved(chunked=False).kernel == "triton"
    assert factory.open == 1
    (line,) = chosen.refused
    assert line.startswith("efficient in fp32: ")
    assert chosen.fidelity is not None
    assert chosen.fidelity.snr > 100


def test_nothing_takes_the_place_of_a_named_engine(forms: Forms) -> None:
    chosen = selection(forms, factory := Factory(lambda spec, resolved: 1e-3))
    with pytest.raises(EngineError, match=r"replay in fp32 with attention triton gives a wrong"):
        chosen.build(SPEC)
    assert factory.open == 0


def test_plain_pytorch_takes_the_place_of_one_that_was_left_to_us(forms: Forms) -> None:
    def wrong(spec: TileSpec, resolved: ResolvedEngine) -> float:
        return 1e-3 if resolved.engine == "replay" else 0.0

    chosen = selection(forms, Factory(wrong), requested=EngineOptions())
    chosen.build(SPEC).close()
    taken = chosen.resolved(chunked=False)
    assert (taken.engine, taken.kernel, taken.layout) == ("eager", "default", "gpu")
    assert len(chosen.refused) == 2


def test_a_named_kernel_is_checked_and_never_timed(
    forms: Forms, first_is_fastest: list[tuple[str, ...]]
) -> None:
    """As of a job that goes on, a worker, a shard: the journal names it."""
    chosen = selection(forms, factory := Factory(fine), kernel="triton")
    chosen.build(SPEC).close()
    assert first_is_fastest == []
    assert {each.kernel for each in factory.of_checks} == {"triton"}
    wrong = Factory(lambda spec, resolved: 1e-3 if resolved.kernel == "triton" else 0.0)
    with pytest.raises(EngineError, match=r"attention triton gives a wrong picture.*[0-9] dB"):
        selection(forms, wrong, kernel="triton").build(SPEC)


def test_16_bits_that_are_not_near_enough_give_way_to_fp32(forms: Forms) -> None:
    def wrong(spec: TileSpec, resolved: ResolvedEngine) -> float:
        # The floor as well: this is what the numbers themselves lose.
        return 0.1 if resolved.precision == "bf16" else 0.0

    chosen = selection(forms, Factory(wrong), precision="bf16", tentative=True)
    engine = chosen.build(SPEC)
    assert engine.precision == "fp32"
    assert not chosen.resolved(chunked=False).tentative
    assert all("in bf16" in line for line in chosen.refused)
    engine.close()


def test_16_bits_asked_for_by_name_run_with_a_warning(forms: Forms) -> None:
    def wrong(spec: TileSpec, resolved: ResolvedEngine) -> float:
        return 0.1 if resolved.precision == "bf16" else 0.0

    requested = EngineOptions(engine="replay", precision="bf16")
    chosen = selection(forms, Factory(wrong), precision="bf16", requested=requested)
    assert chosen.build(SPEC).precision == "bf16"
    assert chosen.refused == []
    assert chosen.warning is not None
    assert "must have 40.0; it runs all the same" in chosen.warning


def test_memory_that_runs_out_is_no_refusal(forms: Forms) -> None:
    def wrong(spec: TileSpec, resolved: ResolvedEngine) -> float | EngineError:
        return OutOfMemoryError("no room") if spec.height == SPEC.height else 0.0

    chosen = selection(forms, Factory(wrong))
    with pytest.raises(OutOfMemoryError):
        chosen.build(SPEC)
    assert chosen.refused == []


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hatvid.picture_checks, "default_cache_dir", lambda name: tmp_path / name)
    return tmp_path


@pytest.mark.usefixtures("cache_home")
def test_a_second_start_checks_nothing_again(forms: Forms) -> None:
    factory = Factory(fine)
    first = selection(forms, factory, fingerprint="a network")
    first.build(SPEC).close()
    before = len(factory.built)
    second = selection(forms, factory, fingerprint="a network")
    second.build(SPEC).close()
    assert len(factory.built) == before + 1
    assert second.fidelity == first.fidelity
    selection(forms, factory, fingerprint="another").build(SPEC).close()
    assert len(factory.built) > before + 2, "of another network nothing is known"
    unknown = len(factory.built)
    selection(forms, factory).build(SPEC).close()
    selection(forms, factory).build(SPEC).close()
    assert len(factory.built) - unknown == 2 * before, "and of one without a name never"


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "eager", "kernel": "default"},
        {"precision": "bf16"},
        {"layout": "cpu"},
        {"kernel": "triton"},
        {"compiled": True},
    ],
)
def test_results_are_known_by_all_that_they_depend_on(forms: Forms, change: dict[str, Any]) -> None:
    chosen = selection(forms, Factory(fine))
    resolved = replace(chosen.resolved(chunked=False), kernel="efficient")
    key = chosen.checks.identity("job", resolved, False, SPEC)
    assert chosen.checks.identity("job", replace(resolved, **change), False, SPEC) != key
    assert chosen.checks.identity("job", resolved, True, SPEC) != key
    assert chosen.checks.identity("job", resolved, False, replace(SPEC, height=64)) != key
    assert chosen.checks.identity("form", resolved, False, SPEC) != key


def test_on_a_cpu_only_the_job_is_checked(forms: Forms) -> None:
    resolved = ResolvedEngine(engine="openvino", precision="fp32", device=CPU, threads=1)
    factory = Factory(lambda spec, resolved: 0.0 if resolved.engine == "eager" else 1e-3)
    named = EngineSelection(
        forms,
        resolved,
        EngineOptions(engine="openvino"),
        scale=SCALE,
        factory=factory,
        fingerprint=None,
    )
    with pytest.raises(EngineError, match=r"openvino in fp32 gives a wrong picture.*75.0 dB"):
        named.build(SPEC)
    assert factory.of_checks == []
    left = EngineSelection(
        forms, resolved, EngineOptions(), scale=SCALE, factory=factory, fingerprint=None
    )
    assert left.build(SPEC).name == "eager"
    assert len(left.refused) == 1


def test_a_large_reference_has_a_stand_in(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hatvid.picture_checks, "MOST_GFLOP", 1e-3)
    resolved = ResolvedEngine(engine="openvino", precision="fp32", device=CPU, threads=1)
    factory = Factory(fine)
    chosen = EngineSelection(
        forms, resolved, EngineOptions(), scale=SCALE, factory=factory, fingerprint=None
    )
    chosen.build(replace(SPEC, batch=2)).close()
    assert [spec.input_shape for spec, _ in factory.built] == [(2, 3, 32, 48), (1, 3, 64, 64)]
    assert factory.open == 0


def test_kernels_are_what_the_options_name() -> None:
    for kernel in KERNELS:
        assert EngineOptions(kernel=kernel).kernel == kernel
