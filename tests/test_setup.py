"""The set-up: make's environment, the pins, and what pytest does with skips."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYTHONS = ("python3.12", "python3.13", "python3.14", "python3", "python")

# A project whose set-up needs no network: its build backend lies in its own tree.
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import os, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    if os.path.exists("broken"):
        raise SystemExit("broken on purpose")
    info = "tiny-1.dist-info/"
    fields = ["Metadata-Version: 2.1", "Name: tiny", "Version: 1", "Provides-Extra: dev", ""]
    files = {
        info + "METADATA": "\\n".join(fields),
        info + "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "tiny.pth": os.getcwd() + "\\n",
    }
    files[info + "RECORD"] = "".join(f"{name},,\\n" for name in [*files, info + "RECORD"])
    name = "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"""


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class Project:
    """A copy of the Makefile beside a tiny project, and shims in front of the PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.bin = root / "bin"
        self.root.mkdir()
        self.bin.mkdir()
        shutil.copy(ROOT / "Makefile", self.root)
        (self.root / "pyproject.toml").write_text(PYPROJECT)
        (self.root / "backend.py").write_text(BACKEND)
        (self.root / "constraints.txt").write_text("")
        self.stamp = self.root / ".venv" / ".installed"
        for name in PYTHONS:
            # As pyenv's: there, and yet no interpreter behind it.
            executable(self.bin / name, f"echo '{name}: command not found' >&2; exit 127")

    def working_python(self, name: str) -> None:
        executable(self.bin / name, f'exec "{sys.executable}" "$@"')

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments],
            cwd=self.root,
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "HOME": str(self.root),
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_NO_INDEX": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    if shutil.which("make") is None:
        pytest.skip("make is not installed (Debian: apt install make)")
    return Project(tmp_path)


def one_line_of_advice(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert "install" in line
    return line


def test_without_a_python_make_says_what_to_install(project: Project) -> None:
    line = one_line_of_advice(project.make("venv"))
    assert line.startswith("No working Python >= 3.12 with venv found")
    assert not (project.root / ".venv").exists()


@pytest.mark.parametrize(
    "lacking",
    [
        # as told by what is asked of the interpreter before it is used
        'case "$2" in *version_info*) exit 1;; esac',
        'case "$2" in *ensurepip*) exit 1;; esac',
        # passes, but then makes half an environment
        'case "$2" in venv) mkdir -p "$3/bin"; exit 1;; esac',
    ],
    ids=["too old", "no ensurepip", "venv fails"],
)
def test_a_python_that_will_not_do_is_passed_over(project: Project, lacking: str) -> None:
    executable(project.bin / "python3.13", f'{lacking}\nexec "{sys.executable}" "$@"')
    one_line_of_advice(project.make("venv"))
    assert not (project.root / ".venv").exists()


def test_make_venv_is_made_once_and_brought_up_to_date(project: Project) -> None:
    project.working_python("python3.14")

    first = project.make("venv")
    assert first.returncode == 0, first.stderr
    python = project.root / ".venv" / "bin" / "python"
    versions = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True
    )
    assert "tiny" in versions.stdout

    stamped = project.stamp.stat().st_mtime_ns
    second = project.make("venv")
    assert second.returncode == 0
    assert "pip" not in second.stdout
    assert project.stamp.stat().st_mtime_ns == stamped

    (project.root / ".venv" / "kept").touch()
    for name in ("pyproject.toml", "constraints.txt"):
        newer = project.stamp.stat().st_mtime_ns + 10**9
        os.utime(project.root / name, ns=(newer, newer))
        assert "pip install" in project.make("venv").stdout
        os.utime(project.stamp, ns=(newer, newer))
        assert project.stamp.exists()
    assert (project.root / ".venv" / "kept").exists()


@pytest.mark.long
def test_an_interrupted_or_dead_environment_is_made_anew(project: Project) -> None:
    project.working_python("python")
    broken = project.root / "broken"
    kept = project.root / ".venv" / "kept"

    broken.touch()
    assert project.make("venv").returncode != 0
    assert not project.stamp.exists()
    kept.touch()
    broken.unlink()
    assert project.make("venv").returncode == 0
    assert project.stamp.exists()
    assert not kept.exists()

    # While it is brought up to date the stamp is away as well.
    broken.touch()
    newer = project.stamp.stat().st_mtime_ns + 10**9
    os.utime(project.root / "pyproject.toml", ns=(newer, newer))
    assert project.make("venv").returncode != 0
    assert not project.stamp.exists()
    broken.unlink()
    os.utime(project.root / "pyproject.toml", ns=(1, 1))
    assert project.make("venv").returncode == 0

    # The interpreter behind it is upgraded away.
    kept.touch()
    python = project.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(project.root / "gone")
    assert project.make("venv").returncode == 0
    assert not kept.exists()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#"):
            name, version = line.split("==")
            found[canonical(name)] = version
    return found


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_every_requirement_has_a_pin_that_meets_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {
        *("bench", "cluster", "dev", "onnx", "research"),
        *("spandrel", "tensorrt", "train"),
    }
    # torch-tensorrt comes with GB of libraries for a GPU, and is not pinned.
    texts = [
        *project["dependencies"],
        *(text for name, texts in extras.items() if name != "tensorrt" for text in texts),
    ]
    wrong = []
    for requirement in map(Requirement, texts):
        version = pins().get(canonical(requirement.name))
        if version is None or not requirement.specifier.contains(version):
            wrong.append(f"{requirement}: pinned to {version}")
    assert wrong == []


def test_make_help_lists_every_target(project: Project) -> None:
    done = project.make()
    assert done.returncode == 0
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert listed == {
        "check",
        "clean",
        "demo",
        "help",
        "lint",
        "lock",
        "test",
        "test-gpu",
        "test-long",
        "test-media",
        "venv",
    }


SKIPPING = {
    "test_skip.py": "import pytest\n\ndef test_a():\n    pytest.skip('the reason')\n",
    "test_module.py": "import pytest\npytest.importorskip('no_such_module', reason='the reason')\n",
    "test_fixture.py": (
        "import pytest\n\n@pytest.fixture\ndef missing():\n    pytest.skip('the reason')\n\n"
        "def test_a(missing): pass\n"
    ),
    "test_mark.py": "import pytest\n\n@pytest.mark.skip('the reason')\ndef test_a(): pass\n",
    # The mark allows the skip for want of a GPU, and no other.
    "test_other.py": (
        "import pytest\n\n@pytest.mark.needs_cuda\ndef test_a(): pytest.skip('the reason')\n"
    ),
}
NO_GPU = "import pytest\n\n@pytest.mark.{mark}\ndef test_a(): assert False\n"
# Stands for torch, which takes seconds to import.
TORCH = "class cuda:\n    is_available = staticmethod(lambda: {gpu})\n"


def run_pytest(
    folder: Path, test: str, *options: str, forbid: str, gpu: bool = False
) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "torch.py").write_text(TORCH.format(gpu=gpu))
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    shutil.copytree(ROOT / "tests" / "doubles", folder / "tests" / "doubles")
    (folder / "tests" / "test_it.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**os.environ, "HATVID_FORBID_SKIPS": forbid},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", SKIPPING)
def test_skips_can_be_forbidden(tmp_path: Path, name: str) -> None:
    (tmp_path / "may").mkdir()
    (tmp_path / "must").mkdir()
    may = run_pytest(tmp_path / "may", SKIPPING[name], forbid="0", gpu=True)
    assert may.returncode in (0, 5), may.stdout
    assert "1 skipped" in may.stdout.splitlines()[-1]

    must = run_pytest(tmp_path / "must", SKIPPING[name], forbid="1", gpu=True)
    assert must.returncode in (1, 2), must.stdout
    assert "tests/test_it.py" in must.stdout
    assert "forbids this: " in must.stdout
    assert "the reason" in must.stdout
    assert "skipped" not in must.stdout.splitlines()[-1]


@pytest.mark.parametrize("mark", ["needs_cuda", "needs_tensorrt"])
def test_a_missing_gpu_may_be_skipped(tmp_path: Path, mark: str) -> None:
    done = run_pytest(tmp_path, NO_GPU.format(mark=mark), forbid="1")
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout.splitlines()[-1]


def test_a_missing_gpu_fails_when_one_is_required(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, NO_GPU.format(mark="needs_cuda"), "--require-cuda", forbid="0")
    assert done.returncode == 1
    assert "there is no NVIDIA GPU here" in done.stdout


# Programs that pip does not bring.

STARTS = """
import subprocess, sys
import pytest

