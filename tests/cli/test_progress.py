"""What is shown: a bar on a terminal, lines elsewhere, JSON for programs, or nothing."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Hatvid = Callable[..., Any]
Make = Callable[..., Path]


@pytest.fixture
def mine(clip: Path, tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    return path


def test_json_is_one_object_a_line_and_nothing_else(
    hatvid_program: Hatvid, cheap: list[str], make_clip: Make, tmp_path: Path
) -> None:
    source = make_clip(tmp_path / "clip.mkv", frames=9, audio="aac")
    output = tmp_path / "out.mp4"
    done = hatvid_program("upscale", *cheap, "--progress", "json", source, "-o", output)
    assert (done.code, done.err) == (0, "")
    events = [json.loads(line) for line in done.out.splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "note"]
    assert kinds == ["started", *["progress"] * 9, *["verifying"] * 9, "finished"]
    started, finished = events[kinds.index("started")], events[-1]

    assert started["input"] == str(source)
    assert started["output"] == str(output)
    assert (started["width"], started["height"], started["scale"]) == (64, 48, 2)
    assert (started["engine"], started["precision"]) == ("eager", "fp32")
    assert (started["codec"], started["pix_fmt"]) == ("libx264", "yuv420p")
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["frames"] for event in progress] == list(range(1, 10))
    assert all(event["fps"] > 0 for event in progress)
    assert finished["frames"] == 9
    assert finished["fps"] > 0
    assert finished["verification"]["ok"]
    assert [stream["fate"] for stream in finished["streams"]] == ["upscaled", "copied"]


def test_json_knows_how_much_is_left(hatvid: Hatvid, cheap: list[str], mine: Path) -> None:
    done = hatvid("upscale", *cheap, "--progress", "json", "--start", "2f", mine)
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    assert next(e for e in events if e["event"] == "started")["frames"] == 4
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["of"] for event in progress] == [4] * 4
    assert progress[-1]["eta"] == 0


def test_json_tells_what_was_lost(
    hatvid: Hatvid, cheap: list[str], make_clip: Make, tmp_path: Path
) -> None:
    source = make_clip(tmp_path / "clip.mp4")
    done = hatvid("upscale", *cheap, "--progress", "json", source, "-o", tmp_path / "o.mkv")
    events = [json.loads(line) for line in done.out.splitlines()]
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert len(notes) == 1
    assert "each timestamp is rounded once" in notes[0]
    assert events[-1]["notes"] == notes


def test_json_of_a_failure(hatvid: Hatvid, cheap: list[str], mine: Path) -> None:
    done = hatvid("upscale", *cheap, "--progress", "json", "--start", "99f", mine)
    assert done.code == 1
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [event["event"] for event in events] == ["failed"]
    assert f"hatvid: {events[-1]['error']}\n" == done.err


def test_none_is_silent_on_success(hatvid_program: Hatvid, cheap: list[str], mine: Path) -> None:
    done = hatvid_program("upscale", *cheap, "--progress", "none", mine)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert mine.with_name("clip_x2.mp4").exists()


def test_none_still_says_what_was_lost(
    hatvid: Hatvid, cheap: list[str], make_clip: Make, tmp_path: Path
) -> None:
    # Losses are no progress: who asks for silence must still learn of them.
    source = make_clip(tmp_path / "clip.mp4")
    done = hatvid("upscale", *cheap, "--progress", "none", source, "-o", tmp_path / "o.mkv")
    assert (done.code, done.out) == (0, "")
    assert done.err == (
        "hatvid: matroska keeps time in steps of 1 ms: each timestamp is rounded once\n"
    )


def test_without_a_terminal_one_line_before_and_one_after(
    hatvid: Hatvid, cheap: list[str], mine: Path
) -> None:
    done = hatvid("upscale", *cheap, mine)
    output = mine.with_name("clip_x2.mp4")
    assert (done.code, done.out) == (0, "")
    before, after = done.err.splitlines()
    assert before.startswith(f"hatvid: {mine} -> {output}: 6 frames to 64x48 by ")
    assert re.search(r"\(eager fp32, whole frame, \d+ dB\), libx264 yuv420p", before)
    summary = (
        rf"hatvid: {re.escape(str(output))}: 64x48, 6 frames in [\d.]+ s \(([\d.]+) fps\), "
        r"verified in \d+ checks"
    )
    match = re.fullmatch(summary, after)
    assert match is not None, after
    assert float(match[1]) > 0


def test_the_summary_counts_copied_streams(
    hatvid: Hatvid, cheap: list[str], make_clip: Make, tmp_path: Path
) -> None:
    done = hatvid("upscale", *cheap, make_clip(tmp_path / "clip.mp4", audio="aac"))
    assert " fps), 1 stream copied, verified in " in done.err


def test_a_bar_on_a_terminal(
    program_environment: dict[str, str], cheap: list[str], mine: Path
) -> None:
    shown, code = run_on_terminal(
        program_environment, ["upscale", *cheap, "--tile", "16", "--overlap", "0", str(mine)]
    )
    assert code == 0, shown
    # Each column of the bar, drawn at least once with all frames done.
    assert re.search(r"eager fp32, 4 tiles 16x16 .*6/6.* [\d.]+ fps.*ETA.*\d:\d\d:\d\d", shown)
    assert "\x1b[2K" in shown, "the bar is wiped away at the end"
    last = [line for line in plain(shown).splitlines() if line.strip()][-1]
    assert re.search(r"clip_x2\.mp4: 64x48, 6 frames in [\d.]+ s \([\d.]+ fps\)", last)


def test_an_error_on_a_terminal_is_one_line(
    program_environment: dict[str, str], cheap: list[str], mine: Path
) -> None:
    shown, code = run_on_terminal(
        program_environment, ["upscale", *cheap, "--start", "99f", str(mine)]
    )
    assert code == 1
    lines = [line for line in plain(shown).splitlines() if line.startswith("hatvid: ")]
    assert len(lines) == 1
    assert "no frame lies between --start and --end" in lines[0]
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h"), "the cursor is shown again"
    assert "Traceback" not in shown


def plain(shown: str) -> str:
    """Without the escape sequences."""
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", shown).replace("\r", "\n")


def run_on_terminal(environment: dict[str, str], arguments: list[str]) -> tuple[str, int]:
    """Run the command with its standard error on a pseudo-terminal."""
    reading, writing = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hatvid", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writing,
        env=environment | {"TERM": "xterm-256color"},
    )
    os.close(writing)
    pieces = []
    try:
        while piece := os.read(reading, 65536):
            pieces.append(piece)
    except OSError:  # Linux: the other end is closed
        pass
    finally:
        os.close(reading)
    return b"".join(pieces).decode(), process.wait(timeout=60)
