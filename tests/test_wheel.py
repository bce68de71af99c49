"""The built wheel, installed into an environment of its own, away from the checkout."""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"
WHERE = """
import hatvid.engine.base, hatvid_vs, json
from importlib.metadata import distribution
from importlib.resources import files
print(json.dumps({
    "hatvid": hatvid.__file__,
    "hatvid.engine.base": hatvid.engine.base.__file__,
    "hatvid_vs": hatvid_vs.__file__,
    "recipe": str(files("hatvid") / "pipelines" / "batch_folder.toml"),
    "metadata": str(distribution("hatvid").locate_file("")),
}))
"""
UPSCALE = """
import hatvid, torch
up = hatvid.Upscaler.from_checkpoint("hat-nano-x4", engine="eager")
print(tuple(up(torch.rand(1, 3, 16, 20)).shape))
"""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    run(*build, cwd=folder)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of executables of an environment that holds the wheel.

    Its other packages are those of the running environment, by a .pth file; one in it
    does not read the .pth files there, so the editable checkout stays out.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=os.name != "nt")
    bin_ = home / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", bin_ / "python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--no-cache-dir", wheel, cwd=home)
    site = Path(run(bin_ / "python", "-c", PURELIB, cwd=home).strip())
    outside = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "running-environment.pth").write_text("\n".join(sorted(outside)) + "\n")
    return bin_


def test_it_holds_the_packages_and_the_recipes_and_nothing_else(wheel: Path) -> None:
    places = {
        "hatvid": "hatvid",
        "plugins/vapoursynth/hatvid_vs": "hatvid_vs",
        "pipelines": "hatvid/pipelines",
    }
    expected = {
        f"{inside}/{path.relative_to(ROOT / outside).as_posix()}": path
        for outside, inside in places.items()
        for path in (ROOT / outside).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    # Named one by one, lest a folder be lost from the tree and the wheel alike.
    assert {
        "hatvid/model/weights/hat-nano-x4.safetensors",
        "hatvid/model/weights/hat-nano-x3.safetensors",
        "hatvid/model/weights/hat-nano-x2.safetensors",
        "hatvid/model/weights/CARD.md",
        "hatvid/pipelines/batch_folder.toml",
        "hatvid/py.typed",
        "hatvid_vs/__init__.py",
        "hatvid_vs/py.typed",
    } <= set(expected)

    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    info = f"hatvid-{PROJECT['version']}.dist-info/"
    assert {name for name in held if not name.startswith(info)} == set(expected)
    for name, path in expected.items():
        assert held[name] == path.read_bytes(), name
    for name in ("LICENSE", "NOTICE"):
        assert held[f"{info}licenses/{name}"] == (ROOT / name).read_bytes()


def test_its_requirements_name_no_index_and_no_place(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = f"hatvid-{PROJECT['version']}.dist-info/METADATA"
        metadata = email.message_from_bytes(archive.read(name))
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert len(requirements) >= len(PROJECT["dependencies"])
    assert [str(each) for each in requirements if each.url] == []
    # "+cu130" or "+cpu" would tie the wheel to one index of torch.
    assert [str(each) for each in requirements if "+" in str(each.specifier)] == []
    assert metadata["Requires-Python"] == ">=3.12"
    assert metadata["License-Expression"] == "Apache-2.0"


def test_everything_in_it_runs_from_where_it_was_installed(installed: Path, tmp_path: Path) -> None:
    answer = run(installed / "hatvid", "--help", cwd=tmp_path)
    assert answer.startswith("Usage: hatvid")
    assert "upscale" in answer

    where = json.loads(run(installed / "python", "-c", WHERE, cwd=tmp_path))
    home = installed.parent.resolve()
    for name, file in where.items():
        assert Path(file).resolve().is_relative_to(home), name

    shape = run(installed / "python", "-c", UPSCALE, cwd=tmp_path)
    assert shape.strip() == "(1, 3, 64, 80)"
