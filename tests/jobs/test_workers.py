"""Who may share a job, and how it is shared out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hatvid.description import Description
from hatvid.engine import resolve_engine
from hatvid.errors import EngineError, OptionError
from hatvid.jobs.fingerprint import Described, settings_by
from hatvid.jobs.segment import Segment
from hatvid.jobs.workers import check_alike, devices_for, stretches
from hatvid.options import EngineOptions
from hatvid.segment_options import SegmentOptions

WANTED = Described(
    facts=Description(
        model="a",
        scale=4,
        network_scale=4,
        engine="cudagraph",
        precision="fp16",
        device="cuda:0",
        threads=4,
        streams=1,
        tile_height=96,
        tile_width=96,
        overlap=48,
        tiles=6,
        tile=96,
        chunked=False,
        batch=6,
        fidelity=None,
    ),
    fingerprint="0" * 64,
    name="a",
    network_scale=4,
    kind="NVIDIA A100",
    versions={"version of torch": "2.14.1", "version of av": "19.0.2"},
)


def on(**changes: Any) -> Described:
    return replace(WANTED, facts=replace(WANTED.facts, **changes))


def test_another_gpu_of_the_kind_is_alike() -> None:
    check_alike(on(device="cuda:3", reuse="on"), WANTED, mixed=False)


@pytest.mark.parametrize(
    ("here", "says"),
    [
        (replace(WANTED, versions={**WANTED.versions, "version of av": "18"}), "18 for version of"),
        (replace(WANTED, versions={"version of av": "19.0.2"}), "nothing for version of torch"),
        (replace(WANTED, kind="NVIDIA H100"), "H100.*A100.*--mixed"),
        (on(tile_width=64), "other settings .*tiles of 64x96"),
        (on(precision="fp32"), "other settings .*fp32"),
        (replace(WANTED, fingerprint="1" * 64), "another network"),
    ],
)
def test_one_whose_packets_would_differ_is_refused(here: Described, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        check_alike(here, WANTED, mixed=False, where="node 7")


def test_mixed_accepts_other_devices_and_nothing_else() -> None:
    check_alike(replace(WANTED, kind="NVIDIA H100"), WANTED, mixed=True)
    with pytest.raises(EngineError, match="other settings"):
        check_alike(replace(on(batch=1), kind="NVIDIA H100"), WANTED, mixed=True)


def test_mixed_devices_stand_in_what_packets_hang_on() -> None:
    alike = settings_by(WANTED, compiled=False)
    mixed = settings_by(WANTED, compiled=False, mixed=True)
    assert alike["device"] == "NVIDIA A100"
    assert {name for name in alike if alike[name] != mixed[name]} == {"device"}


def test_stretches_are_segments_or_as_few_as_there_are_workers() -> None:
    segments = [Segment(number=n, first=n, end=n + 1, frames=1) for n in (0, 1, 2, 4, 5, 6, 7)]
    assert [len(part) for part in stretches(segments, 2, seeks=True)] == [1] * 7
    numbers = [[s.number for s in part] for part in stretches(segments, 2, seeks=False)]
    assert numbers == [[0, 1], [2], [4, 5], [6, 7]]


def test_a_device_for_each_worker() -> None:
    assert devices_for(("cuda:0", "cuda:1")) == ("cuda:0", "cuda:1")
    assert len(devices_for(3)) == 3
    assert len(devices_for(0)) >= 1


def test_those_who_share_a_cpu_divide_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    counts = [resolve_engine(EngineOptions(engine="eager", sharers=n)).threads for n in (1, 3, 20)]
    assert counts == [8, 2, 1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cluster": "auto", "workers": ("cuda:0",)}, "Ray chooses"),
        ({"mixed": True}, "several workers"),
        ({"cluster": "auto", "length": 0.0}, "no segments to share"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        SegmentOptions(**options)
