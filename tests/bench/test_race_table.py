"""What is shown of a race: lines, a table in Markdown, a chart."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from hatvid.bench.contestants import REFERENCE
from hatvid.bench.race_result import Lap, RaceResult, entries
from hatvid.bench.race_table import chart, heading, machine_lines, notes, table

BLANK = Lap(
    name="",
    side="ours",
    reason=None,
    left_out=False,
    seconds=(0.1, 0.2, 0.3),
    snr=51.25,
    memory=123_000_000,
    tried=(),
    precision="fp32",
    settings={},
    start_seconds=4.0,
    work=None,
)

LAPS = (
    replace(BLANK, name="matrix product fp32", side="ceiling", work=1e11, seconds=(1, 1, 1)),
    replace(BLANK, name=REFERENCE, side="rival", seconds=(0.4, 0.8, 1.2), snr=None),
    replace(
        BLANK,
        name="vs-mlrt",
        side="rival",
        seconds=(0.2, 0.4, 0.6),
        settings={"fp16": False, "streams": 2},
        tried=(
            {"settings": {"streams": 1}, "seconds": 0.5},
            {"settings": {"streams": 2}, "reason": "no | such"},
        ),
    ),
    replace(BLANK, name="hatvid eager fp32", snr=math.inf),
    replace(BLANK, name="hatvid openvino bf16", reason="none here", left_out=True),
    replace(BLANK, name="hatvid openvino fp32", reason="it fell", seconds=()),
)


@pytest.fixture(scope="module")
def result() -> RaceResult:
    return RaceResult(
        model="hat-s",
        trained=False,
        scale=4,
        width=64,
        height=48,
        clip=None,
        flops=10e9,
        rounds=3,
        entries=entries(LAPS, 10e9),
    )


def lines(result: RaceResult, *, markdown: bool) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=250).print(table(result, markdown=markdown))
    return [line for line in file.getvalue().splitlines() if line.strip()]


def test_a_table_in_markdown(result: RaceResult) -> None:
    found = lines(result, markdown=True)
    assert len({line.count("|") for line in found}) == 1
    heads, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found]
    assert heads[-2:] == [f"x {REFERENCE}", "x vs-mlrt"]  # no column of who did not run
    by_name = {row[0]: dict(zip(heads, row, strict=True)) for row in rows}
    eager = by_name["hatvid eager fp32"]
    assert eager["ms a frame"] == "200"
    assert eager["quartiles"] == "150-250"
    assert eager["frames/s"] == "5.00"
    assert eager["GFLOP/s"] == "50.0"
    assert eager["of ceiling"] == "50%"
    assert eager["SNR dB"] == "exact"
    assert (eager["MB"], eager["s to start"]) == ("123", "4.00")
    assert (eager[f"x {REFERENCE}"], eager["x vs-mlrt"]) == ("4.00", "2.00")
    assert by_name["vs-mlrt"]["SNR dB"] == "51.2"
    assert by_name[REFERENCE][f"x {REFERENCE}"] == ""
    assert by_name["matrix product fp32"]["GFLOP/s"] == "100"
    assert by_name["matrix product fp32"]["frames/s"] == ""
    assert by_name["hatvid openvino bf16"]["computes in"] == "left out"
    assert by_name["hatvid openvino fp32"]["computes in"] == "failed"


def test_a_table_on_a_terminal(result: RaceResult) -> None:
    found = lines(result, markdown=False)
    assert len(found) == 1 + len(LAPS)
    assert "|" not in "".join(found)


def test_notes(result: RaceResult) -> None:
    assert notes(result) == [
        "vs-mlrt: fp16 False, streams 2 (the fastest of streams 1: 500 ms; streams 2: no | such)",
        "hatvid openvino bf16: left out: none here",
        "hatvid openvino fp32: failed: it fell",
    ]


def test_headings(result: RaceResult) -> None:
    assert heading(result) == "hat-s x4, 64x48, 10.0 GFLOP a frame, random weights"
    clip = replace(result, clip="a.mp4 of 64x48", trained=True)
    assert heading(clip) == "hat-s x4, a.mp4 of 64x48, 10.0 GFLOP a frame"


def test_the_machine_and_conditions() -> None:
    machine = {
        "cpu": "Some CPU",
        "cores": 2,
        "memory": 8 * 2**30,
        "flags": ["avx2"],
        "native_bf16": False,
        "system": "Linux 6",
        "python": "3.12",
        "versions": {"torch": "2.14", "spandrel": None},
        "threads": 2,
        "pinned_to": None,
    }
    shown = "\n".join(machine_lines(machine, rounds=7, stopped=False))
    for part in ("Some CPU, 2 cores, 8 GiB; avx2; no bf16 in hardware", "7 rounds", "not pinned"):
        assert part in shown
    assert "torch 2.14" in shown
    assert "spandrel" not in shown
    assert "no SIGSTOP" in shown
    assert "idle contestants stopped" in "\n".join(machine_lines(machine, rounds=7, stopped=True))


def test_a_chart(result: RaceResult, tmp_path: Path) -> None:
    sizes = []
    for count in (1, 3):
        file = tmp_path / f"{count}.png"
        chart([result] * count, file)
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            sizes.append(picture.size)
            colors = picture.convert("RGB").getcolors(1 << 24)
        # Bars of ours, bars of rivals.
        assert {(31, 119, 180), (127, 127, 127)} <= {color for _, color in colors or []}
    assert sizes[1][1] > 2 * sizes[0][1]


def test_a_chart_of_a_race_that_nobody_finished(result: RaceResult, tmp_path: Path) -> None:
    none = replace(result, entries=tuple(e for e in result.entries if e.status != "ran"))
    chart([none], tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 0
