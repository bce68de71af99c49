"""The folder of a training: what lies in it, and what must not be lost."""

from __future__ import annotations

from pathlib import Path

from hatvid.errors import OptionError, OutputError
from hatvid.research.atomic import write_whole
from hatvid.research.recipe import Recipe

__all__ = ["BEST", "LATEST", "STATE", "open_folder", "refuse_to_lose"]

STATE, LATEST, BEST = "state.safetensors", "latest.pth", "best.pth"


def refuse_to_lose(folder: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Before a run begins anew.

    Raises:
        OptionError: its checkpoints would be lost, though nobody asked for that; or one of
            them is what the recipe begins with.
    """
    kept = [path for path in (folder / BEST, folder / LATEST) if path.exists()]
    if kept and not overwrite:
        raise OptionError(
            f"{kept[0]} is there without {STATE}, so that its run cannot go on; give another "
            "run.folder, or --overwrite to begin anew without it"
        )
    if recipe.start is None:
        return
    begun = recipe.path(recipe.start.checkpoint)
    if begun.exists() and any(path.samefile(begun) for path in kept):
        raise OptionError(
            f"{begun} lies in run.folder, where the run overwrites it; move it elsewhere, or "
            "give another run.folder"
        )


def open_folder(folder: Path, recipe: Recipe, *, anew: bool) -> None:
    """Make the folder, and write the recipe into it.

    Args:
        anew: of a run before nothing is kept.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (STATE, LATEST, BEST, "log.csv", "validation.csv") if anew else ():
            (folder / name).unlink(missing_ok=True)  # of a run that is given up
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made ({error.strerror}); mend run.folder in the recipe"
        ) from error
    write_whole(
        folder / "recipe.json",
        (recipe.model_dump_json(indent=1, exclude_none=True) + "\n").encode(),
    )