def test_plain():
    subprocess.run(["ffmpeg"], check=True)

def test_child():
    code = "import subprocess; subprocess.run(['ffmpeg'], check=True)"
    subprocess.run([sys.executable, "-c", code], check=True)

def test_asked_for_late(request):
    request.getfixturevalue("ffmpeg")

@pytest.fixture(scope="module")
def clip(ffmpeg):
    return ffmpeg("-version").decode()

def test_marked(clip):
    assert clip == "it is me\\n"
    subprocess.run(["ffmpeg"], check=True)

def test_make():
    assert subprocess.run(["make", "--version"]).returncode == 0
"""


@pytest.fixture
def with_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the PATH, in which there is an ffmpeg."""
    folder = tmp_path / "programs"
    folder.mkdir()
    executable(folder / "ffmpeg", "echo 'it is me'")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_only_a_test_that_uses_the_fixture_starts_ffmpeg(
    with_ffmpeg: Path, workers: tuple[str, ...]
) -> None:
    done = run_pytest(with_ffmpeg, STARTS, *workers, forbid="1")
    for name in ("plain", "child", "asked_for_late"):
        assert f"FAILED tests/test_it.py::test_{name}" in done.stdout
    assert "FileNotFoundError" in done.stdout
    assert "a test that starts ffmpeg uses a fixture of " in done.stdout
    last = done.stdout.splitlines()[-1]
    assert "3 failed, 1 passed" in last, done.stdout
    (with_ffmpeg / "media").mkdir()
    marked = run_pytest(with_ffmpeg / "media", STARTS, *workers, "-m", "media", forbid="1")
    assert marked.returncode == 0, marked.stdout
    assert "1 passed" in marked.stdout.splitlines()[-1]


