"""Places where no output can be: one line, nothing left behind, nothing overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., Any]
Make = Callable[..., Path]

# The limit stands for a full disk: the system call fails in the same place.
LIMITED = """
import resource, sys
limit = int(sys.argv[1])
from hatvid.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main(sys.argv[2:])
"""


@pytest.fixture
def mine(clip: Path, tmp_path: Path) -> Path:
    """The clip in the test's own folder, where leftovers are looked for."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    return path


def test_the_output_is_there_already(refused: Refused, mine: Path, tmp_path: Path) -> None:
    for output in (tmp_path / "out.mp4", tmp_path / "clip_x2.mp4"):
        output.write_text("precious")
    says = r"out\.mp4 exists; use --overwrite to replace it, or -o to rename"
    refused(mine, "-o", tmp_path / "out.mp4", code=2, says=says)
    refused(mine, code=2, says=r"clip_x2\.mp4 exists; use --overwrite")  # by its default name


def test_the_output_is_a_dangling_link(refused: Refused, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    refused(mine, "-o", tmp_path / "out.mp4", code=2, says="exists; use --overwrite")


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("kind", ["same", "dotted", "symlink", "hard link", "other way"])
def test_the_output_is_the_input(
    refused: Refused, mine: Path, tmp_path: Path, overwrite: list[str], kind: str
) -> None:
    source, output = mine, tmp_path / "twin.mp4"
    if kind == "same":
        output = mine
    elif kind == "dotted":
        (tmp_path / "folder").mkdir()
        output = tmp_path / "folder" / ".." / "clip.mp4"
    elif kind == "symlink":
        output.symlink_to(mine)
    elif kind == "hard link":
        output.hardlink_to(mine)
    else:  # the input is a link to what would be overwritten
        source, output = output, mine
        source.symlink_to(mine)
    says = "is the input itself; give the output another name"
    refused(source, "-o", output, *overwrite, code=2, says=says)


def test_the_output_is_a_folder(refused: Refused, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    for overwrite in ([], ["--overwrite"]):
        says = r"is a folder; give the output a file name"
        refused(mine, "-o", tmp_path / "out.mp4", *overwrite, code=2, says=says)


def test_the_folder_is_missing(refused: Refused, mine: Path, tmp_path: Path) -> None:
    says = "no such folder; make it, or choose another with -o"
    refused(mine, "-o", tmp_path / "gone" / "out.mp4", code=1, says=says)


def test_the_folder_is_a_file(refused: Refused, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    output = tmp_path / "notes.txt" / "out.mp4"
    refused(mine, "-o", output, code=1, says="no such folder; make it, or choose another")


def test_the_folder_takes_no_files(refused: Refused, mine: Path) -> None:
    # Not even root may make a file there, so this holds where permissions do not bind.
    refused(mine, "-o", "/proc/out.mp4", code=1, says="choose another .*with -o")


def test_the_name_is_too_long(refused: Refused, mine: Path, tmp_path: Path) -> None:
    output = tmp_path / ("a" * 300 + ".mp4")
    refused(mine, "-o", output, code=1, says="cannot be written.*choose another name with -o")


def test_an_extension_that_is_not_written(refused: Refused, mine: Path, tmp_path: Path) -> None:
    for name, kind in [("out.avi", r"\.avi files are"), ("out", "without an extension is")]:
        says = rf"{name}: .*{kind} not written by hatvid; name one of .*\.mkv"
        refused(mine, "-o", tmp_path / name, code=2, says=says)


@pytest.mark.parametrize("codec", ["aac", "flac"])
def test_a_container_that_cannot_hold_the_sound(
    refused: Refused, tmp_path: Path, make_clip: Make, codec: str
) -> None:
    source = make_clip(tmp_path / "clip.mkv", audio=codec)
    says = rf"webm cannot hold {codec} audio .*write to a \.mkv file instead"
    refused(source, "-o", tmp_path / "out.webm", code=1, says=says)


@pytest.mark.parametrize(
    "limit",
    [pytest.param(0, marks=pytest.mark.long), 2000, pytest.param(600_000, marks=pytest.mark.long)],
)
def test_the_place_is_full(
    hatvid_program: Callable[..., Any],
    refusal: Refused,
    lies_in: Callable[[Path], dict[str, object]],
    make_clip: Make,
    cheap: list[str],
    tmp_path: Path,
    limit: int,
) -> None:
    # The large clip makes more than the megabyte that is buffered, so that it fails in the
    # midst of encoding; the small one when the buffer is brought out at the end.
    large = limit > 2000
    size = {"width": 320, "height": 240, "frames": 12} if large else {}
    source = make_clip(
        tmp_path / "clip.mkv", codec="ffv1", pix_fmt="yuv444p", options={"level": "3"}, **size
    )
    output = tmp_path / "out.mkv"
    options = ["--codec", "ffv1", "--overwrite", "--progress", "none", "-o", output]
    output.write_text("precious")
    before = lies_in(tmp_path)
    outcome = hatvid_program(str(limit), "upscale", *cheap, *options, source, code=LIMITED)
    refusal(outcome, code=1, says="(no space left|cannot be written).*(free some|choose another)")
    assert lies_in(tmp_path) == before


def test_an_output_that_appears_meanwhile_is_kept(
    hatvid: Callable[..., Any],
    refusal: Refused,
    cheap: list[str],
    mine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hatvid.jobs.partial import PartialFile

    output = tmp_path / "out.mp4"
    publish = PartialFile.publish

    def late(partial: PartialFile) -> None:
        output.write_text("precious")  # by another program, while this one was upscaling
        publish(partial)

    monkeypatch.setattr(PartialFile, "publish", late)
    outcome = hatvid("upscale", *cheap, "--progress", "none", mine, "-o", output)
    refusal(outcome, code=2, says="has appeared meanwhile; use --overwrite")
    assert output.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]
