"""Names and paths of models."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hatvid.errors import CheckpointError, OptionError, UnknownModelError
from hatvid.model import zoo
from hatvid.model.catalog import EMBEDDED, KNOWN, PUBLISHED, KnownModel
from hatvid.model.zoo import load_model, model_path, models_folder, resolve_model


def test_auto_takes_the_scale() -> None:
    assert resolve_model("auto", 4).name == "hat-nano-x4"
    assert resolve_model("auto", 3).name == "hat-nano-x3"
    assert resolve_model("auto", 2).name == "hat-nano-x2"
    assert resolve_model("auto").scale == 4
    assert load_model("auto", 2).scale == 2


def test_auto_without_a_model_of_that_scale() -> None:
    with pytest.raises(OptionError, match=r"by 8 .*2, 3, 4.*--model PATH"):
        resolve_model("auto", 8)


@pytest.mark.parametrize("entry", EMBEDDED, ids=lambda entry: entry.name)
def test_embedded_models_are_as_recorded(entry: KnownModel) -> None:
    found = resolve_model(entry.name)
    content = found.path.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)
    card = found.path.with_name("CARD.md").read_text(encoding="utf-8")
    model = load_model(entry.name)
    assert model.scale == entry.scale
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for fact in (entry.sha256, f"{entry.size:,}", f"{parameters:,}"):
        assert fact in card
    assert not model.training


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_an_embedded_model_that_is_not_as_shipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    found = resolve_model("hat-nano-x4")
    path = tmp_path / "hat-nano-x4.safetensors"
    if damage == "changed":
        content = bytearray(found.path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    changed = dataclasses.replace(found, path=path)
    monkeypatch.setattr(zoo, "resolve_model", lambda *_: changed)
    with pytest.raises(CheckpointError, match="install hatvid again"):
        load_model("hat-nano-x4")


@pytest.mark.parametrize("load", [resolve_model, load_model])
def test_known_name_with_another_scale(load: object) -> None:
    assert callable(load)
    with pytest.raises(OptionError, match="hat-nano-x2 upscales by 2, not by 4; choose scale 2"):
        load("hat-nano-x2", 4)


def test_path_with_another_scale(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(resolve_model("hat-nano-x2").path.read_bytes())
    found = resolve_model(str(path), 4)
    assert (found.name, found.path, found.scale) == ("mine", path, None)
    with pytest.raises(OptionError, match="mine upscales by 2, not by 4"):
        load_model(str(path), 4)
    assert load_model(str(path), 2).scale == 2


def test_what_is_larger_will_do() -> None:
    assert resolve_model("hat-nano-x4", 2).scale == 4
    assert load_model("hat-nano-x4", 3).scale == 4


@pytest.mark.parametrize("name", ["gone.pth", "gone.SAFETENSORS", "gone.ckpt", f"a{os.sep}gone"])
def test_missing_path(name: str) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at") as caught:
        resolve_model(name)
    assert not isinstance(caught.value, UnknownModelError)


@pytest.mark.parametrize("name", ["hat-nano", "HAT-NANO-X4", "hat-nanox4"])
def test_unknown_name_with_a_close_one(name: str) -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean hat-nano-x4\?.*models list"):
        resolve_model(name)


@pytest.mark.parametrize("name", ["", "zzz"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(UnknownModelError, match="see hatvid models list") as caught:
        resolve_model(name)
    assert "did you mean" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_without_a_suffix_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("weights").path == Path("weights")


def test_a_published_model_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HATVID_MODELS", str(tmp_path))
    assert models_folder() == tmp_path
    with pytest.raises(
        CheckpointError, match="fetch it with: hatvid models pull hat-l-x4"
    ) as caught:
        resolve_model("hat-l-x4", 2)
    assert caught.value.exit_code == 1
    # One of that name with other bytes is not loaded.
    (tmp_path / KNOWN["hat-l-x4"].filename).write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(CheckpointError, match=r"is not the hat-l-x4.*hatvid models pull hat-l-x4"):
        load_model("hat-l-x4")


def test_the_list_is_consistent() -> None:
    assert len(KNOWN) == len(EMBEDDED) + len(PUBLISHED)
    for model in KNOWN.values():
        assert len(bytes.fromhex(model.sha256)) == 32
        assert model.name.endswith(f"-x{model.scale}")
        assert all(url.startswith("https://") and url.endswith(".pth") for url in model.mirrors)
        assert model_path(model).name == model.filename
    assert len({model.filename for model in KNOWN.values()}) == len(KNOWN)
    assert len({model.sha256 for model in KNOWN.values()}) == len(KNOWN)


def test_resolving_does_not_import_torch() -> None:
    code = (
        "import sys, hatvid.model; from hatvid.model import zoo; zoo.resolve_model('auto', 4); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names() -> None:
    import hatvid.model

    assert hatvid.model.__all__ == sorted(hatvid.model.__all__)
    assert set(hatvid.model._HOME) == set(hatvid.model.__all__)
    for name in hatvid.model.__all__:
        assert getattr(hatvid.model, name) is not None
        assert name in dir(hatvid.model)
    with pytest.raises(AttributeError, match="nothing"):
        _ = hatvid.model.nothing