@pytest.mark.parametrize(("forbid", "says"), [("0", "1 skipped"), ("1", "1 error")])
def test_a_missing_program_skips_in_one_line_or_fails(
    tmp_path: Path, forbid: str, says: str
) -> None:
    test = "def test_a(ffmpeg): pass\n"
    done = run_pytest(tmp_path, test, "-m", "media", forbid=forbid)
    assert says in done.stdout.splitlines()[-1]
    assert "ffmpeg is not installed (Debian: apt install ffmpeg)" in done.stdout


def test_a_bare_path_has_everything_but_the_programs(tmp_path: Path) -> None:
    clean, mixed = tmp_path / "clean", tmp_path / "mixed"
    for folder, names in ((clean, ("make",)), (mixed, ("ffmpeg", "gcc-12", "sh", "xcc"))):
        folder.mkdir()
        for name in names:
            executable(folder / name, f"echo {name}")
    # As of pyenv: it goes by the name that it is called by.
    shim = f'test "${{0##*/}}" = python3.12 && exec "{sys.executable}" "$@"'
    executable(mixed / "python3.12", shim)
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "doubles" / "bare_path.py", tmp_path / "bare"],
        env={"PATH": f"{clean}:{tmp_path / 'none'}:{mixed}"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.strip().split(":")
    assert first == str(clean), "a folder without any of them stays as it is"
    assert sorted(path.name for path in Path(second).iterdir()) == ["python3.12", "sh", "xcc"]
    home = subprocess.run(
        [f"{second}/python3.12", "-c", "import sys; print(sys.executable)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert home.stdout.strip() == sys.executable, "its own place, as an environment needs it"


def test_the_users_folders_are_not_touched(tmp_path: Path) -> None:
    import platformdirs

    cache = Path(platformdirs.user_cache_dir("hatvid"))
    assert "hatvid-tests-" in str(cache)
    done = run_pytest(
        tmp_path,
        "import platformdirs\ndef test_a(): print('<' + platformdirs.user_cache_dir('x') + '>')\n",
        "-s",
        forbid="1",
    )
    inner = done.stdout.partition("<")[2].partition(">")[0]
    assert "hatvid-tests-" in inner
    assert not Path(inner).parents[1].exists(), "the private folder is taken away at the end"
