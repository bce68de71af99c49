"""hatvid batch, run on small clips: what is done, what is left alone, and what is told of it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

Batch = Callable[..., Any]


@pytest.fixture
def batch(hatvid: Callable[..., Any], cheap: list[str]) -> Batch:
    """Run it on files that need not come to rest."""
    return lambda *arguments: hatvid("batch", *cheap, "--settle", "0", *arguments)


@pytest.fixture
def folder(tmp_path: Path, clip: Path) -> Path:
    """Two videos, and one that is none between them."""
    place = tmp_path / "in"
    place.mkdir()
    for name in ("a.mp4", "c.mp4"):
        (place / name).write_bytes(clip.read_bytes())
    (place / "b.mkv").write_bytes(b"no video")
    (place / "notes.txt").write_text("no video either")
    return place


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def states(path: Path) -> dict[str, str]:
    return {Path(record["input"]).name: record["state"] for record in lines(path)}


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def size_of(path: Path) -> tuple[int, int, int]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return frames[0].width, frames[0].height, len(frames)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is loaded from now on."""
    from hatvid.jobs import upscalers

    loaded, load = [], upscalers.load_model

    def noted(*given: Any) -> Any:
        loaded.append(given)
        return load(*given)

    monkeypatch.setattr(upscalers, "load_model", noted)
    return loaded


# -- What is done. -------------------------------------------------------------------------


def test_one_broken_file_does_not_keep_the_others_from_being_done(
    batch: Batch,
    hatvid: Callable[..., Any],
    cheap: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = counting(monkeypatch)
    out, report = tmp_path / "out", tmp_path / "report.jsonl"
    done = batch(folder, "-o", out, "--keep-going", "--report", report)
    assert done.code == 1
    assert names(out) == ["a_x2.mp4", "c_x2.mp4"]
    assert len(loaded) == 1, "one network serves all, a broken file between them or not"
    assert hatvid("upscale", *cheap, folder / "a.mp4", "-o", tmp_path / "alone.mp4").code == 0
    assert (out / "c_x2.mp4").read_bytes() == (tmp_path / "alone.mp4").read_bytes()
    first, broken, last = lines(report)
    assert (first["state"], first["exit_code"], first["frames"]) == ("done", 0, 6)
    assert (first["input"], first["output"]) == (str(folder / "a.mp4"), str(out / "a_x2.mp4"))
    assert first["seconds"] > 0
    assert first["receipt"]["verification"]["ok"]
    assert (broken["state"], broken["exit_code"], broken["frames"]) == ("failed", 1, None)
    assert "cannot be read as a video" in broken["reason"]
    assert last["state"] == "done"
    assert "2 done, 1 failed" in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith(f"hatvid: {folder}/b.mkv")]
    assert "is the file whole" in line

    again = batch(folder, "-o", out, "--keep-going", "--skip-existing", "--report", report)
    assert again.code == 1
    assert states(report) == {"a.mp4": "skipped", "b.mkv": "failed", "c.mp4": "skipped"}
    assert lines(report)[0]["reason"] == "the output exists"


