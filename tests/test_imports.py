"""Imports point down only: read from the syntax trees, so that nothing needs to run.

Counted are all imports, wherever they stand: at the top, inside functions, and under
``TYPE_CHECKING``, for a type from above is a dependency on above too. Counted as well
are ``import_module("name")`` and ``__import__("name")`` with the name written out. Not
seen is a name that is computed; ``hatvid/__init__.py`` does that for its lazy names.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module imports from its own unit and from those lower down; none of the same height.
HEIGHT = {
    "errors": 0,
    "codepoints": 1,
    "reuse_options": 1,
    "segment_options": 1,
    "selectors": 1,
    "options": 2,
    "tiling": 3,
    "resampling": 3,
    "tile_cache": 2,
    "reuse": 3,
    "model": 3,
    "engine": 3,
    "description": 4,
    "frame_memory": 4,
    "frame_program": 4,
    "picture_checks": 4,
    "engine_selection": 5,
    "frame_plan": 5,
    "tile_runner": 6,
    "video": 7,
    "upscaler": 7,
    "jobs": 8,
    "research": 8,
    "bench": 9,
    "cli": 10,
    "__init__": 11,
    "__main__": 12,
    "hatvid_vs": 12,
}

# Where a library may be imported: a folder (ending in /) or a file.
HOMES = {
    "av": ("hatvid/video/", "hatvid/research/"),
    "click": ("hatvid/cli/",),
    "openvino": ("hatvid/engine/openvino.py", "hatvid/engine/openvino_precision.py"),
    "ray": ("hatvid/jobs/cluster.py",),
    "torch_tensorrt": ("hatvid/engine/tensorrt.py",),
    "vapoursynth": ("plugins/", "hatvid/video/vpy.py", "hatvid/bench/"),
}

# A contestant runs in a process of its own what users run, from wherever it comes.
RACED = {("hatvid/bench/vs_hatvid.py", "hatvid_vs")}

# What even a lower unit may not be asked for.
NEVER = {("engine", "video"), ("video", "engine")}

HAT_NAMED = re.compile(r"\bHAT(?!VID)|\bhat[-_]")


def sources(root: Path) -> list[Path]:
    return sorted(path for top in ("hatvid", "plugins") for path in root.glob(f"{top}/**/*.py"))


def module_name(root: Path, path: Path) -> list[str]:
    """The dotted parts by which ``path`` is imported, ``__init__`` included."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    return parts[2:] if parts[0] == "plugins" else parts


