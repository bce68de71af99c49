"""The pipelines that come with hatvid: scripts for users to run, or to copy and change."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from hatvid.errors import OptionError, OutputError, OutputExistsError

__all__ = ["Recipe", "copy_recipe", "recipes"]

_INSTALLED = Path(__file__).parents[1] / "pipelines"
_IN_A_CLONE = Path(__file__).parents[2] / "pipelines"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One of them.

    Args:
        name: of its file.
        purpose: what it is for, one line.
        run: how it is run, one line.
        path: where it lies.
    """

    name: str
    purpose: str
    run: str
    path: Path


def recipes() -> list[Recipe]:
    """All of them, by name."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _IN_A_CLONE
    return [_read(path) for path in sorted(folder.iterdir()) if path.is_file()]


def copy_recipe(name: str, destination: Path) -> Path:
    """Copy one of them, never over another file.

    Args:
        name: of the recipe.
        destination: a folder, or the name of the copy.

    Returns:
        The copy.

    Raises:
        OptionError: no recipe is called so.
        OutputExistsError: there is such a file already.
        OutputError: the copy cannot be written.
    """
    known = {recipe.name: recipe for recipe in recipes()}
    if name not in known:
        raise OptionError(f"no pipeline is called {name!r}; there are {', '.join(known)}")
    target = destination / name if destination.is_dir() else destination
    data = known[name].path.read_bytes()
    try:
        with target.open("xb") as file:
            file.write(data)
        if data.startswith(b"#!"):
            mode = target.stat().st_mode
            target.chmod(mode | (mode & (stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)) >> 2)
    except FileExistsError:
        raise OutputExistsError(f"{target} exists; remove it, or name the copy") from None
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written ({error.strerror}); choose another place"
        ) from error
    return target


def _read(path: Path) -> Recipe:
    """A recipe by its header: what it is for, and the line that runs it."""
    header = [
        line.removeprefix("#").strip()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("# ")
    ]
    run = next((line for line in header if line.startswith("Run: ")), "")
    return Recipe(name=path.name, purpose=header[0], run=run.removeprefix("Run: "), path=path)
