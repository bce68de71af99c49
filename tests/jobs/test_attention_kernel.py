"""The kernel that computes attention is one for all of a video: whoever goes on with a job
takes the journal's, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import hatvid.engine_selection
import hatvid.picture_checks
from hatvid.description import Description
from hatvid.engine import ResolvedEngine
from hatvid.errors import EngineError, UsageError
from hatvid.jobs.fingerprint import Described, resolved_of, settings_by
from hatvid.jobs.job import plan_job
from hatvid.jobs.journal import Journal
from hatvid.jobs.progress import Silent
from hatvid.jobs.receipt import Receipt, ShardReceipt
from hatvid.jobs.run import run_job
from hatvid.jobs.upscalers import settled
from hatvid.jobs.workers import check_alike
from hatvid.options import EngineOptions, JobOptions, SegmentOptions, TileOptions

FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames of 32x32 at 24 a second, a key frame every third."""
    path = tmp_path_factory.mktemp("kernel") / "clip.mkv"
    random = np.random.default_rng(3)
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"g": "3", "preset": "ultrafast"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, 24)
        for number in range(FRAMES):
            picture = random.integers(0, 256, (32, 32, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """In place of a measurement: the last is the fastest; says what was measured."""
    measured: list[tuple[str, ...]] = []

    def last(candidates: dict[str, ResolvedEngine], *_: Any, **__: Any) -> str:
        measured.append(tuple(candidates))
        return list(candidates)[-1]

    monkeypatch.setattr(hatvid.engine_selection, "fastest_kernel", last)
    monkeypatch.setattr(hatvid.picture_checks, "FORM_SHAPE", (24, 24))
    return measured


@pytest.fixture
def job(clip: Path, smallest_hat: Path, tmp_path: Path) -> Callable[..., Receipt | ShardReceipt]:
    """Upscale the clip in segments of three frames, as a GPU's program on a CPU."""

    def run(
        kernel: Any = "auto", progress: Silent | None = None, **segments: Any
    ) -> Receipt | ShardReceipt:
        options = JobOptions(
            input=clip,
            output=tmp_path / "out.mkv",
            model=str(smallest_hat),
            engine=EngineOptions(
                engine="replay", precision="fp32", layout="gpu", kernel=kernel, threads=1
            ),
            tile=TileOptions(tile=0),
            verify="none",  # weights drawn at random make another picture
            segments=SegmentOptions(length=0.125, **segments),
        )
        receipt = run_job(plan_job(options), progress=progress)
        assert isinstance(receipt, Receipt | ShardReceipt)
        return receipt

    return run


class Stopping(Silent):
    """Breaks a job off."""

    def advanced(self, frames: int) -> None:
        if frames > FRAMES // 2:
            raise KeyboardInterrupt


def test_a_job_that_goes_on_takes_the_journals(
    job: Callable[..., Any],
    timed: list[tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        job(progress=Stopping())
    assert timed == [("efficient", "triton")]
    with Journal(tmp_path / "out.mkv", shard=None, restart=False) as journal:
        assert journal.header is not None
        assert journal.header.resolved.kernel == "triton"
        assert journal.header.settings["attention"] == "triton"
        assert journal.header.facts.snr is not None
        assert journal.header.facts.snr > 90
    # Today another one would be the fastest; nobody asks.
    receipt = job()
    assert receipt.kernel == "triton"
    assert receipt.snr > 90
    assert any("going on" in note for note in receipt.notes)
    assert timed == [("efficient", "triton")]


def test_a_shard_takes_the_journals(
    job: Callable[..., Any], timed: list[tuple[str, ...]], tmp_path: Path
) -> None:
    job(shard=(1, 2))
    job(shard=(2, 2))
    assert timed == [("efficient", "triton")]
    receipt = job(join_only=True)
    assert receipt.frames == FRAMES


@pytest.mark.parametrize("more", [{}, {"shard": (2, 2)}], ids=["resumed", "shard"])
@pytest.mark.usefixtures("timed")
def test_another_one_by_name_is_refused(job: Callable[..., Any], more: dict[str, Any]) -> None:
    job(shard=(1, 2))
    with pytest.raises(UsageError, match="attention triton -> efficient"):
        job("efficient", **more)


@pytest.mark.usefixtures("timed")
def test_one_that_fails_on_the_way_stops_the_job(
    job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine, or with another driver; it must not go on with another kernel."""
    with pytest.raises(KeyboardInterrupt):
        job(progress=Stopping())
    build = hatvid.engine.build_engine

    def off(module: Any, spec: Any, resolved: ResolvedEngine, fingerprint: str | None) -> Any:
        engine = build(module, spec, resolved, fingerprint)
        if resolved.kernel == "triton":
            run = engine.run
            engine.run = lambda tiles: run(tiles) + 0.01 * tiles.mean()  # type: ignore[method-assign]
        return engine

    defaults = hatvid.upscaler.Upscaler.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "engine_factory", off)
    # What was checked is known by this network's name; the machine is another one.
    monkeypatch.setattr(hatvid.picture_checks, "device_facts", lambda device: "another machine")
    with pytest.raises(EngineError, match=r"attention triton gives a wrong picture: .* dB"):
        job()


def described(facts: Description) -> Described:
    return Described(
        facts=facts,
        fingerprint="a" * 64,
        name="m",
        network_scale=2,
        kind="GPU",
        versions={},
    )


@pytest.fixture
def facts() -> Description:
    return Description(
        model="m",
        scale=2,
        network_scale=2,
        engine="cudagraph",
        precision="fp16",
        layout="gpu",
        kernel="cudnn",
        device="cuda:0",
        threads=1,
        streams=1,
        tile_height=32,
        tile_width=32,
        overlap=0,
        tiles=1,
        tile=0,
        chunked=False,
        batch=1,
        fidelity=None,
    )


def test_workers_are_given_it_and_refused_with_another(facts: Description) -> None:
    wanted = described(facts)
    options = settled(JobOptions(input=Path("a.mkv")), resolved_of(wanted, 1))
    assert (options.engine.kernel, options.engine.layout) == ("cudnn", "gpu")
    check_alike(
        described(replace(facts, refused=("triton in fp16: 40.8 dB",))), wanted, mixed=False
    )
    with pytest.raises(EngineError, match="attention efficient"):
        check_alike(described(replace(facts, kernel="efficient")), wanted, mixed=False)


def test_packets_are_known_by_it(facts: Description) -> None:
    one, other = (
        settings_by(described(replace(facts, kernel=kernel)), compiled=False)
        for kernel in ("cudnn", "efficient")
    )
    assert {name for name in one if one[name] != other[name]} == {"attention"}