def imports(root: Path, path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of each import; for ``from a import b``, ``a.b``."""
    package = module_name(root, path)[:-1]

    def absolute(name: str, level: int) -> str:
        if level == 0:
            return name
        return ".".join([*package[: len(package) - level + 1], *filter(None, [name])])

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{absolute(node.module or '', node.level)}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            called = (
                function.attr
                if isinstance(function, ast.Attribute)
                else function.id
                if isinstance(function, ast.Name)
                else ""
            )
            name = node.args[0]
            if (
                called in ("import_module", "__import__")
                and isinstance(name, ast.Constant)
                and isinstance(name.value, str)
            ):
                bare = name.value.lstrip(".")
                yield node.lineno, absolute(bare, len(name.value) - len(bare))


def unit(root: Path, dotted: list[str]) -> str | None:
    """Which key of HEIGHT a dotted name belongs to; None if it is not ours."""
    if dotted[0] == "hatvid_vs":
        return "hatvid_vs"
    if dotted[0] != "hatvid":
        return None
    if len(dotted) > 1:
        inside = root / "hatvid" / dotted[1]
        if inside.is_dir() or inside.with_suffix(".py").is_file():
            return dotted[1]
    # `from hatvid import __version__` runs nothing but the lazy __init__ that any
    # import of a part of hatvid has run already.
    return None if dotted[1:] == ["__version__"] else "__init__"


def violations(root: Path) -> list[str]:
    found = []
    for path in sources(root):
        where = path.relative_to(root).as_posix()
        own = unit(root, module_name(root, path))
        if own not in HEIGHT:
            found.append(f"{where}: {own} has no height; add it to HEIGHT")
            continue
        for line, name in imports(root, path):
            parts = name.split(".")
            homes = HOMES.get(parts[0])
            if homes and not any(
                where.startswith(home) if home.endswith("/") else where == home for home in homes
            ):
                found.append(f"{where}:{line}: {parts[0]} belongs in {' and '.join(homes)}")
            other = unit(root, parts)
            if other is None or other == own or (where, other) in RACED:
                continue
            if (own, other) in NEVER:
                found.append(f"{where}:{line}: {own} never imports {other}")
            elif other not in HEIGHT or HEIGHT[other] >= HEIGHT[own]:
                found.append(f"{where}:{line}: {own} does not stand above {other}")
        if own == "engine":
            for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if HAT_NAMED.search(text):
                    found.append(f"{where}:{line}: engine never names HAT")
    return found


def test_imports_point_down_only() -> None:
    assert violations(ROOT) == []


def test_the_rules_see_the_whole_project() -> None:
    """An empty list of violations must not come from an empty list of files."""
    seen = {path.relative_to(ROOT).as_posix() for path in sources(ROOT)}
    assert {"hatvid/errors.py", "hatvid/engine/base.py", "hatvid/video/source.py"} <= seen
    assert "plugins/vapoursynth/hatvid_vs/__init__.py" in seen
    used = {
        name.split(".")[0]
        for path in sources(ROOT)
        for _, name in imports(ROOT, path)
        if name.split(".")[0] in HOMES
    }
    assert {"av", "click", "openvino"} <= used


CLEAN = {
    "hatvid/__init__.py": "from hatvid.jobs.run import upscale\n",
    "hatvid/errors.py": "",
    "hatvid/options.py": "from hatvid.errors import OptionError\n",
    "hatvid/tiling.py": "from .options import TileOptions\n",
    "hatvid/upscaler.py": "from hatvid.engine import base\nfrom hatvid.tiling import TilePlan\n",
    "hatvid/model/__init__.py": "from .hat import HAT\n",
    "hatvid/model/hat.py": "import torch\n",
    "hatvid/engine/__init__.py": "from .openvino import OpenVINOEngine\n",
    "hatvid/engine/base.py": "# HATVID_CACHE, that\nfrom ..errors import EngineError\n",
    "hatvid/engine/openvino.py": "import openvino.properties\nfrom .base import Engine\n",
    "hatvid/video/__init__.py": "",
    "hatvid/video/source.py": "import av.filter\nfrom hatvid import errors\n",
    "hatvid/video/vpy.py": "import vapoursynth as vs\n",
    "hatvid/jobs/__init__.py": "from hatvid import __version__\n",
    "hatvid/jobs/run.py": "from ..upscaler import Upscaler\nfrom ..video import source\n",
    "hatvid/cli/__init__.py": "import click\n",
    "plugins/vapoursynth/hatvid_vs/__init__.py": "import vapoursynth\nimport hatvid.upscaler\n",
}

PLANTED = [
    ("hatvid/options.py", "import av", "av belongs in"),
    ("hatvid/jobs/run.py", "from av.video import frame", "av belongs in"),
    ("hatvid/video/source.py", "import vapoursynth", "vapoursynth belongs in"),
    ("hatvid/jobs/run.py", "import click", "click belongs in"),
    ("hatvid/jobs/run.py", "import ray", "ray belongs in"),
    ("hatvid/engine/base.py", "import torch_tensorrt", "torch_tensorrt belongs in"),
    ("hatvid/engine/base.py", "import openvino as ov", "openvino belongs in"),
    ("hatvid/engine/base.py", "import hatvid.video.source", "engine never imports video"),
    (
        "hatvid/video/source.py",
        "from hatvid.engine.base import Engine",
        "video never imports engin",
    ),
    ("hatvid/video/source.py", "from hatvid import engine", "video never imports engine"),
    ("hatvid/engine/base.py", "from hatvid.model import hat", "engine does not stand above model"),
    ("hatvid/engine/base.py", "kind = 'HATConfig'", "engine never names HAT"),
    ("hatvid/engine/base.py", "kind = 'hat-nano-x4'", "engine never names HAT"),
    (
        "hatvid/errors.py",
        "from hatvid.options import WINDOW",
        "errors does not stand above options",
    ),
    ("hatvid/video/source.py", "import hatvid.jobs.run", "video does not stand above jobs"),
    ("hatvid/upscaler.py", "from . import video", "upscaler does not stand above video"),
    ("hatvid/jobs/run.py", "from ..cli import main", "jobs does not stand above cli"),
    ("hatvid/jobs/run.py", "import hatvid_vs", "jobs does not stand above hatvid_vs"),
    ("hatvid/model/hat.py", "import hatvid", "model does not stand above __init__"),
    ("hatvid/model/hat.py", "from hatvid import upscale", "model does not stand above __init__"),
    # the same, hidden
    ("hatvid/options.py", "def late():\n    import av", "av belongs in"),
    ("hatvid/options.py", "if TYPE_CHECKING:\n    import av", "av belongs in"),
    ("hatvid/options.py", "importlib.import_module('av')", "av belongs in"),
    ("hatvid/options.py", "__import__('av.codec')", "av belongs in"),
    (
        "hatvid/video/source.py",
        "import_module('..engine.base', __package__)",
        "video never imports",
    ),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in CLEAN.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_allowed_imports_are_allowed(tree: Path) -> None:
    assert violations(tree) == []


@pytest.mark.parametrize(("name", "text", "message"), PLANTED)
def test_a_planted_violation_is_found(tree: Path, name: str, text: str, message: str) -> None:
    with (tree / name).open("a") as file:
        file.write(f"{text}\n")
    (found,) = violations(tree)
    assert found.startswith(f"{name}:")
    assert message in found


def test_a_new_package_must_be_given_a_height(tree: Path) -> None:
    (tree / "hatvid" / "extra.py").write_text("")
    assert violations(tree) == ["hatvid/extra.py: extra has no height; add it to HEIGHT"]


def test_no_file_is_longer_than_400_lines() -> None:
    files = [*sources(ROOT), *ROOT.glob("pipelines/*")]
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in files
        if path.is_file()
    }
    assert {name: length for name, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import hatvid"),
        ("-m", "hatvid", "--help"),
        ("-m", "hatvid", "upscale", "--help"),
        ("-m", "hatvid", "models", "list"),
    ],
    ids=["import", "help", "upscale-help", "models-list"],
)
def test_help_comes_without_the_heavy_libraries(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "hatvid" in imported
    heavy = {"av", "numpy", "onnx", "openvino", "safetensors", "spandrel", "torch", "vapoursynth"}
    assert imported & heavy == set()
