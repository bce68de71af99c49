"""pipelines/folder.sh with a double for `hatvid` that copies, logs and fails on demand."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hatvid.video.containers import CONTAINERS

SCRIPT = Path(__file__).parents[2] / "pipelines" / "folder.sh"

# Arguments are logged NUL-separated, one call a line ended by an empty argument. The
# exit code is read from the video itself: "exit 3" fails with 3.
DOUBLE = """#!/bin/sh
printf '%s\\0' "$@" '' >> "$LOG"
test "$1" = upscale || exit 99
while [ "$1" != -- ]; do
  [ "$1" = -o ] && output=$2
  shift
done
code=$(sed -n 's/^exit //p' "$2")
[ -n "$code" ] && exit "$code"
cat  # must see the end of the input at once, not the terminal
cp -- "$2" "$output"
"""


class Folder:
    def __init__(self, root: Path) -> None:
        self.input = root / "in put"
        self.output = root / "out put" / "deep"
        self.log = root / "log"
        self.bin = root / "bin"
        self.input.mkdir()
        self.bin.mkdir()
        double = self.bin / "hatvid"
        double.write_text(DOUBLE)
        double.chmod(0o755)

    def add(self, name: str, content: str = "video") -> None:
        (self.input / name).write_text(content)

    def run(self, *options: str, output: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, self.input, output or self.output, *options],
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "LOG": str(self.log)},
            input="what the terminal would say",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        if not self.log.exists():
            return []
        calls = self.log.read_text().removesuffix("\0\0").split("\0\0")
        return [call.split("\0") for call in calls]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    return Folder(tmp_path)


def test_every_video_is_upscaled_with_the_options_given(folder: Folder) -> None:
    for name in ("a b.mp4", "new\nline.MKV", "--help.mov", "old.avi", "$(touch x).webm", "*.mp4"):
        folder.add(name, name)
    folder.add("notes.txt")
    folder.add("mp4")
    (folder.input / "inner.mp4").mkdir()

    done = folder.run("--scale", "2", "--encoder-option", "x=a b")

    assert done.returncode == 0, done.stderr
    outputs = {path.name: path.read_text() for path in folder.output.iterdir()}
    assert outputs == {
        "a b.mp4": "a b.mp4",
        "new\nline.MKV": "new\nline.MKV",
        "--help.mov": "--help.mov",
        "old.avi.mkv": "old.avi",
        "$(touch x).webm": "$(touch x).webm",
        "*.mp4": "*.mp4",
    }
    for call in folder.calls():
        name = Path(call[-1]).name
        output = folder.output / (name + ".mkv" if name == "old.avi" else name)
        options = ["--scale", "2", "--encoder-option", "x=a b"]
        source = str(folder.input / name)
        assert call == ["upscale", "-o", str(output), *options, "--", source]
    assert len(folder.calls()) == 6


def test_a_second_run_does_only_what_is_missing(folder: Folder) -> None:
    folder.add("a.mp4")
    folder.add("b.mp4")
    assert folder.run().returncode == 0
    (folder.output / "a.mp4").unlink()
    folder.log.unlink()

    done = folder.run()

    assert done.returncode == 0
    assert [Path(call[-1]).name for call in folder.calls()] == ["a.mp4"]
    assert "skipped, already there" in done.stdout
    assert "b.mp4" in done.stdout


@pytest.mark.parametrize("codes", [(1, 2, 0), (2, 1, 0), (0, 2, 1)])
def test_the_worst_exit_code_is_kept_and_the_others_are_done(
    folder: Folder, codes: tuple[int, ...]
) -> None:
    for number, code in enumerate(codes):
        folder.add(f"{number}.mp4", f"exit {code}" if code else "video")

    done = folder.run()

    assert done.returncode == 2
    assert len(folder.calls()) == 3
    assert [path.name for path in folder.output.iterdir()] == [f"{codes.index(0)}.mp4"]
    for number, code in enumerate(codes):
        assert (f"failed with exit code {code}: {folder.input}/{number}.mp4" in done.stderr) == (
            code != 0
        )


@pytest.mark.parametrize("code", [130, 143])
def test_stopped_by_the_user_it_starts_no_other_video(folder: Folder, code: int) -> None:
    folder.add("a.mp4", f"exit {code}")
    folder.add("b.mp4")
    assert folder.run().returncode == code
    assert len(folder.calls()) == 1


def test_wrong_use_is_told_in_one_line(folder: Folder) -> None:
    folder.add("a.mp4")
    same = folder.run(output=folder.input / "." / "")
    assert (same.returncode, same.stderr.count("\n")) == (2, 1)
    assert "output folder is the input folder" in same.stderr

    shutil.rmtree(folder.input)
    missing = folder.run()
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "is not a folder" in missing.stderr
    assert folder.calls() == []


def test_a_folder_without_videos_is_not_success(folder: Folder) -> None:
    folder.add("notes.txt")
    done = folder.run()
    assert done.returncode == 1
    assert "no video found" in done.stderr


def test_each_container_that_hatvid_writes_keeps_its_name(folder: Folder) -> None:
    for suffix in CONTAINERS:
        folder.add(f"a{suffix}")
    assert folder.run().returncode == 0
    # What keeps neither times nor colours is no place for a result that nobody asked for.
    expected = {
        f"a{name}" if container.others else f"a{name}.mkv" for name, container in CONTAINERS.items()
    }
    assert {path.name for path in folder.output.iterdir()} == expected
