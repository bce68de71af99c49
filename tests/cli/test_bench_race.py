"""``hatvid bench --race``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hatvid.bench.contestants import REFERENCE, Contestant
from hatvid.bench.process import CAN_STOP


def pretending(name: str, side: Any, build: str = "pretend", **settings: Any) -> Contestant:
    return Contestant(name=name, side=side, build=f"racers:{build}", settings=(settings,))


FIELD = (
    pretending("matrix product fp32", "ceiling", seconds=0.5, work=1e9),
    pretending(REFERENCE, "rival", seconds=1.0),
    pretending("hatvid well", "ours", seconds=0.5, error=0.01),
    pretending("hatvid absent", "ours", "refuse"),
)


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(*contestants: Contestant) -> None:
        monkeypatch.setattr("hatvid.bench.contestants.CONTESTANTS", contestants)

    return put


@pytest.fixture
def asked(field: Callable[..., None], checkpoints: dict[int, Path]) -> tuple[str, ...]:
    field(*FIELD)
    return ("bench", "--race", "--rounds", "1", "--size", "16x16", "--model", str(checkpoints[2]))


def test_a_race(hatvid: Callable[..., Any], asked: tuple[str, ...], tmp_path: Path) -> None:
    figures, drawing = tmp_path / "race.json", tmp_path / "race.png"
    done = hatvid(*asked, "--size", "32x16", "--json", figures, "--plot", drawing)
    assert done.code == 0, done.err
    assert sorted(tmp_path.iterdir()) == [figures, drawing]
    assert drawing.read_bytes().startswith(b"\x89PNG")
    found = json.loads(figures.read_text())
    assert (found["format"], found["measured"]) == (1, True)
    assert found["conditions"]["rounds"] == 1
    assert found["machine"]["threads"] >= 1
    assert [(race["width"], race["height"]) for race in found["races"]] == [(16, 16), (32, 16)]
    for race in found["races"]:
        assert [entry["name"] for entry in race["entries"]] == [one.name for one in FIELD]
        assert race["entries"][2]["ratios"] == {REFERENCE: 2.0}
    assert "hatvid absent: failed: no such engine; install it" in done.out.splitlines()
    rows = [line for line in done.out.splitlines() if line.startswith("hatvid well  ")]
    assert len(rows) == 2
    assert "1 rounds" in done.out
    assert "round 1 of 1" in done.err


def test_json_on_standard_output(hatvid: Callable[..., Any], asked: tuple[str, ...]) -> None:
    done = hatvid(*asked, "--json", "-")
    assert done.code == 0
    assert len(json.loads(done.out)["races"]) == 1


def test_markdown(hatvid: Callable[..., Any], asked: tuple[str, ...]) -> None:
    done = hatvid(*asked, "--markdown")
    rows = [line for line in done.out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(FIELD)
    assert len({line.count("|") for line in rows}) == 1


@pytest.mark.parametrize(
    ("made_up", "what"), [(True, "synthetic clip of 320x180"), (False, "clip.mp4 of 32x24")]
)
def test_a_clip(
    hatvid: Callable[..., Any],
    field: Callable[..., None],
    checkpoints: dict[int, Path],
    clip: Path,
    made_up: bool,
    what: str,
) -> None:
    field(*FIELD)
    given = ["--clip"] if made_up else ["--clip", clip]
    model = ("--model", checkpoints[2])
    done = hatvid("bench", *model, *given, "--frames", "2", "--rounds", "1", "--json", "-")
    assert done.code == 0, done.err
    (race,) = json.loads(done.out)["races"]
    assert race["clip"] == what
    assert what.endswith(f"of {race['width']}x{race['height']}")


def test_alone_it_is_a_quick_race_and_tells_of_the_rest(
    hatvid: Callable[..., Any], field: Callable[..., None]
) -> None:
    field(*FIELD)
    done = hatvid("bench")
    assert done.code == 0, done.err
    assert "hat-nano-x4 x4, 64x64" in done.out
    assert "3 rounds" in done.out
    assert "--race" in done.out.splitlines()[-1]


def test_it_fails_if_all_of_ours_did(
    hatvid: Callable[..., Any], asked: tuple[str, ...], field: Callable[..., None]
) -> None:
    field(FIELD[1], FIELD[3])
    done = hatvid(*asked)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("hatvid: none of hatvid's own engines ran")
    assert "no such engine" in done.out
    field(FIELD[1])
    assert hatvid(*asked).code == 0  # none was asked for


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--model", "zebra"], 2, "no model is called"),
        (["--model", "hat-nano-x4", "--scale", "2"], 2, "upscales by 4"),
        (["--only", "zebra"], 2, "no contestant is called 'zebra'; there are"),
        (["--threads", "4096"], 2, "threads is 4096"),
        (["--rounds", "0"], 2, "rounds"),
        (["--clip", "/nowhere/a.mp4"], 1, "no such file"),
        (["--json", "/nowhere/x.json"], 1, "/nowhere/x.json cannot be written"),
        (["--plot", "/nowhere/x.png"], 1, "choose another place with --plot"),
        (["--traffic", "--model", "hat,hat-s"], 2, "one model"),
    ],
)
def test_what_is_refused_before_anything_is_measured(
    hatvid: Callable[..., Any],
    field: Callable[..., None],
    arguments: list[str],
    code: int,
    text: str,
) -> None:
    field(*FIELD)
    done = hatvid("bench", *arguments)
    assert done.code == code, done.err
    assert text in done.err
    assert len(done.err.splitlines()) == 1
    assert not psutil.Process().children()


BROKEN_OFF = """
import sys
from hatvid.bench import contestants
from hatvid.bench.contestants import REFERENCE, Contestant
from hatvid.cli.main import main
def one(name, side, build, **settings):
    return Contestant(name=name, side=side, build=f"racers:{build}", settings=(settings,))
contestants.CONTESTANTS = (
    one(REFERENCE, "rival", "spin"),
    one("stopped", "ours", "spin"),
    one("waiting", "ours", "hang"),
)
main(["bench", *sys.argv[1:]])
"""


@pytest.mark.xfail(not CAN_STOP, reason="no signals to a process on Windows", run=False)
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
def test_ctrl_c_leaves_nobody(
    asked: tuple[str, ...], tmp_path: Path, number: int, code: int
) -> None:
    """While one is being built and the others are stopped."""
    path = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-c", BROKEN_OFF, *asked[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)},
    ) as program:
        assert program.stderr is not None
        for line in program.stderr:
            if "starting waiting" in line:
                break
        children = psutil.Process(program.pid).children()
        while len(children) < 3:  # the one that waits is about to be started
            children = psutil.Process(program.pid).children()
        program.send_signal(number)
        said = program.stderr.read()
        assert program.wait(60) == code, said
    assert said.splitlines()[-1].startswith("hatvid: ")
    # One that was just being started is not known to the race yet: the kernel ends it.
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    assert list(tmp_path.iterdir()) == []


def test_without_spandrel(
    hatvid: Callable[..., Any], asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel.architectures.HAT", None)
    done = hatvid(*asked)
    assert done.code == 1
    assert "pip install 'hatvid[bench]'" in done.err
