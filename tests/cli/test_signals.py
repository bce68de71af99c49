"""Ctrl-C and SIGTERM at any moment: nothing under the output's name, nothing left beside it."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import programs

Make = Callable[..., Path]

# From the signal to the end of the program, in seconds.
PATIENCE = 20

STOPPED = {
    signal.SIGINT: (130, "hatvid: stopped; nothing was written under the output's name\n"),
    signal.SIGTERM: (143, "hatvid: terminated; nothing was written under the output's name\n"),
}


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory, make_clip: Make) -> Path:
    """Far more frames than are computed before the signal arrives."""
    path = tmp_path_factory.mktemp("long") / "clip.mp4"
    return make_clip(path, frames=3000, audio="aac")


@pytest.fixture
def begin(
    program_environment: dict[str, str], cheap: list[str], long_clip: Path, tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start an upscaling that would go on for long, into ``tmp_path/out.mp4``.

    Its first segment is nearly all of it, so that none is kept when the signal arrives.
    """
    common = [*cheap, "--segment", "100", "--progress", "json", long_clip]
    common += ["-o", tmp_path / "out.mp4"]
    with programs(program_environment) as start:
        yield lambda *arguments: start("upscale", *common, *arguments)


def first_progress(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            return
    raise AssertionError("it ended before its first frame")


def until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Look again and again whether a moment in the life of the program has come."""
    limit = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, "it ended before the moment came"
        assert time.monotonic() < limit
        os.sched_yield()


def stopped_by(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """It ends in time, with the signal's exit code and one line."""
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == STOPPED[number]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_frames_are_computed(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = begin()
    first_progress(process)
    kept = [path.name for path in tmp_path.iterdir()]
    assert kept == [".out.mp4.hatvid"], "it writes beside the output"
    process.send_signal(number)
    stopped_by(process, number)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_old_output_alone(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out.mp4"
    output.write_text("precious")
    process = begin("--overwrite")
    first_progress(process)
    process.send_signal(number)
    stopped_by(process, number)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert output.read_text() == "precious"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_as_soon_as_the_file_is_made(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = begin()
    until(process, lambda: any(tmp_path.iterdir()))
    process.send_signal(number)
    stopped_by(process, number)
    assert list(tmp_path.iterdir()) == []


def loaded(process: subprocess.Popen[str], library: str) -> bool:
    """Whether a program has mapped a library into its memory (Linux only)."""
    return library in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("library", ["libavcodec", "libtorch_cpu", "libtorch_python"])
def test_a_signal_while_libraries_are_loaded(
    begin: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    number: signal.Signals,
    library: str,
) -> None:
    process = begin()
    until(process, lambda: loaded(process, library))
    process.send_signal(number)
    stopped_by(process, number)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGINT, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
    ],
)
def test_an_impatient_second_signal_does_not_stop_the_tidying_up(
    hatvid: Callable[..., Any],
    cheap: list[str],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: signal.Signals,
    second: signal.Signals,
) -> None:
    # Deterministic: the second arrives exactly when the temporary file is to go.
    from hatvid.jobs.partial import PartialFile
    from hatvid.video.sink import VideoSink

    write, leave = VideoSink.write, PartialFile.__exit__

    def interrupted(sink: VideoSink, item: Any) -> None:
        os.kill(os.getpid(), first)
        write(sink, item)

    def impatient(partial: PartialFile, *reason: Any) -> None:
        os.kill(os.getpid(), second)
        leave(partial, *reason)

    monkeypatch.setattr(VideoSink, "write", interrupted)
    monkeypatch.setattr(PartialFile, "__exit__", impatient)
    outcome = hatvid("upscale", *cheap, "--progress", "none", clip, "-o", tmp_path / "out.mp4")
    assert (outcome.code, outcome.err) == STOPPED[first]
    assert list(tmp_path.iterdir()) == []


def found(place: str) -> tuple[Any, str]:
    """The module or class that holds a function, and the function's name there."""
    path, _, name = place.rpartition(".")
    return pkgutil.resolve_name(path), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "moment",
    [
        "hatvid.jobs.job.resolve_model",
        "hatvid.video.source.av.open",
        "hatvid.jobs.upscalers.load_model",
        "hatvid.jobs.partial.os.fsync",
        "hatvid.jobs.partial.os.open",
    ],
)
def test_a_signal_at_a_critical_moment(
    hatvid: Callable[..., Any],
    cheap: list[str],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    number: signal.Signals,
) -> None:
    # The signal arrives within the call, and is noticed as the call returns.
    owner, name = found(moment)
    whole = getattr(owner, name)
    reached = []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        result = whole(*arguments, **named)
        reached.append(name)
        os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(owner, name, interrupted)
    outcome = hatvid("upscale", *cheap, "--progress", "none", clip, "-o", tmp_path / "out.mp4")
    assert reached == [name]
    assert (outcome.code, outcome.err) == STOPPED[number]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_when_the_output_is_whole(
    hatvid: Callable[..., Any],
    cheap: list[str],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    # Too late to stop anything: the job ends as it would have.
    link = os.link

    def interrupted(*names: Any) -> None:
        link(*names)
        os.kill(os.getpid(), number)

    monkeypatch.setattr("hatvid.jobs.partial.os.link", interrupted)
    outcome = hatvid("upscale", *cheap, "--progress", "none", clip, "-o", tmp_path / "out.mp4")
    assert (outcome.code, outcome.err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_reader_that_goes_away(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    # `hatvid upscale --progress json ... | head -1`
    process = begin()
    first_progress(process)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 1
    assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []
