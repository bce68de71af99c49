"""Patches cut out of large pictures."""

from __future__ import annotations

import csv
import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hatvid.errors import InputError, OptionError, OutputError
from hatvid.research import atomic, training_set
from hatvid.research.training_set import cut_patches, fetch_debian, make_set, subjects


def busy(height: int, width: int) -> Image.Image:
    random = np.random.default_rng(height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


def test_the_steepest_patches_are_kept_in_their_order() -> None:
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[:, ::2] = (np.arange(50)[::2, None] * 4).astype(np.uint8)  # steeper to the right
    found = cut_patches(pixels, side=20, stride=10, most=3)
    places = [(y, x) for y in (0, 10, 20) for x in (0, 10, 20, 30)]
    assert len(places) == 12
    wanted = [pixels[y : y + 20, 30:50] for y in (0, 10, 20)]
    assert all((a == b).all() for a, b in zip(found, wanted, strict=True))
    assert cut_patches(np.zeros((200, 200, 3), np.uint8)) == []  # flat
    assert cut_patches(pixels[:10], side=20) == []


def test_a_set_and_where_it_is_from(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    busy(150, 300).save(tmp_path / "in" / "small.png")
    busy(300, 1200).save(tmp_path / "in" / "wide.jpg")
    busy(450, 3003).save(tmp_path / "in" / "widest.png")
    rows = make_set(tmp_path / "set", [tmp_path / "in"])
    assert [(r.width, r.height, r.reduced_by) for r in rows] == [
        (300, 150, 1),
        (600, 150, 2),
        (1001, 150, 3),
    ]
    # 144 at a stride of 72: one row of (width - 144) // 72 + 1.
    assert [row.patches for row in rows] == [3, 7, 12]
    first = np.asarray(Image.open(tmp_path / "set" / "000_001.png"))
    whole = np.asarray(Image.open(tmp_path / "in" / "small.png"))
    np.testing.assert_array_equal(first, whole[:144, 72 : 72 + 144])
    with (tmp_path / "set" / "sources.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert [row["patches"] for row in listed] == ["3", "7", "12"]
    assert len(list((tmp_path / "set").iterdir())) == 3 + 7 + 12 + 1
    with pytest.raises(OptionError, match="is not empty"):
        make_set(tmp_path / "set", [tmp_path / "in"])


def test_one_picture_of_each_subject(tmp_path: Path) -> None:
    sizes = {
        "Altai/contents/images/1080x1920.png": (30, 50),
        "Altai/contents/images/5120x2880.png": (90, 60),
        "Altai/contents/images_dark/5120x2880.png": (90, 60),
        "Altai/contents/screenshot.png": (9, 6),
        "Kite/contents/images/2560x1600.png": (40, 20),
        "Elephants.png": (20, 10),
        "Elephants_3840x2160.png": (40, 20),
        "Flow.png": (20, 10),
    }
    for name, (width, height) in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(tmp_path / name)
    (tmp_path / "Link.png").symlink_to(tmp_path / "Flow.png")
    found = subjects(tmp_path.rglob("*.png"))
    assert {path.relative_to(tmp_path).as_posix() for path in found} == {
        "Altai/contents/images/5120x2880.png",
        "Kite/contents/images/2560x1600.png",
        "Elephants_3840x2160.png",
        "Flow.png",
    }


def test_packages_are_fetched_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By programs of Debian's, in whose place stands a recorder here."""
    ran = []

    def recorder(command: tuple[str, ...], *, cwd: Path, **_: object) -> object:
        ran.append(command[:2])
        if command[0] == "apt-get":
            (cwd / f"{command[2]}_1_all.deb").write_bytes(b"")
        else:
            Image.new("RGB", (9, 9)).save(Path(command[3]) / "picture.png")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(training_set.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(training_set.subprocess, "run", recorder)
    found = fetch_debian(tmp_path)
    assert ran == [("apt-get", "download"), ("dpkg-deb", "-x")] * 6
    names = {path.relative_to(tmp_path).parts[0] for path in found if tmp_path in path.parents}
    assert names == set(training_set.APT_PACKAGES)
    assert {"astronaut", "rocket"} <= {path.stem for path in found}  # of scikit-image
    assert not list(tmp_path.glob("*.deb"))
    monkeypatch.setattr(
        training_set.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 100, "", "E: no such package\n"),
    )
    with pytest.raises(InputError, match=r"failed \(E: no such package\); run apt-get update"):
        fetch_debian(tmp_path / "again")
    monkeypatch.setattr(training_set.shutil, "which", lambda name: None)
    with pytest.raises(OptionError, match=r"no apt-get .* plasma-workspace-wallpapers"):
        fetch_debian(tmp_path / "third")


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for name, message in (
        ("nothing", "there is no"),
        ("empty", "holds no PNG, JPEG or WebP"),
        ("broken.png", "cannot be read as a picture .*leave it out"),
    ):
        with pytest.raises(InputError, match=message):
            make_set(tmp_path / name.replace(".", "_"), [tmp_path / name])


def test_a_broken_picture_leaves_nothing_behind(tmp_path: Path) -> None:
    """What was cut before it would be taken for a set."""
    (tmp_path / "in").mkdir()
    busy(150, 300).save(tmp_path / "in" / "a.png")
    busy(150, 301).save(tmp_path / "in" / "b.png")
    whole = (tmp_path / "in" / "b.png").read_bytes()
    (tmp_path / "in" / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"b\.png cannot be read .*leave it out"):
        make_set(tmp_path / "set", [tmp_path / "in"])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (tmp_path / "in" / "b.png").unlink()
    assert [row.patches for row in make_set(tmp_path / "set", [tmp_path / "in"])] == [3]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy(150, 300).save(tmp_path / "a.png")
    sync, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as during:
        during.setattr(atomic.os, "fsync", full)
        with pytest.raises(
            OutputError, match=r"/set cannot be written \(No space left .*free some"
        ):
            make_set(tmp_path / "set", [tmp_path / "a.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    make_set(tmp_path / "set", [tmp_path / "a.png"])


@pytest.mark.parametrize("there", [False, True], ids=["not there", "empty"])
def test_a_set_has_its_name_only_when_it_is_whole(tmp_path: Path, there: bool) -> None:
    busy(150, 300).save(tmp_path / "a.png")
    target = tmp_path / "deep" / "set"
    if there:
        target.mkdir(parents=True)
    seen: list[Any] = []

    def tell(line: str) -> None:
        (place,) = (path for path in target.parent.iterdir() if path != target)
        seen.append((place.name[:5], len(list(place.iterdir())), target.exists()))
        assert not there or not any(target.iterdir())

    make_set(target, [tmp_path / "a.png"], tell=tell)
    assert seen == [(".set.", 3, there)]
    assert [path.name for path in target.parent.iterdir()] == ["set"]
    assert len(list(target.iterdir())) == 4


def test_folders_that_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy(150, 300).save(tmp_path / "a.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    for folder in (Path(), tmp_path / "disk"):
        with pytest.raises(OptionError, match="cannot be exchanged; name a new folder in it"):
            make_set(folder, [tmp_path / "a.png"])
    with pytest.raises(OutputError, match=r"a\.png cannot be made \(Not a directory\)"):
        make_set(tmp_path / "a.png", [tmp_path / "a.png"])
    make_set(tmp_path / "link", [tmp_path / "a.png"])
    assert (tmp_path / "link").is_symlink()
    assert len(list((tmp_path / "real").iterdir())) == 4
    kept = {"a.png", "disk", "here", "link", "real"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_set_of_no_patches_is_none(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    busy(100, 300).save(tmp_path / "in" / "small.png")
    Image.new("RGB", (200, 200)).save(tmp_path / "in" / "flat.png")
    Image.new("RGB", (1200, 1)).save(tmp_path / "in" / "line.png")
    with pytest.raises(InputError, match=r"none of the 3 pictures .*144x144.*; give larger ones"):
        make_set(tmp_path / "set", [tmp_path / "in"])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
