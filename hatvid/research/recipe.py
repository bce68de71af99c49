"""What a training run is to do, as data: names that are not known are refused.

docs/training.md shows recipes in full.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hatvid.model.hat import HATConfig
from hatvid.research.degradations import Bicubic, Chance, Degradation, RecipePart
from hatvid.research.tail_fit import LEAST_CHANNELS, fits

__all__ = [
    "Augment",
    "Cosine",
    "Data",
    "Network",
    "Pictures",
    "Rates",
    "Recipe",
    "Run",
    "Stage",
    "Start",
    "Step",
    "Task",
    "Validation",
    "Video",
]

Scale = Literal[1, 2, 3, 4, 8]
Positive = Annotated[int, Field(ge=1)]


class Network(RecipePart):
    """What is trained: a HAT of the paper by its name, with any number of it changed."""

    name: Literal["hat", "hat-s", "hat-l", "hat-nano"]
    scale: Scale
    embed_dim: Positive | None = None
    depths: tuple[Positive, ...] | None = None
    num_heads: tuple[Positive, ...] | None = None
    window_size: Positive | None = None
    overlap_ratio: float | None = None
    compress_ratio: Positive | None = None
    squeeze_factor: Positive | None = None
    mlp_ratio: float | None = None
    num_feat: Positive | None = None
    cab: bool | None = None
    ocab: bool | None = None

    cab_gain: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the initial weights of each CAB's second convolution; 1 is the paper's."""

    last_gain: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the initial weights of ``conv_last``; 1 is the paper's."""

    def config(self, scale: int | None = None) -> HATConfig:
        """Of the network; of another scale if one is given.

        Raises:
            ValueError: the numbers make no network.
        """
        known = {
            "hat": HATConfig.hat,
            "hat-s": HATConfig.hat_s,
            "hat-l": HATConfig.hat_l,
            "hat-nano": HATConfig.hat_nano,
        }
        base = known[self.name](scale or self.scale)
        changed = self.model_dump(exclude={"name", "scale", "cab_gain", "last_gain"})
        fields = {name: getattr(base, name) for name in HATConfig.__dataclass_fields__}
        return HATConfig(**fields | {k: v for k, v in changed.items() if v is not None})

    @model_validator(mode="after")
    def _builds(self) -> Self:
        self.config()
        return self


class Start(RecipePart):
    """Weights to begin with."""

    checkpoint: str
    """A name of ``hatvid models list``, or a path."""

    take: Literal["all", "fitting", "body"] = "all"
    """``all``: every tensor must fit. ``fitting``: those whose name and shape fit, as for
    another scale with the published code. ``body``: all but what follows the body, which
    begins anew: ``conv_before_upsample``, ``upsample``, ``conv_last``."""


class Run(RecipePart):
    """How it runs."""

    folder: str
    """Where checkpoints, state and logs go."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast; weights, optimiser and loss stay fp32."""

    compile: bool = False
    """torch.compile works on the network first."""

    workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that make batches, in each process that trains; 0: it makes them itself."""

    cache: Annotated[int, Field(ge=0)] = 1024
    """MiB of decoded pictures that are kept in memory, in each process that makes batches."""

    log_every: Positive = 100
    save_every: Positive = 5000
    """Iterations from one saved state to the next."""


class Validation(RecipePart):
    """Pictures that tell how far the training is, by the protocol of the papers."""

    pictures: str
    every: Positive = 5000


class Pictures(RecipePart):
    """A folder of large pictures, subfolders included."""

    pictures: str
    reduce: Annotated[int, Field(ge=1, le=8)] = 1
    """Each is made smaller by this factor first (Lanczos): traces of JPEG go."""


class Video(RecipePart):
    """A video of which frames are taken, spread over it."""

    video: str
    frames: Positive = 32
    reduce: Annotated[int, Field(ge=1, le=8)] = 1


class Augment(RecipePart):
    """What is done to small and large patches alike."""

    flips: bool = True
    rotations: bool = True
    """By a quarter: with flips, all eight of a square."""

    channels: Chance = 0.0
    """How often the colour channels change places."""


def _reductions(degradation: tuple[Degradation, ...], scale: int) -> str | None:
    """What is wrong with the number of reductions."""
    found = sum(part.kind == "bicubic" for part in degradation)
    if found == (scale > 1):
        return None
    return f"degradation holds {found} of kind 'bicubic'; scale {scale} needs {int(scale > 1)}"


class Task(RecipePart):
    """One of several things that are learned at once, with a tail of its own."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")] = "main"
    scale: Scale
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often it has its turn, beside the others."""

    degradation: tuple[Degradation, ...] = (Bicubic(kind="bicubic"),)

    @model_validator(mode="after")
    def _reduces_once(self) -> Self:
        if fault := _reductions(self.degradation, self.scale):
            raise ValueError(fault)
        return self


class Data(RecipePart):
    """What patches are cut from."""

    sources: Annotated[tuple[Pictures | Video, ...], Field(min_length=1)]
    draw: Literal["pixels", "pictures", "gradient"] = "pictures"
    """Which picture a patch comes from: each as likely; by its number of pixels; or by
    min(mean gradient, 25) + 2, for which all are read before the first step."""


class Step(RecipePart):
    """The rate is multiplied at given iterations of the stage."""

    kind: Literal["step"]
    at: tuple[Positive, ...] = ()
    factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    warm_up: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if list(self.at) != sorted(set(self.at)):
            raise ValueError("at holds rising iterations")
        return self


class Cosine(RecipePart):
    """The rate falls along half a cosine to ``last`` in the stage's last iteration."""

    kind: Literal["cosine"]
    last: Annotated[float, Field(ge=0)] = 0.0
    warm_up: Annotated[int, Field(ge=0)] = 0