def test_without_keep_going_it_ends_at_the_first_failure(
    batch: Batch, folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"
    assert batch(folder, "--report", report).code == 1
    assert states(report) == {"a.mp4": "done", "b.mkv": "failed", "c.mp4": "not started"}
    assert names(folder) == ["a.mp4", "a_x2.mp4", "b.mkv", "c.mp4", "notes.txt"]


def test_outputs_beside_the_inputs_are_not_taken_for_inputs(
    batch: Batch, folder: Path, tmp_path: Path
) -> None:
    (folder / "b.mkv").unlink()
    assert batch(folder, "--progress", "none").code == 0
    before = names(folder)
    for more in ((), ("--naming", "{stem}_{height}p.{ext}")):
        report = tmp_path / "report.jsonl"
        done = batch(folder, "--skip-existing", "--report", report, *more)
        assert done.code == 0
        assert list(states(report)) == ["a.mp4", "c.mp4"]
        assert "left alone, as outputs are named so: a_x2.mp4, c_x2.mp4" in done.err
    made = {"a_48p.mp4", "c_48p.mp4"}
    assert set(names(folder)) == {*before, *made}
    assert batch(folder, "--skip-existing", "--naming", "{stem}_{height}p.{ext}").code == 0
    assert set(names(folder)) == {*before, *made}


def test_names_are_made_of_what_is_known_of_an_output(
    batch: Batch, folder: Path, clip: Path, tmp_path: Path
) -> None:
    (folder / "b.mkv").unlink()
    (folder / "deep" / ".hidden").mkdir(parents=True)
    for place in ("deep/d.mp4", "deep/.hidden/e.mp4", ".f.mp4"):
        (folder / place).write_bytes(clip.read_bytes())
    out = folder / "out"
    naming = "{model}/{stem}_{width}x{height}.mkv"
    assert batch(folder, "-o", out, "--recursive", "--naming", naming).code == 0
    made = ["deep/tiny-x2/d_64x48.mkv", "tiny-x2/a_64x48.mkv", "tiny-x2/c_64x48.mkv"]
    assert names(out) == made
    assert size_of(out / made[1]) == (64, 48, 6)
    done = batch(folder, "-o", out, "--recursive", "--naming", naming, "--skip-existing")
    assert done.code == 0
    assert names(out) == made, "the output folder lies in the input folder, and is left out"


def test_an_input_folder_in_the_output_folder(batch: Batch, folder: Path, tmp_path: Path) -> None:
    (folder / "b.mkv").unlink()
    assert batch(folder / "*.mp4", "-o", tmp_path, "--progress", "none").code == 0
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"a_x2.mp4", "c_x2.mp4"}


def test_a_job_file_gives_each_job_its_options(
    batch: Batch, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs.toml").write_text(
        """
        [defaults]
        folder = "out"
        naming = "{stem}_{scale}.{ext}"
        no-audio = true
        crf = 30

        [[job]]
        input = "in/*.mp4"

        [[job]]
        input = "in/a.mp4"
        output = "part.mkv"
        start = 00:00:00
        end = "3f"
        encoder-option = { aq-mode = 0 }
        """
    )
    report = tmp_path / "report.jsonl"
    loaded = counting(monkeypatch)
    monkeypatch.chdir(folder)
    done = batch("../jobs.toml", "--report", report)
    assert done.code == 0, done.err
    assert len(loaded) == 1, "nothing in which they differ has to do with the network"
    assert names(tmp_path / "out") == ["a_2.mp4", "c_2.mp4", "part.mkv"]
    assert size_of(tmp_path / "out" / "part.mkv") == (64, 48, 3)
    assert [record["where"] for record in lines(report)] == ["../jobs.toml:8"] * 2 + [
        "../jobs.toml:11"
    ]


def test_what_the_command_line_says_overrules_the_job_file(
    batch: Batch, folder: Path, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.toml"
    jobs.write_text('[[job]]\ninput = "in/a.mp4"\noutput = "big.mkv"\nscale = 4\nend = "1f"\n')
    assert batch(jobs, "-o", tmp_path / "out").code == 0  # --scale 2 is given
    assert size_of(tmp_path / "out" / "big.mkv") == (64, 48, 1)


def test_odd_names(batch: Batch, clip: Path, tmp_path: Path) -> None:
    odd = [b"two\nlines.mp4", b"-o.mp4", b"caf\xe9.mp4", b"[a]*?.mp4", b"{stem}.mp4", b"5%d.mp4"]
    place = tmp_path / "in"
    place.mkdir()
    for name in odd:
        (place / os.fsdecode(name)).write_bytes(clip.read_bytes())
    report = tmp_path / "report.jsonl"
    done = batch(place, "-o", tmp_path / "out", "--report", report)
    assert done.code == 0, done.err
    assert {os.fsencode(path.name) for path in (tmp_path / "out").iterdir()} == {
        name.replace(b".mp4", b"_x2.mp4") for name in odd
    }
    inputs = {os.fsencode(Path(record["input"]).name) for record in lines(report)}
    assert inputs == set(odd)
    assert "\nlines" not in done.err
    assert "two lines.mp4" in done.err


def test_events_are_one_object_a_line(batch: Batch, folder: Path) -> None:
    done = batch(folder, "--keep-going", "--progress", "json")
    events = [json.loads(line) for line in done.out.splitlines()]
    kinds = [event["event"] for event in events if event["event"] not in ("progress", "verifying")]
    whole = ["job", "started", "finished", "ended"]
    assert kinds == [*whole, "job", "failed", "ended", *whole]
    assert [event["of"] for event in events if event["event"] == "job"] == [3, 3, 3]
    assert len(done.err.splitlines()) == 1


def test_a_dry_run_does_nothing(
    batch: Batch, folder: Path, tmp_path: Path, lies_in: Callable[..., Any]
) -> None:
    (folder / "c_x2.mp4").write_text("there")
    before = lies_in(tmp_path)
    done = batch(folder, "-o", folder, "--dry-run", "--skip-existing")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{folder}/a.mp4 -> {folder}/a_x2.mp4",
        f"{folder}/b.mkv -> {folder}/b_x2.mkv",
        f"{folder}/c.mp4: skipped: the output exists",
    ]
    assert lies_in(tmp_path) == before


