"""One run of a training, from stage to stage."""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hatvid.errors import InputError, OptionError, TrainingError
from hatvid.model.catalog import KNOWN
from hatvid.model.hat import HAT
from hatvid.research.measure import measure, resized, upscaled
from hatvid.research.outcome import Outcome
from hatvid.research.pairs import Pair, find_pairs
from hatvid.research.patches import Patches, batches
from hatvid.research.recipe import Recipe
from hatvid.research.run_folder import BEST, LATEST, STATE, open_folder, refuse_to_lose
from hatvid.research.schedule import learning_rate
from hatvid.research.tail_fit import fit_tail
from hatvid.research.train_log import Measured, Rows, Trained, draw_curves, hours
from hatvid.research.train_network import Tasks, begin_with, build_tasks, drop_paths, follow
from hatvid.research.train_state import (
    Place,
    load_state,
    read_place,
    save_published,
    save_state,
)
from hatvid.research.world import World

__all__ = ["Trainer"]

type _Batch = tuple[Tensor, Tensor]


class Trainer:
    """A run in one process; what several of them share goes through ``world``.

    Args:
        recipe: what is to be done.
        world: which process this is.
        tell: told what happens.

    Attributes:
        tasks: the network that learns.
        average: its averaged weights.
        place: where the run stands.
    """

    tasks: Tasks
    average: Tasks
    place: Place

    def __init__(self, recipe: Recipe, world: World, tell: Callable[[str], None]) -> None:
        self._recipe, self._world, self._tell = recipe, world, tell
        self.folder = recipe.path(recipe.run.folder)
        self._total = sum(stage.iterations for stage in recipe.stage)
        for number, stage in enumerate(recipe.stage, 1):
            if stage.batch % world.size:
                raise OptionError(
                    f"the batch of stage {number}, {stage.batch}, cannot be shared by {world.size} "
                    "processes; choose a multiple in the recipe, or another number of processes"
                )
        self._pairs: list[Pair] = []
        self._every = 0 if recipe.validation is None else recipe.validation.every
        if recipe.validation is not None and world.leads:
            scale = recipe.network.scale
            self._pairs = find_pairs(recipe.path(recipe.validation.pictures), scale)
            self._bicubic = measure("bicubic", resized("bicubic", scale), self._pairs, scale).psnr

    # -- Where the run stands. ------------------------------------------------------------

    @property
    def iteration(self) -> int:
        """Of the whole run: how many are done."""
        before = self._recipe.stage[: self.place.stage]
        return sum(stage.iterations for stage in before) + self.place.iteration

    def stage_done(self) -> bool:
        """Whether nothing of the present stage is left."""
        return self.place.iteration >= self._recipe.stage[self.place.stage].iterations

    def all_done(self) -> bool:
        """Whether nothing of the whole run is left."""
        return self.iteration >= self._total

    def outcome(self, *, finished: bool) -> Outcome:
        """What has come of it."""
        return Outcome(
            finished=finished,
            iteration=self.iteration,
            total=self._total,
            checkpoint=self.folder / LATEST,
            best=self.place.best,
            seconds=self.place.seconds,
        )

    def begin(self, *, overwrite: bool, changed: bool) -> None:
        """Build the network; take up the kept state if there is one."""
        found = None if overwrite else read_place(self.folder / STATE)
        if self._world.any(found is not None) and self._world.any(found is None):
            raise OptionError(
                f"not all processes see the state in {self.folder}; let run.folder be one that "
                "all of them share"
            )
        if found is None:
            refuse_to_lose(self.folder, self._recipe, overwrite=overwrite)
        own = self._recipe.fingerprint()
        if found is not None and found.recipe != own and not changed:
            raise OptionError(
                f"the run in {self.folder} was begun with another recipe; go on with that one, "
                "use --changed to go on with this one, --overwrite to begin anew, or give another "
                "run.folder"
            )
        if found is not None and found.stage >= len(self._recipe.stage):
            raise OptionError(f"the run in {self.folder} is beyond the recipe's last stage")
        self.place = found or Place(recipe=own)
        threads, version = torch.get_num_threads(), str(torch.__version__)
        if found is not None and (found.threads, found.torch) != (threads, version):
            self._tell(
                f"begun with {found.threads} threads and torch {found.torch}, goes on with "
                f"{threads} and {version}: the last bits may differ"
            )
        self.place.recipe, self.place.threads, self.place.torch = own, threads, version
        self._build(None)
        if found is not None:
            load_state(self.folder / STATE, self.tasks, self.average, self._optimiser)
            self._tell(f"goes on after iteration {self.iteration} of {self._total}")
        elif (start := self._recipe.start) is not None:
            known = start.checkpoint
            name = known if known in KNOWN else str(self._recipe.path(known))
            new = begin_with(self.tasks, start, name, self._recipe.network.scale)
            if new:
                self._tell(f"{len(new)} tensors begin anew: {', '.join(new[:4])}, ...")
            self.average.load_state_dict(self.tasks.state_dict())
        self._world.wait()  # until all have read what they begin with
        if self._world.leads:
            open_folder(self.folder, self._recipe, anew=found is None)
            self._log = Rows(self.folder / "log.csv", Trained, self.iteration)
            self._measured = Rows(self.folder / "validation.csv", Measured, self.iteration)
        if found is None:
            self._fit()
            self.validate()
            self.save()  # or the best checkpoint would be there without a state

    def next_stage(self) -> None:
        """Begin the next stage with the averaged weights."""
        self.place.stage += 1
        self.place.iteration = 0
        self._build(self.average)
        if self._fit():
            self.validate()

    def _fit(self) -> bool:
        """Fit the tail to the body if the present stage begins so."""
        count, own = self._recipe.stage[self.place.stage].fit, self._own_task()
        if count:
            self._tell(f"the tail is fitted to {count} patches")
            pairs = Patches(self._recipe, self.place.stage).beyond(own, count)
            ours = itertools.islice(pairs, self._world.rank, None, self._world.size)
            fit_tail(self.tasks.net(own), ours, self._world.sum)
            self.average.load_state_dict(self.tasks.state_dict())
        return count > 0

    def _build(self, before: Tasks | None) -> None:
        stage = self._recipe.stage[self.place.stage]
        network, seed = self._recipe.network, self._recipe.run.seed + self.place.stage
        self.tasks = build_tasks(network, stage.tasks(network.scale), seed)
        if before is not None:
            follow(self.tasks, before)
        self.tasks.to(self._world.device)
        self.average = copy.deepcopy(self.tasks).requires_grad_(False)
        groups = []
        for part, factor in zip(
            self.tasks.parts(), (stage.rates.body, stage.rates.tail), strict=True
        ):
            for parameter in part.values():
                parameter.requires_grad_(factor > 0)
            if factor > 0:
                groups.append({"params": list(part.values()), "factor": factor})
        self._optimiser = torch.optim.Adam(
            groups,
            lr=stage.learning_rate,
            betas=stage.betas,
            weight_decay=stage.weight_decay,
        )

    # -- Training. ------------------------------------------------------------------------

    def run_stage(self, stop: Callable[[], bool]) -> bool:
        """Train to the end of the present stage; False if it was asked to stop."""
        stage, run = self._recipe.stage[self.place.stage], self._recipe.run
        patches = Patches(self._recipe, self.place.stage)
        self._announce(patches)
        running = self._running(stage.patch)
        coming = batches(
            patches,
            self.place.iteration,
            stage.iterations,
            stage.batch,
            rank=self._world.rank,
            world=self._world.size,
            workers=run.workers,
            pinned=self._world.device.type == "cuda",
        )
        losses: list[float] = []
        since = time.monotonic()
        with contextlib.closing(coming):
            for small, large in self._kept_on_failure(coming):
                task = patches.task(self.place.iteration).name
                loss, norm, stopping = self._step(running, small, large, task, stop)
                losses.append(loss)
                done = self.place.iteration
                last = done == stage.iterations
                ends = stopping or last
                if ends or done % run.log_every == 0:
                    seconds = time.monotonic() - since
                    self.place.seconds += seconds
                    self._write_row(losses, norm, seconds / len(losses))
                    losses, since = [], time.monotonic()
                if last or (self._every and done % self._every == 0):
                    self.validate()
                    since = time.monotonic()
                if ends or done % run.save_every == 0:
                    self.save()
                if stopping:
                    return False
        return True

    def _kept_on_failure(self, coming: Iterator[_Batch]) -> Iterator[_Batch]:
        """What comes; if a picture cannot be read by any process, the state is kept first."""
        while True:
            failure = None
            try:
                batch = next(coming)
            except StopIteration:
                return
            except InputError as error:
                failure = error
            if self._world.any(failure is not None):
                self.save()
                raise failure or TrainingError(
                    "another process cannot read a picture, and says which; the state is kept"
                )
            yield batch

    def _step(
        self,
        running: nn.Module,
        small: Tensor,
        large: Tensor,
        task: str,
        stop: Callable[[], bool],
    ) -> tuple[float, float, bool]:
        """One iteration: loss and norm of the gradient, and whether to stop after it."""
        stage, device = self._recipe.stage[self.place.stage], self._world.device
        rate = learning_rate(stage, self.place.iteration)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        x = small.to(device, non_blocking=True).float() / 255
        wanted = large.to(device, non_blocking=True).float() / 255
        half = self._recipe.run.precision == "bf16"
        if stage.drop_path:
            # Of this step alone, so that a resumed run draws the same.
            place = [self._recipe.run.seed, self.place.stage, self.place.iteration]
            drawn = np.random.SeedSequence([*place, self._world.rank, 2**32 - 1])
            torch.manual_seed(int(drawn.generate_state(1)[0]))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            made = running(x, task)
        loss = (made.float() - wanted).abs().mean()
        self._optimiser.zero_grad()
        loss.backward()
        learning = [p for group in self._optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(learning, stage.clip or float("inf"))
        shared_loss, shared_norm, stopping = self._world.mean(
            float(loss.detach()), float(norm), float(stop())
        )
        if not torch.isfinite(torch.tensor([shared_loss, shared_norm])).all():
            self.save()
            raise TrainingError(
                f"loss or gradient of iteration {self.iteration + 1} are not finite; the state "
                f"before it is kept in {self.folder}: lower learning_rate, set clip, or take "
                "precision fp32 in the recipe, and run it again with --changed"
            )
        self._optimiser.step()
        weights = [parameter.detach() for parameter in self.tasks.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), weights, 1 - stage.ema)
        self.place.iteration += 1
        return shared_loss, shared_norm, stopping > 0

    def _running(self, patch: int) -> nn.Module:
        """The network as each step calls it."""
        self.tasks.train()
        drop_paths(self.tasks, self._recipe.stage[self.place.stage].drop_path)
        for net in self.tasks.nets.values():
            assert isinstance(net, HAT)
            net.prepare(patch, patch)
            if self._recipe.run.compile:
                net.compile()
        if self._world.size == 1:
            return self.tasks
        several = len(self.tasks.nets) > 1  # each step leaves the others' tails out
        return DistributedDataParallel(
            self.tasks, find_unused_parameters=several, forward_sync_buffers=False
        )

    # -- What is told and kept. -----------------------------------------------------------

    def _announce(self, patches: Patches) -> None:
        stage = self._recipe.stage[self.place.stage]
        self._tell(
            f"stage {self.place.stage + 1} of {len(self._recipe.stage)}, {stage.name}: "
            f"{len(patches.pictures.shots)} pictures, {stage.iterations} iterations of "
            f"{stage.batch} patches"
        )
        if patches.pictures.left_out:
            self._tell(f"{patches.pictures.left_out} pictures are smaller than a patch: left out")

    def validate(self) -> None:
        """Measure the averaged weights, if there are pictures; the process that leads does."""
        if not self._pairs:
            return
        name = self._own_task()
        net = self.average.net(name).eval()
        with torch.inference_mode():
            enlarge = upscaled(lambda rgb: net(rgb.to(net.mean.device)))
            found = measure(name, enlarge, self._pairs, net.scale)
        net.train()
        self._measured.add(
            Measured(
                iteration=self.iteration,
                stage=self.place.stage + 1,
                psnr=found.psnr,
                ssim=found.ssim,
                bicubic=self._bicubic,
            )
        )
        self._tell(
            f"iteration {self.iteration}: {found.psnr:.3f} dB, SSIM {found.ssim:.4f} "
            f"(bicubic {self._bicubic:.3f} dB)"
        )
        if self.place.best is None or found.psnr > self.place.best:
            self.place.best = found.psnr
            save_published(self.folder / BEST, self.tasks.net(name), self.average.net(name))

    def _write_row(self, losses: list[float], norm: float, seconds: float) -> None:
        if not self._world.leads:
            return
        stage = self._recipe.stage[self.place.stage]
        row = Trained(
            iteration=self.iteration,
            stage=self.place.stage + 1,
            loss=sum(losses) / len(losses),
            rate=learning_rate(stage, self.place.iteration - 1),
            gradient=norm,
            seconds=seconds,
        )
        self._log.add(row)
        left = (self._total - self.iteration) * seconds
        self._tell(
            f"iteration {row.iteration} of {self._total}: loss {row.loss:.5f}, "
            f"rate {row.rate:.2e}, {seconds:.2f} s each, {hours(left)} left"
        )

    def save(self) -> None:
        """Keep the state and the latest checkpoint; the process that leads does.

        Raises:
            OutputError: the disk refuses; the state before is kept.
        """
        if self._world.leads:
            save_state(self.folder / STATE, self.place, self.tasks, self.average, self._optimiser)
            name = self._own_task()
            save_published(self.folder / LATEST, self.tasks.net(name), self.average.net(name))

    def draw(self) -> None:
        """Draw the curves of the run so far; the process that leads does."""
        if self._world.leads:
            draw_curves(self.folder)

    def _own_task(self) -> str:
        """The first task of the network's scale: it makes the checkpoints."""
        scale = self._recipe.network.scale
        tasks = self._recipe.stage[self.place.stage].tasks(scale)
        return next(task.name for task in tasks if task.scale == scale)
