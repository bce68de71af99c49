"""Recipes: the paper's numbers in those that ship, and what is told of faults in others."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hatvid.errors import InputError, OptionError
from hatvid.model.hat import HATConfig
from hatvid.research.recipe_file import read_recipe, shipped_recipes

Write = Callable[..., Path]

# iterations, rate, and where it is halved, in thousands: from the paper's option files.
PRE_TRAINING = (800, 2e-4, (300, 500, 650, 700, 750))
FINE_TUNING = (250, 1e-5, (125, 200, 225, 240))
FROM_SCRATCH = (500, 2e-4, (250, 400, 450, 475))
FROM_X2 = (250, 1e-4, (125, 200, 225, 240))

PAPER = {
    "hat-x2": (HATConfig.hat(2), PRE_TRAINING, FINE_TUNING),
    "hat-x3": (HATConfig.hat(3), PRE_TRAINING, FINE_TUNING),
    "hat-x4": (HATConfig.hat(4), PRE_TRAINING, FINE_TUNING),
    "hat-l-x4": (HATConfig.hat_l(4), PRE_TRAINING, FINE_TUNING),
    "hat-x4-related": (HATConfig.hat(4), PRE_TRAINING, FINE_TUNING),
    "hat-x2-scratch": (HATConfig.hat(2), FROM_SCRATCH),
    "hat-s-x2": (HATConfig.hat_s(2), FROM_SCRATCH),
    "hat-s-x4": (HATConfig.hat_s(4), FROM_X2),
    "hat-x4-from-x2": (HATConfig.hat(4), FROM_X2),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_as_published(name: str) -> None:
    recipe = read_recipe(shipped_recipes()[name])
    config, *stages = PAPER[name]
    assert recipe.network.config() == config
    assert (recipe.network.cab_gain, recipe.network.last_gain) == (1, 1)
    for stage, (iterations, rate, halved) in zip(recipe.stage, stages, strict=True):
        assert (stage.iterations, stage.learning_rate) == (iterations * 1000, rate)
        assert (stage.schedule.kind, stage.schedule.warm_up) == ("step", 0)
        assert stage.schedule.model_dump()["factor"] == 0.5
        assert stage.schedule.model_dump()["at"] == tuple(at * 1000 for at in halved)
        assert (stage.batch, stage.patch, stage.ema) == (32, 64, 0.999)
        assert (stage.betas, stage.weight_decay, stage.clip) == ((0.9, 0.99), 0, None)
        assert (stage.augment.flips, stage.augment.rotations, stage.augment.channels) == (1, 1, 0)
    tasks = recipe.stage[0].tasks(recipe.network.scale)
    scales = [2, 3, 4] if name == "hat-x4-related" else [config.upscale]
    assert [task.scale for task in tasks] == scales
    assert all([part.kind for part in task.degradation] == ["bicubic"] for task in tasks)


def test_all_that_ship_can_be_read_and_begin_with_what_they_are() -> None:
    for name, path in shipped_recipes().items():
        recipe = read_recipe(path)
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        assert re.fullmatch("# .{20,}[.]", first), name
        assert name == "smoke" or recipe.run.folder == f"runs/{name}"
    assert {"hat-nano-x2", "hat-nano-x3", "hat-nano-x4", *PAPER} <= set(shipped_recipes())


def test_paths_are_relative_to_the_recipe(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe())
    assert recipe.path("pictures") == tmp_path / "pictures"
    assert recipe.path("/else/where") == Path("/else/where")
    again = pickle.loads(pickle.dumps(recipe))
    assert again == recipe
    assert again.path("x") == tmp_path / "x"


def test_what_decides_the_weights_has_another_fingerprint(write_recipe: Write) -> None:
    usual = read_recipe(write_recipe()).fingerprint()
    assert (
        read_recipe(write_recipe(save_every=7, folder="x", run="workers = 2")).fingerprint()
        == usual
    )
    for given in ({"run": 'precision = "bf16"'}, {"scale": 4}):
        assert read_recipe(write_recipe(**given)).fingerprint() != usual
    assert read_recipe(write_recipe("r.toml", {"batch": 3})).fingerprint() != usual


# What is replaced in a good recipe, by what, and what is told: the key, and its own line.
FAULTS = [
    ("seed = 5", "seed = -5", r"run\.seed: is -5: .*greater than or equal to 0; mend it"),
    ("seed = 5", "sead = 5", r"run\.sead: is not known; remove it, or see docs/training\.md"),
    ("seed = 5", 'seed = "five"', r"run\.seed: is 'five': .*valid integer"),
    ("heads = [2]", "heads = [5]", r"network: .*embed_dim 12 is not divisible by"),
    ("scale = 2", "scale = 5", r"network\.scale: is 5: .*1, 2, 3, 4 or 8"),
    ("batch = 2", "batch = 0", r"stage\.1\.batch: is 0: "),
    ("batch = 2", "", r"stage\.1\.batch: is missing; add it"),
    ("ema = 0.9", "ema = 1.0", r"stage\.1\.ema: is 1\.0: .*less than 1"),
    ("ema = 0.9", "ema = nan", r"stage\.1\.ema: is nan: .*finite number"),
    ("ema = 0.9", "rates = { body = 0, tail = 0 }", r"stage\.1: rates freeze everything"),
    ("ema = 0.9", 'schedule = { kind = "steps" }', r"stage\.1\.schedule: .*'cosine'|'step'"),
    (
        "ema = 0.9",
        'schedule = { kind = "step", at = [5, 3] }',
        r"stage\.1\.schedule: at holds rising iterations",
    ),
    (
        "ema = 0.9",
        'degradation = [{ kind = "bicubic" }, { kind = "jpeg", quality = [90, 30] }]',
        r"stage\.1\.degradation\.2: quality is two numbers from 1 to 100",
    ),
    (
        "ema = 0.9",
        'degradation = [{ kind = "noise", sigma = [1, 2] }]',
        r"stage\.1: degradation holds 0 of kind 'bicubic'|needs 1",
    ),
    ('pictures = "pictures"', 'pictires = "x"', r"stage\.1\.data\.sources\.1.*(missing|not known)"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_faults_are_told_by_file_line_and_key(
    write_recipe: Write, old: str, new: str, message: str
) -> None:
    path = write_recipe()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(OptionError) as caught:
        read_recipe(path)
    told = str(caught.value)
    found = re.fullmatch(r"(.+?)(?:, line (\d+))?: (.*)", told)
    assert found is not None
    assert found[1] == str(path)
    assert re.search(message, found[3]), told
    if found[2] is None:
        pytest.fail(f"no line in {told}")
    line = path.read_text().splitlines()[int(found[2]) - 1]
    key = new.partition(" ")[0] if new else ""
    table = re.match(r"\[+\w+(\.\w+)*\]+", line)
    assert table or line.startswith((key, "sources")), (line, told)


def test_the_second_stage_is_not_taken_for_the_first(write_recipe: Write) -> None:
    path = write_recipe("r.toml", {}, {"batch": -1})
    with pytest.raises(OptionError, match=r"stage\.2\.batch: is -1") as caught:
        read_recipe(path)
    found = re.search(r"line (\d+)", str(caught.value))
    assert found is not None
    assert path.read_text().splitlines()[int(found[1]) - 1] == "batch = -1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no file .*r\.toml; name one, or copy .* --copy NAME: there are hat-l-x4, "),
        (b"\xff\xfe\0", "cannot be read .it is no text.*; mend it, or name another"),
        (b"[network\n", r"is no TOML \(.*line 1.*\); mend it there"),
    ],
)
def test_what_is_no_recipe(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "r.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_recipe(path)


@pytest.mark.parametrize("name", ["hat-x4", "hat-x4.toml"])
def test_a_shipped_recipe_is_copied_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        read_recipe(Path(name))
    assert str(caught.value) == (
        f"there is no file {name}; hatvid train --copy hat-x4 writes the shipped recipe of that "
        "name here, as hat-x4.toml"
    )


def test_an_empty_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"")
    with pytest.raises(OptionError, match=r"r\.toml: network: is missing; add it \(2 more\)"):
        read_recipe(tmp_path / "r.toml")