# -- Stops. --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_second_job(
    batch: Batch,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    from hatvid.jobs import batch as module

    run, begun = module.run_job, []

    def interrupted(*given: Any, **more: Any) -> Any:
        begun.append(given)
        if len(begun) == 2:
            os.kill(os.getpid(), number)
        return run(*given, **more)

    (folder / "b.mkv").write_bytes((folder / "a.mp4").read_bytes())
    monkeypatch.setattr(module, "run_job", interrupted)
    report = tmp_path / "report.jsonl"
    done = batch(folder, "-o", tmp_path / "out", "--report", report)
    assert done.code == 128 + number
    assert states(report) == {"a.mp4": "done", "b.mkv": "stopped", "c.mp4": "not started"}
    assert names(tmp_path / "out") == ["a_x2.mp4"]
    assert f"stopped by {number.name}: 1 done, 1 stopped, 1 not started" in done.err
    again = batch(folder, "-o", tmp_path / "out", "--report", report, "--skip-existing")
    assert again.code == 0
    assert states(report) == {"a.mp4": "skipped", "b.mkv": "done", "c.mp4": "done"}


def test_a_signal_when_an_output_is_whole_ends_the_batch_after_it(
    batch: Batch, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def interrupted(*given: Any) -> None:
        link(*given)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("hatvid.jobs.partial.os.link", interrupted)
    report = tmp_path / "report.jsonl"
    done = batch(folder, "-o", tmp_path / "out", "--report", report)
    assert done.code == 130
    assert states(report) == {"a.mp4": "done", "b.mkv": "not started", "c.mp4": "not started"}
    assert size_of(tmp_path / "out" / "a_x2.mp4") == (64, 48, 6)


def test_a_video_that_was_half_done_goes_on_from_its_segments(
    batch: Batch, make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatvid.jobs import whole

    place = tmp_path / "in"
    place.mkdir()
    make_clip(place / "long.mkv", frames=16)
    report, out = tmp_path / "report.jsonl", tmp_path / "out"
    given = (place, "-o", out, "--segment", "0.3", "--report", report)
    with monkeypatch.context() as patched:
        patched.setattr(whole, "join", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert batch(*given).code == 130
    (record,) = lines(report)
    assert record["state"] == "stopped"
    assert "2 of 2 segments are kept" in record["reason"]
    loaded = counting(monkeypatch)
    assert batch(*given).code == 0
    (record,) = lines(report)
    assert any("2 of 2 segments" in note for note in record["notes"])
    assert len(loaded) == 1
    assert names(out) == ["long_x2.mkv"]


def test_a_disk_that_is_full_in_the_middle(
    batch: Batch, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatvid.video.sink import VideoSink

    write, sinks = VideoSink.write, set()

    def full(sink: VideoSink, item: Any) -> None:
        sinks.add(id(sink))
        if len(sinks) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(sink, item)

    monkeypatch.setattr(VideoSink, "write", full)
    (folder / "b.mkv").unlink()
    report = tmp_path / "report.jsonl"
    done = batch(folder, "-o", tmp_path / "out", "--keep-going", "--report", report)
    assert done.code == 1
    assert states(report) == {"a.mp4": "failed", "c.mp4": "done"}
    assert "No space left on device" in lines(report)[0]["reason"]
    assert names(tmp_path / "out") == ["c_x2.mp4"]


# -- Others at work. -----------------------------------------------------------------------


def test_what_another_batch_does_is_not_done_twice(
    batch: Batch, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatvid.jobs import batch as module
    from hatvid.jobs.batch_lock import alone_at

    (folder / "b.mkv").unlink()
    run = module.run_job

    def meanwhile(*given: Any, **more: Any) -> Any:
        (out / "c_x2.mp4").write_text("by another")
        return run(*given, **more)

    out, report = tmp_path / "out", tmp_path / "report.jsonl"
    out.mkdir()
    given = (folder, "-o", out, "--overwrite", "--report", report)
    with alone_at(out / "a_x2.mp4") as alone:
        assert alone
        assert batch(*given).code == 0
    assert states(report) == {"a.mp4": "skipped", "c.mp4": "done"}
    assert lines(report)[0]["reason"] == "another batch does it"
    assert names(out) == ["c_x2.mp4"], "no lock is left"
    (out / "c_x2.mp4").unlink()
    monkeypatch.setattr(module, "run_job", meanwhile)
    assert batch(*given).code == 0
    assert states(report) == {"a.mp4": "done", "c.mp4": "skipped"}
    assert lines(report)[1]["reason"] == "the output was written meanwhile"
    assert (out / "c_x2.mp4").read_text() == "by another"


def test_a_file_that_grows_is_left_alone(
    hatvid: Callable[..., Any],
    cheap: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "b.mkv").unlink()
    os.utime(folder / "a.mp4", (10**9, 10**9))
    waits = []

    def grown(seconds: float) -> None:
        waits.append(seconds)
        with (folder / "c.mp4").open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr("hatvid.cli.batch._pause", grown)
    report = tmp_path / "report.jsonl"
    done = hatvid("batch", *cheap, folder, "--report", report)
    assert done.code == 0
    assert states(report) == {"a.mp4": "done", "c.mp4": "skipped"}
    assert lines(report)[1]["reason"] == "it is still being written"
    assert len(waits) == 1
    assert 0 < waits[0] <= 5


def test_watching_takes_what_appears_once_it_is_at_rest(
    hatvid: Callable[..., Any],
    cheap: list[str],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, report = tmp_path / "in", tmp_path / "report.jsonl"
    place.mkdir()
    (place / "a.mp4").write_bytes(clip.read_bytes())
    data, now = clip.read_bytes(), [0.0]
    seen: list[list[str]] = []

    def pause(seconds: float) -> None:
        now[0] += seconds
        seen.append(names(place))
        look = len(seen)
        if look in (4, 5, 6):  # b comes in three pieces
            with (place / "b.mp4").open("ab") as file:
                file.write(data[(look - 4) * 1000 : (look - 3) * 1000 if look < 6 else None])
        if look == 12:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("hatvid.cli.batch._pause", pause)
    monkeypatch.setattr("hatvid.cli.batch._clock", lambda: now[0])
    done = hatvid("batch", *cheap, place, "--watch", "--report", report, "--progress", "none")
    assert done.code == 130
    assert states(report) == {"a.mp4": "done", "b.mp4": "done"}
    assert next(look for look, there in enumerate(seen) if "a_x2.mp4" in there) == 3
    assert next(look for look, there in enumerate(seen) if "b_x2.mp4" in there) == 9
    assert names(place) == ["a.mp4", "a_x2.mp4", "b.mp4", "b_x2.mp4"]
    assert "stopped by SIGINT: 2 done" in done.err


@pytest.mark.long
def test_two_batches_at_the_same_time_share_a_folder(
    program_environment: dict[str, str], cheap: list[str], clip: Path, tmp_path: Path
) -> None:
    place = tmp_path / "in"
    place.mkdir()
    for number in range(8):
        (place / f"{number}.mp4").write_bytes(clip.read_bytes())
    command = [sys.executable, "-m", "hatvid", "batch", *cheap, "--settle", "0", "--skip-existing"]
    running = [
        subprocess.Popen(
            [*command, place, "-o", tmp_path / "out", "--report", tmp_path / f"{number}.jsonl"],
            env=program_environment,
            stderr=subprocess.DEVNULL,
        )
        for number in range(2)
    ]
    assert [process.wait(timeout=200) for process in running] == [0, 0]
    both = [states(tmp_path / f"{number}.jsonl") for number in range(2)]
    for name in both[0]:
        assert sorted(one[name] for one in both) == ["done", "skipped"], name
    assert names(tmp_path / "out") == [f"{number}_x2.mp4" for number in range(8)]
