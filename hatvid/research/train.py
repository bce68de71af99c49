"""Train a network as a recipe says."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hatvid.errors import OutOfMemoryError
from hatvid.research.outcome import Outcome
from hatvid.research.recipe import Recipe
from hatvid.research.trainer import Trainer
from hatvid.research.world import join_world

__all__ = ["Outcome", "train"]


def train(
    recipe: Recipe,
    *,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    changed: bool = False,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train, or go on where the run in the recipe's folder stopped.

    With the same number of threads a run that was stopped ends with the weights of one that
    was not, bit for bit.

    Args:
        recipe: from :func:`~hatvid.research.recipe_file.read_recipe`.
        device: as for :func:`~hatvid.research.world.join_world`.
        threads: of a CPU; None leaves PyTorch's choice.
        overwrite: begin anew, whatever is in the folder.
        changed: go on even if the recipe is not the one that the run began with.
        stop: asked after each iteration; True keeps the state and ends.
        tell: told what happens, a line each.

    Raises:
        OptionError: the run in the folder was begun with another recipe; or the batch cannot
            be shared by the processes.
        InputError: pictures cannot be read, or are too small.
        CheckpointError: the recipe's checkpoint or the kept state cannot be read, or does not
            fit.
        TrainingError: loss or gradient are no longer finite; the state before is kept.
        OutputError: the disk refuses.
        OutOfMemoryError: a GPU's memory does not hold a step.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with join_world(device) as world:
        trainer = Trainer(recipe, world, tell if world.leads else lambda line: None)
        trainer.begin(overwrite=overwrite, changed=changed)
        if trainer.all_done():
            return trainer.outcome(finished=True)
        if trainer.stage_done():
            trainer.next_stage()
        while True:
            try:
                going = trainer.run_stage(stop)
            except torch.OutOfMemoryError as error:
                raise OutOfMemoryError(
                    "there is not enough GPU memory for a step; choose a smaller batch or patch, "
                    "or precision bf16, in the recipe"
                ) from error
            if trainer.all_done() or not going:
                trainer.draw()
                return trainer.outcome(finished=trainer.all_done())
            trainer.next_stage()
