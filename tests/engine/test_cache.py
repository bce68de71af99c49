from __future__ import annotations

import logging
import os
import stat
import threading
from pathlib import Path

import pytest
from torch import nn

from hatvid.engine.cache import ModelCache, code_hash, default_cache_dir


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "engine"


def test_what_is_written_is_read(folder: Path) -> None:
    cache = ModelCache(folder)
    assert cache.read("a") is None
    cache.write("a", b"one")
    cache.write("b", b"")
    cache.write("a", b"two")
    assert ModelCache(folder).read("a") == b"two"
    assert cache.read("b") == b""
    assert sorted(path.name for path in folder.iterdir()) == ["a.model", "b.model"]


def test_folder_and_files_are_the_users_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        ModelCache(folder).write("a", b"one")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "a.model").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_write_to_is_not_used(
    folder: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    ModelCache(folder).write("a", b"one")
    folder.chmod(mode)
    cache = ModelCache(folder)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "others may write" in caplog.text
    assert cache.read("a") is None
    cache.write("b", b"two")
    cache.drop("a")
    assert [path.name for path in folder.iterdir()] == ["a.model"]


def test_a_folder_of_another_user_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ModelCache(folder).write("a", b"one")
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert ModelCache(folder).read("a") is None
    assert "another user" in caplog.text


def test_a_folder_that_cannot_be_made_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        cache = ModelCache(folder)
        cache.write("a", b"one")
        assert cache.read("a") is None
    assert len(caplog.records) == 2


@pytest.mark.parametrize("place", [0, 20, -1], ids=["magic", "digest", "data"])
def test_a_changed_byte_is_noticed(
    folder: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ModelCache(folder)
    cache.write("a", b"one")
    path = folder / "a.model"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert cache.read("a") is None
    assert "damaged" in caplog.text
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 10, 40, 49])
def test_a_cut_file_is_noticed(folder: Path, size: int) -> None:
    cache = ModelCache(folder)
    cache.write("a", b"one")
    path = folder / "a.model"
    content = path.read_bytes()
    assert len(content) > 49
    path.write_bytes(content[:size])
    assert cache.read("a") is None


def test_the_file_not_used_for_longest_goes_first(folder: Path) -> None:
    cache = ModelCache(folder, limit=1300)
    for age, key in ((300, "old"), (200, "middle"), (100, "young")):
        cache.write(key, bytes(350))
        then = (folder / f"{key}.model").stat().st_mtime - age
        os.utime(folder / f"{key}.model", (then, then))
    assert cache.read("old") is not None  # now it is the last used
    cache.write("new", bytes(350))
    assert sorted(path.stem for path in folder.iterdir()) == ["new", "old", "young"]


def test_what_was_just_written_stays_though_the_clock_went_back(folder: Path) -> None:
    cache = ModelCache(folder, limit=1000)
    cache.write("old", bytes(600))
    then = (folder / "old.model").stat().st_mtime + 3600
    os.utime(folder / "old.model", (then, then))
    cache.write("new", bytes(600))
    assert [path.name for path in folder.iterdir()] == ["new.model"]


def test_what_exceeds_the_limit_alone_is_not_kept(folder: Path) -> None:
    cache = ModelCache(folder, limit=1000)
    cache.write("small", bytes(100))
    cache.write("large", bytes(1000))
    assert [path.name for path in folder.iterdir()] == ["small.model"]


def test_leftovers_of_killed_writers_go_after_a_day(folder: Path) -> None:
    cache = ModelCache(folder)
    for name, age in ((".new-dead.model", 2 * 24 * 3600), (".new-alive.model", 60)):
        (folder / name).write_bytes(b"half")
        then = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (then, then))
    cache.write("a", b"one")
    assert sorted(path.name for path in folder.iterdir()) == [".new-alive.model", "a.model"]


def test_a_full_disk_costs_the_entry_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ModelCache(folder)
    cache.write("a", b"one")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache.write("a", b"two")
    assert "No space left" in caplog.text
    assert cache.read("a") == b"one"
    assert [path.name for path in folder.iterdir()] == ["a.model"]


def test_readers_never_see_half_a_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    versions = [bytes([number]) * 100_000 for number in range(4)]
    ModelCache(folder).write("a", versions[0])
    done = threading.Event()
    wrong: list[bytes | None] = []

    def write(data: bytes) -> None:
        cache = ModelCache(folder)
        for _ in range(10):
            cache.write("a", data)

    def read() -> None:
        cache = ModelCache(folder)
        while not done.is_set():
            if (data := cache.read("a")) not in versions:
                wrong.append(data)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(data,)) for data in versions]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not wrong
    assert not caplog.records
    assert [path.name for path in folder.iterdir()] == ["a.model"]


def test_the_place_is_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = default_cache_dir("openvino")
    assert place.parts[-2:] == ("hatvid", "openvino")


def test_changed_code_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_network"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text("SCALE = 2\n")
    (package / "net.py").write_text("from torch import nn\nclass Net(nn.Module):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from some_network.net import Net  # type: ignore[import-not-found]

    before = code_hash(Net())
    assert code_hash(nn.Sequential(nn.ReLU(), Net())) == before
    (package / "layers.py").write_text("SCALE = 3\n")
    assert code_hash(Net()) != before
