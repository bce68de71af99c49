"""Small and large patches, drawn so that each one hangs on its number alone.

Patch k of iteration i of a stage is the same whenever it is drawn, by whichever process,
after however many others: so a resumed run goes on as if it had not stopped, and
several processes share one batch.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hatvid.errors import InputError
from hatvid.research.degrade import block, degrade, reach
from hatvid.research.matlab_resize import Pixels
from hatvid.research.recipe import Augment, Recipe, Task
from hatvid.research.training_pictures import TrainingPictures

__all__ = ["Patches", "augmented", "batches"]

type Key = tuple[int, int]
"""Iteration of the stage and number in the batch, both from 0."""


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """The patches of a stage, by :data:`Key`.

    Args:
        recipe: the run's.
        number: of the stage, from 0.

    Raises:
        InputError: a source cannot be read, or has no picture that is large enough.
    """

    def __init__(self, recipe: Recipe, number: int) -> None:
        self._seed, self._number = recipe.run.seed, number
        self._stage = recipe.stage[number]
        self.tasks = self._stage.tasks(recipe.network.scale)
        self._chances = np.array([task.weight for task in self.tasks])
        self._chances /= self._chances.sum()
        largest = max(task.scale for task in self.tasks) * self._stage.patch
        self.pictures = TrainingPictures(recipe, self._stage.data, largest)

    def task(self, iteration: int) -> Task:
        """Whose turn it is."""
        if len(self.tasks) == 1:
            return self.tasks[0]
        # The last word tells it from patches' own: a 0, or none, would be the first one's.
        random = np.random.default_rng([self._seed, self._number, iteration, 2**32 - 1])
        return self.tasks[int(random.choice(len(self.tasks), p=self._chances))]

    def beyond(self, task: str, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """So many patches of a task that the stage itself does not come to, a batch at once.

        Yields:
            (N, 3, P, P) and (N, 3, sP, sP) uint8.

        Raises:
            InputError: a picture cannot be read.
        """
        later = itertools.count(self._stage.iterations)
        iterations = (n for n in later if self.task(n).name == task)
        for numbers in itertools.batched(range(count), self._stage.batch):
            iteration = next(iterations)
            pairs = [self[iteration, index] for index in range(len(numbers))]
            small, large = zip(*pairs, strict=True)
            yield torch.stack(small), torch.stack(large)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        """A small patch and the large one that should come of it.

        Returns:
            (3, P, P) and (3, sP, sP) uint8, RGB.

        Raises:
            InputError: a picture cannot be read.
        """
        iteration, index = key
        task, side = self.task(iteration), self._stage.patch
        random = np.random.default_rng([self._seed, self._number, iteration, index])
        pixels = self.pictures.read(self.pictures.pick(random.random()))
        small, large = _pair(pixels, side, task, random)
        small, large = augmented(small, large, self._stage.augment, random)
        return _tensor(small), _tensor(large)


def batches(
    patches: Patches,
    first: int,
    last: int,
    size: int,
    *,
    rank: int,
    world: int,
    workers: int,
    pinned: bool,
) -> Generator[tuple[Tensor, Tensor]]:
    """What one of several processes gets of each batch from an iteration to another.

    Args:
        patches: of the stage.
        first: iteration.
        last: iteration after the last one.
        size: of the whole batch, divisible by ``world``.
        rank: which process, from 0.
        world: how many there are.
        workers: processes that make patches; 0: this one.
        pinned: into pinned memory, for a GPU.

    Yields:
        (size / world, 3, P, P) and (size / world, 3, sP, sP) uint8.
    """
    keys = [range(rank, size, world)]
    loader = DataLoader(
        patches,
        batch_sampler=_Keys(range(first, last), keys[0]),
        num_workers=workers,
        # Not by fork: threads of PyTorch and FFmpeg would be forked away.
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pinned,
        worker_init_fn=_ignore_signals,
    )
    try:
        yield from loader
    except InputError as error:
        # Another process's message holds its whole traceback.
        raise InputError(str(error).rpartition("InputError: ")[2]) from error


def _ignore_signals(worker: int) -> None:
    # They go to all processes of a terminal, or of a job; the one that trains says when to
    # end. Workers end with it, however it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Keys:
    """One list of keys an iteration."""

    def __init__(self, iterations: range, indices: Sequence[int]) -> None:
        self._iterations, self._indices = iterations, indices

    def __iter__(self) -> Iterator[list[Key]]:
        for iteration in self._iterations:
            yield [(iteration, index) for index in self._indices]

    def __len__(self) -> int:
        return len(self._iterations)


def augmented(
    small: Pixels, large: Pixels, augment: Augment, random: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Flip, turn and recolour both alike; (H, W, 3) each, square if turned."""
    across, down, turned = (bool(random.integers(2)) for _ in range(3))
    colours = random.random() < augment.channels
    order = random.permutation(3) if colours else np.arange(3)

    def same(pixels: Pixels) -> Pixels:
        if augment.flips and across:
            pixels = pixels[:, ::-1]
        if augment.flips and down:
            pixels = pixels[::-1]
        if augment.rotations and augment.flips and turned:
            pixels = pixels.transpose(1, 0, 2)
        elif augment.rotations and not augment.flips:
            pixels = np.rot90(pixels, 2 * down + turned)
        return pixels[..., order]

    return same(small), same(large)


def _pair(
    pixels: Pixels, side: int, task: Task, random: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Cut a large patch, and make the small one from it and what lies around it."""
    scale = task.scale
    rows, columns = pixels.shape[0] // scale, pixels.shape[1] // scale
    top, left = (int(random.integers(size - side, endpoint=True)) for size in (rows, columns))
    margin, blocks = reach(task.degradation, scale), block(task.degradation)
    above, before = (min(at, margin + int(random.integers(blocks))) for at in (top, left))
    bottom, right = min(top + side + margin, rows), min(left + side + margin, columns)
    around = pixels[(top - above) * scale : bottom * scale, (left - before) * scale : right * scale]
    small = degrade(around, task.degradation, scale, random)
    large = pixels[top * scale : (top + side) * scale, left * scale : (left + side) * scale]
    return small[above : above + side, before : before + side], large


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
