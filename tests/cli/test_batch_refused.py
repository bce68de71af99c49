"""What hatvid batch will not do, told in one line before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hatvid.jobs import batch_plan

Refused = Callable[..., Any]


@pytest.fixture
def refused(
    hatvid: Callable[..., Any],
    cheap: list[str],
    refusal: Callable[..., None],
    lies_in: Callable[..., Any],
    tmp_path: Path,
) -> Refused:
    """One line, and nothing touched."""

    def check(*arguments: str | Path, code: int, says: str) -> None:
        before = lies_in(tmp_path)
        outcome = hatvid("batch", *cheap, "--settle", "0", "--progress", "none", *arguments)
        refusal(outcome, code=code, says=says)
        assert lies_in(tmp_path) == before

    return check


@pytest.fixture
def folder(tmp_path: Path, clip: Path) -> Path:
    place = tmp_path / "in"
    place.mkdir()
    (place / "a.mp4").write_bytes(clip.read_bytes())
    return place


def told(hatvid: Callable[..., Any], cheap: list[str], *arguments: str | Path) -> Any:
    return hatvid("batch", *cheap, "--settle", "0", "--progress", "none", *arguments)


def test_two_inputs_that_would_become_one_output(refused: Refused, folder: Path) -> None:
    (folder / "a.mkv").write_bytes(b"never read")
    refused(folder, "--naming", "{stem}_big.mkv", code=2, says=r"a\.mkv and .*a\.mp4 would both")
    refused(
        folder, "--naming", "big.mkv", "--keep-going", code=2, says="name them apart by --naming"
    )


def test_outputs_that_differ_in_case_only(
    refused: Refused,
    hatvid: Callable[..., Any],
    cheap: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "A.MP4").write_bytes((folder / "a.mp4").read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(batch_plan, "ignores_case", lambda _: True)
        refused(folder, "-o", tmp_path / "out", code=2, says="A.MP4 and .*a.mp4 would both become")
    assert told(hatvid, cheap, folder, "-o", tmp_path / "out").code == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_an_input_that_is_the_output_of_another(refused: Refused, folder: Path) -> None:
    other = folder / "a_x2.mp4"
    other.write_bytes((folder / "a.mp4").read_bytes())
    refused(
        folder / "a.mp4",
        other,
        "--overwrite",
        code=2,
        says=r"a_x2\.mp4 is an input, and the output of .*a\.mp4 too",
    )


def test_an_output_that_exists_keeps_all_from_being_begun(
    hatvid: Callable[..., Any], cheap: list[str], folder: Path, clip: Path
) -> None:
    (folder / "b.mp4").write_bytes(clip.read_bytes())
    (folder / "b_x2.mp4").write_text("precious")
    done = told(hatvid, cheap, folder)
    assert done.code == 2
    assert "b_x2.mp4 exists" in done.err
    assert "nothing was begun" in done.err
    assert (folder / "b_x2.mp4").read_text() == "precious"
    assert not (folder / "a_x2.mp4").exists()


@pytest.mark.parametrize("naming", ["../{stem}.{ext}", "x/../../{stem}.{ext}", "{tmp}/{stem}.mkv"])
def test_names_do_not_leave_the_output_folder(
    hatvid: Callable[..., Any],
    cheap: list[str],
    folder: Path,
    tmp_path: Path,
    naming: str,
    lies_in: Callable[..., Any],
) -> None:
    naming = naming.replace("{tmp}", str(tmp_path))
    before = lies_in(tmp_path)
    done = told(hatvid, cheap, folder, "-o", tmp_path / "out", "--naming", naming)
    assert done.code == 2
    assert "lies outside of" in done.err
    assert "--allow-outside" in done.err
    assert lies_in(tmp_path) == before


def test_names_leave_it_where_the_user_says_so(
    hatvid: Callable[..., Any], cheap: list[str], folder: Path, tmp_path: Path
) -> None:
    given = (folder, "-o", tmp_path / "out", "--naming", "../{stem}_big.{ext}")
    assert told(hatvid, cheap, *given, "--allow-outside").code == 0
    assert (tmp_path / "a_big.mp4").exists()


def test_nothing_is_written_through_a_link(
    hatvid: Callable[..., Any], cheap: list[str], folder: Path, tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "a_x2.mp4").symlink_to(elsewhere / "planted.mp4")
    (out / "sub").symlink_to(elsewhere)
    done = told(hatvid, cheap, folder, "-o", out, "--overwrite")
    assert done.code == 1
    assert "is a link, which is not written through" in done.err
    done = told(hatvid, cheap, folder, "-o", out, "--naming", "sub/{stem}.{ext}")
    assert done.code == 2
    assert "lies outside of" in done.err
    assert list(elsewhere.iterdir()) == []


def test_a_job_file_writes_nowhere_but_beside_itself(
    hatvid: Callable[..., Any], cheap: list[str], folder: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    jobs = home / "jobs.toml"
    escapes = [
        'output = "../x.mp4"',
        f'output = "{tmp_path}/x.mp4"',
        'folder = ".."',
        'naming = "../{stem}_x.{ext}"',
        "",  # beside the input, which lies elsewhere
    ]
    for escape in escapes:
        jobs.write_text(f'[[job]]\ninput = "../in/a.mp4"\n{escape}\n')
        done = told(hatvid, cheap, jobs)
        assert done.code == 2, escape
        assert f"{jobs}:1: " in done.err
        assert "lies outside of" in done.err
    assert told(hatvid, cheap, jobs, "--allow-outside").code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["a.mp4", "a_x2.mp4"]
    assert list(home.iterdir()) == [jobs]


def test_a_script_is_run_only_where_it_is_named(
    hatvid: Callable[..., Any],
    cheap: list[str],
    folder: Path,
    tmp_path: Path,
) -> None:
    script, mark = folder / "evil.vpy", tmp_path / "mark"
    script.write_text(f"open({str(mark)!r}, 'w').close()\nraise RuntimeError('it ran')\n")
    for source in (folder, folder / "*"):
        done = hatvid("batch", *cheap, "--settle", "0", source, "--skip-existing")
        assert done.code == 0
        assert "a script is run only where it is named itself: left out evil.vpy" in done.err
        assert not mark.exists()
    assert told(hatvid, cheap, script).code == 1
    assert mark.exists()


def test_a_folder_without_videos_is_not_success(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    refused(tmp_path, code=1, says="no video found in .*; check the name")
    refused(tmp_path / "*.mkv", code=1, says="no video found in")


def test_a_folder_that_cannot_be_read(
    refused: Refused, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def closed(top: Path, **more: Any) -> Any:
        more["onerror"](PermissionError(13, "Permission denied", str(top)))
        return walk(top)

    monkeypatch.setattr(os, "walk", closed)  # root may read everything
    refused(folder, code=1, says=r"in cannot be read \(Permission denied\); check its rights")


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (["-"], 2, "a batch reads files"),
        (["none.toml"], 1, "none.toml cannot be read"),
        (["{in}", "--naming", "{stem"], 2, "naming"),
        (["{in}", "--naming", "{stem.__class__}"], 2, "unknown field; there are {stem}, {scale}"),
        (["{in}", "--naming", "{stem!r}"], 2, "unknown field"),
        (["{in}", "--naming", "."], 2, "names no file"),
        (["{in}", "--report", "{in}/a.mp4"], 2, "is a file of the batch"),
        (["{in}", "--report", "{in}/a_x2.mp4"], 2, "is a file of the batch"),
        (["{in}", "--report", "{in}/notes.txt"], 2, "exists and is no report"),
        (["{in}", "--report", "{in}/no/r.jsonl"], 1, "no such folder"),
        (["{in}", "--watch", "--dry-run"], 2, "leave one out"),
        (["{in}", "--report", "-", "--progress", "json"], 2, "holds one of"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_makes_no_sense(
    refused: Refused, folder: Path, given: list[str], code: int, says: str
) -> None:
    (folder / "notes.txt").write_text("precious")
    refused(*[part.replace("{in}", str(folder)) for part in given], code=code, says=says)
