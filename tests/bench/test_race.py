"""A race from end to end: with contestants that pretend, and with real ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from hatvid.bench.contestants import CEILINGS, OURS, REFERENCE, RIVALS, Contestant
from hatvid.bench.material import Network, moving_frames
from hatvid.bench.race import NO_BF16, Conditions, race
from hatvid.bench.race_result import Entry, RaceResult

Make = Callable[..., Contestant]

CALM = Conditions(threads=1, cpus=None, native_bf16=False, rounds=2, seconds=0.01, tries=True)


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither processes nor files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    after = {child.pid for child in psutil.Process().children(recursive=True)}
    assert after <= before
    assert list(folder.iterdir()) == []


def run(
    network: Network, contestants: Sequence[Contestant], conditions: Conditions = CALM
) -> dict[str, Entry]:
    result = race(network, moving_frames(1, 16, 16), contestants, conditions)
    assert [entry.name for entry in result.entries] == [one.name for one in contestants]
    return {entry.name: entry for entry in result.entries}


def test_figures_of_a_race(network: Network, pretender: Make) -> None:
    found = run(
        network,
        [
            pretender("matrix product fp32", "ceiling", seconds=1, work=1e9),
            pretender("fast", seconds=0.25, error=0.01),
            pretender(REFERENCE, "rival", seconds=1),
            pretender("other", "rival", seconds=0.5, precision="bf16"),
        ],
    )
    fast = found["fast"]
    assert fast.seconds == (0.25, 0.25)
    assert fast.spread is not None
    assert (fast.spread.median, fast.fps) == (0.25, 4)
    assert fast.ratios == {REFERENCE: 4, "other": 2}
    flops = race_flops(network)
    assert fast.flops_per_second == pytest.approx(flops * 4)
    assert fast.share == pytest.approx(flops * 4 / 1e9)
    assert fast.memory is not None
    assert fast.start_seconds is not None
    # Against a ceiling of its own precision, and there is none.
    assert found["other"].share is None
    assert found["other"].ratios == {REFERENCE: 2}
    assert found["other"].exact
    ceiling = found["matrix product fp32"]
    assert (ceiling.flops_per_second, ceiling.fps, ceiling.ratios) == (1e9, None, {})
    assert found[REFERENCE].snr is None
    # 10 log10 of the variance of the picture over 0.01 squared.
    variance = float(moving_frames(1, 16, 16).double().var(correction=0))
    assert fast.snr == pytest.approx(10 * math.log10(variance / 1e-4), abs=1e-3)


def race_flops(network: Network) -> float:
    from hatvid.bench.material import published_flops

    return published_flops(network.published, network.config, 16, 16)


def test_who_fails_is_a_line_with_the_reason(network: Network, pretender: Make) -> None:
    others = [one for one in OURS if one.needs_bf16][:1]
    found = run(
        network,
        [
            pretender(REFERENCE, "rival", seconds=1),
            pretender("absent", build="refuse"),
            pretender("silent", build="end"),
            pretender("weak", seconds=1, dies=2),
            pretender("tired", seconds=1, fails=2),
            pretender("well", seconds=0.5),
            *others,
        ],
    )
    assert found["well"].ratios == {REFERENCE: 2}
    said = {name: entry.reason for name, entry in found.items() if entry.status == "failed"}
    assert set(said) == {"absent", "silent", "weak", "tired"}
    assert said["absent"] == "no such engine; install it"
    assert "code 3" in str(said["silent"])
    assert "SIGKILL" in str(said["weak"])
    assert str(said["tired"]).startswith("in round 2: it is out of breath")
    assert found["tired"].seconds == ()
    assert found["tired"].spread is None
    left = found[others[0].name]
    assert (left.status, left.reason) == ("left out", NO_BF16)


def test_without_the_reference_there_is_nothing_to_compare_with(
    network: Network, pretender: Make
) -> None:
    found = run(
        network, [pretender(REFERENCE, "rival", build="refuse"), pretender("well", seconds=0.5)]
    )
    well = found["well"]
    assert (well.status, well.snr, well.exact, well.ratios) == ("ran", None, False, {})


WAYS = [{"seconds": 3.0}, {"seconds": 2.0}, {"seconds": 1.0, "fails": 1}]


@pytest.mark.parametrize(("tries", "median", "tried"), [(True, 2, 3), (False, 3, 0)])
def test_the_fastest_settings_race(
    network: Network, pretender: Make, tries: bool, median: float, tried: int
) -> None:
    conditions = Conditions(
        threads=1, cpus=None, native_bf16=False, rounds=1, seconds=0.01, tries=tries
    )
    field = [pretender(REFERENCE, "rival", seconds=1), pretender("many", settings=WAYS)]
    many = run(network, field, conditions)["many"]
    assert many.spread is not None
    assert many.spread.median == median
    assert len(many.tried) == tried
    assert [one.get("seconds") for one in many.tried] == [3, 2, None][:tried]
    if tried:
        assert "out of breath" in many.tried[2]["reason"]


def test_json_of_a_race(network: Network, pretender: Make) -> None:
    frames = moving_frames(1, 16, 16)
    field = [pretender(REFERENCE, "rival", seconds=1), pretender("absent", build="refuse")]
    result = race(network, frames, field, CALM, clip="a clip")
    assert isinstance(result, RaceResult)
    assert not result.ours_ran
    found = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert (found["width"], found["height"], found["scale"]) == (16, 16, 2)
    assert (found["model"], found["clip"], found["rounds"]) == ("small", "a clip", 2)
    first, second = found["entries"]
    assert first["spread"]["median"] == 1
    assert second["spread"] is None
    assert set(first) == set(second)


def test_hatvid_and_the_published_network(network: Network) -> None:
    """With the same weights, and the frame padded: 20 is no multiple of 16."""
    ours = [one for one in OURS if one.name == "hatvid eager fp32"]
    rivals = [one for one in RIVALS if one.name == REFERENCE]
    result = race(network, moving_frames(1, 20, 16), [*rivals, *ours], CALM)
    published, eager = result.entries
    assert published.status == eager.status == "ran", (published.reason, eager.reason)
    assert eager.snr is not None
    assert eager.snr > 90
    assert (eager.precision, eager.settings["engine"]) == ("fp32", "eager")
    assert result.ours_ran


@pytest.mark.long
@pytest.mark.usefixtures("compiler")
def test_every_rival(network: Network) -> None:
    """Each runs, and gives what the published network gives."""
    from hatvid.bench.machine import native_bf16, pinned_cpus
    from hatvid.bench.material import network as named

    conditions = Conditions(
        threads=2, cpus=pinned_cpus(2), native_bf16=native_bf16(), rounds=2, tries=False
    )
    field = [one for one in (*CEILINGS, *RIVALS, *OURS) if one.clips is None]
    result = race(named("hat-nano-x4"), moving_frames(1, 64, 64), field, conditions)
    failed = {e.name: e.reason for e in result.entries if e.status == "failed"}
    assert failed == {}
    for entry in result.entries:
        if entry.side == "ceiling" or entry.name == REFERENCE or entry.status == "left out":
            continue
        assert entry.snr is not None
        assert entry.snr > (40 if entry.precision == "bf16" else 80), entry
        assert entry.ratios[REFERENCE] > 0
        assert entry.share is not None
        assert 0 < entry.share < 1