class Rates(RecipePart):
    """Factors of the learning rate; a part of factor 0 is frozen."""

    body: Annotated[float, Field(ge=0)] = 1.0
    tail: Annotated[float, Field(ge=0)] = 1.0


class Stage(RecipePart):
    """One training; the next one begins with its averaged weights."""

    name: str = "training"
    iterations: Positive
    batch: Positive
    """Patches of one step, over all processes together."""

    patch: Positive
    """Side of the small patches, in pixels."""

    learning_rate: Annotated[float, Field(gt=0)]
    betas: tuple[Chance, Chance] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Annotated[Step | Cosine, Field(discriminator="kind")] = Step(kind="step")
    rates: Rates = Rates()
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """What the averaged weights keep of themselves in a step."""

    clip: Annotated[float, Field(gt=0)] | None = None
    """The largest norm of the gradient."""

    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: the chance that a branch of the last HAB is left out for a picture;
    it grows in even steps from the first one's, 0."""

    fit: Annotated[int, Field(ge=0)] = 0
    """Patches by which the tail of the network's scale begins as the best in closed form for
    its body (:mod:`hatvid.research.tail_fit`); 0: as it is. For scale 2 and 3."""

    data: Data
    augment: Augment = Augment()
    degradation: tuple[Degradation, ...] | None = None
    """Of the one task; the bicubic reduction alone if it is left out."""

    task: tuple[Task, ...] = ()
    """Several tasks, in place of the one."""

    def tasks(self, scale: int) -> tuple[Task, ...]:
        """All there are; the one of the network's own scale if none is named."""
        if self.task:
            return self.task
        given = {} if self.degradation is None else {"degradation": self.degradation}
        if self.degradation is None and scale == 1:
            given = {"degradation": ()}
        return (Task.model_validate({"scale": scale, **given}),)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if max(self.betas) >= 1:
            raise ValueError("betas are less than 1")
        if self.rates.body == self.rates.tail == 0:
            raise ValueError("rates freeze everything")
        if self.schedule.warm_up >= self.iterations:
            raise ValueError(f"warm_up {self.schedule.warm_up} does not end before the stage")
        if self.task and self.degradation is not None:
            raise ValueError("degradation stands in each task, not beside them")
        names = [task.name for task in self.task]
        if len(set(names)) != len(names):
            raise ValueError("each task needs a name of its own")
        return self


class Recipe(RecipePart):
    """A whole run; made by :func:`~hatvid.research.recipe_file.read_recipe`."""

    network: Network
    start: Start | None = None
    run: Run
    validation: Validation | None = None
    stage: Annotated[tuple[Stage, ...], Field(min_length=1)]

    _base: Path = Path()

    @classmethod
    def checked(cls, content: object, base: Path) -> Self:
        """Of plain values; paths in it are relative to ``base``.

        Raises:
            pydantic.ValidationError: something in it is wrong.
        """
        recipe = cls.model_validate(content)
        recipe._base = base
        return recipe

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for number, stage in enumerate(self.stage):
            if stage.fit and not fits(self.network.scale):
                raise ValueError("fit is for scale 2 and 3, whose tails shuffle pixels once")
            if stage.fit and self.network.config(self.network.scale).num_feat < LEAST_CHANNELS:
                raise ValueError(f"fit needs num_feat of {LEAST_CHANNELS} at least")
            if stage.degradation is not None and (
                fault := _reductions(stage.degradation, self.network.scale)
            ):
                # Told with its place, which pydantic knows for faults of one part only.
                place = ["stage", number, "degradation"]
                raise PydanticCustomError("place", "{fault}", {"fault": fault, "place": place})
            tasks = stage.tasks(self.network.scale)
            if all(task.scale != self.network.scale for task in tasks):
                raise ValueError(
                    f"no task of stage {number + 1} has the network's scale {self.network.scale}"
                )
        return self

    def path(self, text: str) -> Path:
        """A path as written in the recipe, from the folder that the recipe lies in."""
        return self._base / Path(text).expanduser()

    def fingerprint(self) -> str:
        """SHA-256 of what decides the weights; where things lie and how often logs are
        written is not part of it."""
        kept = {"run": {"seed": self.run.seed, "precision": self.run.precision}}
        told = self.model_dump_json(exclude={"run", "validation"})
        return hashlib.sha256(f"{told}{kept}".encode()).hexdigest()
