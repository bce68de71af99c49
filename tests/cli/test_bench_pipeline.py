"""What a job takes beside the network, with a network small enough for any test."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import hatvid.bench.pipeline
import hatvid.engine_selection
from hatvid.bench.pipeline import STAGES, PipelineCost, pipeline_cost
from hatvid.bench.stopwatch import Stopwatch
from hatvid.cli.main import cli
from hatvid.engine import ResolvedEngine, TileSpec
from hatvid.errors import HatvidError


@pytest.fixture(scope="module")
def checkpoint(checkpoints: dict[int, Path]) -> Path:
    return checkpoints[2]


@pytest.fixture(scope="module")
def clip() -> Path:
    return Path(__file__).parents[1] / "data" / "bunny_320x180.mp4"


@pytest.fixture(scope="module")
def cost(checkpoint: Path, clip: Path) -> PipelineCost:
    return pipeline_cost(clip, model=str(checkpoint), frames=6, rounds=1)


def test_both_jobs_are_whole(cost: PipelineCost) -> None:
    assert (cost.frames, cost.width, cost.height, cost.scale) == (6, 320, 180, 2)
    for run in (cost.instant, cost.real):
        assert set(run.stages) == set(STAGES)
        # A stage that nothing was counted for is one that is looked for at a wrong place.
        assert all(seconds > 0 for seconds in run.stages.values()), run.stages


def test_only_the_network_is_left_out(cost: PipelineCost) -> None:
    assert cost.real.stages["network"] > 5 * cost.instant.stages["network"]
    assert 0 < cost.ratio < 1
    straight = ("colour in", "tiles", "network", "colour out")
    assert sum(cost.real.stages[stage] for stage in straight) <= cost.real.wall


def test_no_engine_is_built_in_a_round_that_counts(
    checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor tried: that is what a start takes, not a frame."""
    happened = []

    def note(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def noted(*given: Any) -> Any:
            happened.append(name)
            return real(*given)

        monkeypatch.setattr(owner, name, noted)

    note(hatvid.bench.pipeline, "build_engine")
    note(hatvid.bench.pipeline._Job, "run")
    pipeline_cost(clip, model=str(checkpoint), frames=2, rounds=1)
    assert happened.count("run") == 3, "one that does not count, and one of each"
    assert "build_engine" in happened
    assert happened[-2:] == ["run", "run"]


def test_nothing_is_kept_of_the_engine_that_returns_at_once(
    checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a later job would take what was measured of it for the network's."""
    asked: dict[str, str | None] = {}

    def asked_of(
        resolved: ResolvedEngine,
        spec: TileSpec,
        build: Callable[[ResolvedEngine], Any],
        *,
        fingerprint: str | None,
        **_: Any,
    ) -> ResolvedEngine:
        asked[type(build(resolved)._engine).__name__] = fingerprint
        return resolved

    monkeypatch.setattr(hatvid.engine_selection, "faster_on_cpu", asked_of)
    pipeline_cost(clip, model=str(checkpoint), frames=2, rounds=1)
    assert asked.pop("_Repeats") is None
    (fingerprint,) = asked.values()
    assert fingerprint is not None


def test_a_stopwatch_counts_every_thread_and_every_step() -> None:
    class Work:
        def rows(self) -> object:
            yield from range(3)

        def turn(self) -> int:
            return 7

    watch, before = Stopwatch(), Work.turn
    with watch.on({(Work, "turn"): "turns", (Work, "rows"): "rows"}):
        assert list(Work().rows()) == [0, 1, 2]  # type: ignore[call-overload]
        threads = [threading.Thread(target=Work().turn) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert watch["turns"] > 0
    assert watch["rows"] > 0
    assert watch["others"] == 0
    assert Work.turn is before, "functions are put back"


def test_the_command(checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = pipeline_cost.__kwdefaults__ | {"frames": 2}
    monkeypatch.setattr(pipeline_cost, "__kwdefaults__", few)
    given = ["bench", "--pipeline", str(clip), "--model", str(checkpoint), "--rounds", "1"]
    given += ["--precision", "fp32"]
    shown = CliRunner().invoke(cli, given, catch_exceptions=False)
    assert shown.exit_code == 0
    assert " on openvino fp32, " in shown.output
    assert re.search(r"job without the network: \d+\.\d% of the job with it", shown.output)
    record = json.loads(CliRunner().invoke(cli, [*given, "--json", "-"]).output)
    assert (record["frames"], record["rounds"]) == (2, 1)
    assert record["ratio"] == pytest.approx(record["instant"]["wall"] / record["real"]["wall"])


def test_rivals_do_not_run_in_a_jobs_environment(clip: Path) -> None:
    asked = CliRunner().invoke(cli, ["bench", "--race", "--pipeline", str(clip)])
    assert isinstance(asked.exception, HatvidError)
    assert "leave out --race" in str(asked.exception)


def test_what_is_no_video_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(HatvidError):
        pipeline_cost(tmp_path / "missing.mp4", model=str(checkpoint), rounds=1)
