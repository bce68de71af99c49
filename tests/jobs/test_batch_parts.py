"""What a batch is made of: names, files at rest, locks, and a network that is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hatvid.errors import OptionError, OutputError
from hatvid.jobs.batch_lock import alone_at
from hatvid.jobs.finding import Found, find, stamp_of
from hatvid.jobs.journal import folder_for
from hatvid.jobs.naming import Naming, folded, ignores_case, place_of
from hatvid.jobs.partial import PartialFile
from hatvid.jobs.settling import Settling, growing


def found(path: Path) -> Found:
    return Found(path=path, root=path.parent, named=False, stamp=stamp_of(path))


# -- Names. --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "name", "stem"),
    [
        ("{stem}_{height}p.{ext}", "film_1080p.mkv", "film"),
        ("{stem}_{height}p.{ext}", "film_hip.mkv", None),
        ("{model}/{stem}.{ext}", "hat/film.mkv", "film"),
        ("{model}/{stem}.{ext}", "film.mkv", None),
        ("big {stem}{stem}.mkv", "big abab.mkv", "ab"),
        ("big {stem}{stem}.mkv", "big abac.mkv", None),
        ("{{{stem}}}.mkv", "{film}.mkv", "film"),
        ("{stem}.{ext}", "film.mkv", None),  # tells nothing
    ],
)
def test_a_template_knows_the_names_that_it_makes(
    template: str, name: str, stem: str | None
) -> None:
    assert Naming.parse(template).stem_in(Path(name), {}) == stem


def test_names_that_are_none(tmp_path: Path) -> None:
    for name in ("", "..", "a/..", "a/", "-", "a\0b"):
        with pytest.raises(OptionError):
            place_of(tmp_path, name, tmp_path)
    assert place_of(tmp_path, "a/../b", tmp_path) == tmp_path / "a/../b"


def test_a_folder_that_tells_capitals_apart_is_asked(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    there = (tmp_path / "A").exists()
    assert ignores_case(tmp_path) == there
    assert ignores_case(tmp_path / "not" / "made") == there
    assert folded(tmp_path / "É.mkv") == folded(tmp_path / "e\u0301.MKV")


def test_what_is_found_in_a_folder(tmp_path: Path) -> None:
    names = ["b.MKV", "a.mp4", ".h.mp4", "x.unverified2.mp4", "y.mkv.part", "z.txt", "s.vpy"]
    for name in [*names, "deep/c.avi", ".dark/d.mkv"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.mkv").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.mkv")

    def shown(text: str, **more: bool) -> list[str]:
        inputs = find(text, seen_from=tmp_path, **more).inputs
        return [str(one.path.relative_to(tmp_path)) for one in inputs]

    assert shown(".") == ["a.mp4", "b.MKV"]
    assert shown(".", recursive=True) == ["a.mp4", "b.MKV", "deep/c.avi"]
    assert shown("*.mp4") == ["a.mp4"]
    assert shown("**/*.avi") == ["deep/c.avi"]
    assert shown("s.vpy") == ["s.vpy"]
    assert shown(".h.mp4") == [".h.mp4"]
    assert shown("none.mkv") == ["none.mkv"]


# -- Files at rest. ------------------------------------------------------------------------


def test_only_young_files_are_waited_for(tmp_path: Path) -> None:
    old, young, moving, ahead = (tmp_path / name for name in ("old", "young", "moving", "ahead"))
    for path, age in ((old, 60), (young, 3), (moving, 1), (ahead, -3600)):
        path.write_text("a")
        os.utime(path, (10**6 - age, 10**6 - age))
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        moving.write_text("ab")

    inputs = [found(path) for path in (old, young, moving, ahead, tmp_path / "gone")]
    assert growing(inputs[:1], 5, now=lambda: 1e6, wait=wait) == set()
    assert waits == []
    assert growing(inputs, 5, now=lambda: 1e6, wait=wait) == {moving}
    assert waits == [5], "no longer, whatever another machine's clock says"
    assert growing(inputs[1:2], 5, now=lambda: 1e6, wait=wait) == set()
    assert waits == [5, 2]


def test_a_file_has_to_keep_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now = tmp_path / "a.mkv", [0.0]
    settling = Settling(5, lambda: now[0])

    def look(after: float) -> bool:
        now[0] += after
        return settling.at_rest(found(path))

    assert not look(0), "it is not there"
    path.write_text("a")
    assert [look(2) for _ in range(4)] == [False, False, False, True]
    path.write_text("ab")
    os.utime(path, ns=(1, 1))
    assert not look(9)
    os.utime(path, ns=(2, 2))
    assert [look(4) for _ in range(3)] == [False, False, True]

    def held(*_: object) -> None:
        raise PermissionError("another program has it")

    monkeypatch.setattr(Path, "open", held)
    assert not look(9)


# -- Locks. --------------------------------------------------------------------------------


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    output = tmp_path / ("long" * 60 + ".mkv")
    path = folder_for(output).with_name(folder_for(output).name + ".lock")
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1], mode=0o600); lock.acquire()\n"
        "print(True, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        with alone_at(output) as alone:
            assert not alone
        holder.kill()
    (left,) = tmp_path.iterdir()
    assert left.stat().st_mode & 0o077 == 0
    with alone_at(output) as alone:
        assert alone
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    output = tmp_path / "a.mkv"
    (tmp_path / ".a.mkv.hatvid.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot be made"), alone_at(output):
        pass
    assert not (tmp_path / "elsewhere").exists()


# -- Outputs. ------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_nobody_else_reads_an_output_before_it_has_its_name(
    tmp_path: Path, overwrite: bool
) -> None:
    before = os.umask(0o022)
    try:
        with PartialFile(tmp_path / "a.mkv", overwrite=overwrite) as partial:
            assert partial.written.stat().st_mode & 0o777 == 0o600
            partial.seal()
            partial.publish()
    finally:
        os.umask(before)
    assert (tmp_path / "a.mkv").stat().st_mode & 0o777 == 0o644
