"""``__all__`` of every module is sorted, and each name in it is there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import hatvid

ROOT = Path(__file__).parents[1]


def modules() -> list[tuple[str, Path]]:
    found = []
    for top in (ROOT, ROOT / "plugins" / "vapoursynth"):
        for package in ("hatvid", "hatvid_vs"):
            for path in sorted((top / package).glob("**/*.py")):
                parts = path.relative_to(top).with_suffix("").parts
                found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


def has_all(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    targets = [
        target
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


WITH_ALL = [name for name, path in modules() if has_all(path)]


def test_the_modules_are_found() -> None:
    assert {"hatvid", "hatvid.errors", "hatvid.options", "hatvid.engine.base"} <= set(WITH_ALL)


@pytest.mark.parametrize("name", WITH_ALL)
def test_all_is_sorted_and_true(name: str) -> None:
    module = importlib.import_module(name)
    names = module.__all__
    assert list(names) == sorted(set(names))
    assert [public for public in names if not hasattr(module, public)] == []


def test_lazy_names_are_listed_and_unknown_ones_refused() -> None:
    assert set(hatvid.__all__) <= set(dir(hatvid))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hatvid.no_such_name
