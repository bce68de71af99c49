"""Training: against a loop written out, cut and resumed, from stage to stage, and refused."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spandrel
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hatvid.errors import (
    CheckpointError,
    HatvidError,
    InputError,
    OptionError,
    OutputError,
    TrainingError,
)
from hatvid.model.checkpoint import load_checkpoint
from hatvid.model.hat import HAT
from hatvid.research import atomic
from hatvid.research.patches import Patches, batches
from hatvid.research.recipe import Recipe
from hatvid.research.recipe_file import read_recipe
from hatvid.research.schedule import learning_rate
from hatvid.research.train import Outcome, train
from hatvid.research.train_log import read_rows
from hatvid.research.train_network import build_tasks, is_tail

Write = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("one_thread")


def after(iterations: int) -> Callable[[], bool]:
    """Asks to stop after so many iterations."""
    left = iter(range(iterations))
    return lambda: next(left) == iterations - 1


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "state.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def published(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "latest.pth", weights_only=True)
    return found


# -- What a step does. --------------------------------------------------------------------


def test_the_weights_are_those_of_a_loop_written_out(write_recipe: Write, tmp_path: Path) -> None:
    """L1, Adam, clipping, two rates, the schedule and the average, with PyTorch's own."""
    stage = (
        'schedule = { kind = "cosine", warm_up = 2 }\nclip = 0.05\n'
        "rates = { body = 0.5, tail = 1.0 }"
    )
    recipe = read_recipe(write_recipe("r.toml", {"stage": stage, "iterations": 5}))
    train(recipe)
    net = build_tasks(recipe.network, recipe.stage[0].tasks(2), seed=5).net("main").train()
    net.prepare(16, 16)  # so that the average has the same buffers
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(net)  # the first update copies
    body = [p for name, p in net.named_parameters() if not is_tail(name)]
    tail = [p for name, p in net.named_parameters() if is_tail(name)]
    optimiser = torch.optim.Adam([{"params": body}, {"params": tail}], betas=(0.9, 0.99))
    rest = {"rank": 0, "world": 1, "workers": 0}
    coming = batches(Patches(recipe, 0), 0, 5, 2, **rest, pinned=False)  # type: ignore[arg-type]
    clipped = False
    for number, (small, large) in enumerate(coming):
        rate = learning_rate(recipe.stage[0], number)
        optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = rate / 2, rate
        optimiser.zero_grad()
        torch.nn.functional.l1_loss(net(small / 255), large / 255).backward()
        clipped |= bool(torch.nn.utils.clip_grad_norm_(net.parameters(), 0.05) > 0.05)
        optimiser.step()
        averaged.update_parameters(net)
    assert clipped
    found = published(tmp_path / "run")
    for name, value in net.named_parameters():
        torch.testing.assert_close(found["params"][name], value.data, rtol=1e-4, atol=1e-6)
    for name, value in averaged.module.named_parameters():
        torch.testing.assert_close(found["params_ema"][name], value.data, rtol=1e-4, atol=1e-6)
    moved = (found["params"]["conv_first.weight"] - found["params_ema"]["conv_first.weight"]).abs()
    assert moved.max() > 1e-5


def test_a_frozen_body_stays_and_the_tail_learns(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe("r.toml", {"stage": "rates = { body = 0 }"}))
    fresh = build_tasks(recipe.network, recipe.stage[0].tasks(2), seed=5).net("main").state_dict()
    train(recipe)
    for name, value in published(tmp_path / "run")["params"].items():
        assert torch.equal(value, fresh[name]) == (not is_tail(name)), name


def test_bf16_and_compiled_networks_learn_nearly_the_same(
    write_recipe: Write, tmp_path: Path
) -> None:
    losses = {}
    for name, run in (("fp32", ""), ("bf16", 'precision = "bf16"')):
        train(read_recipe(write_recipe(f"{name}.toml", folder=name, run=run)))
        losses[name] = [float(row["loss"]) for row in read_rows(tmp_path / name / "log.csv")]
        assert (
            weights(tmp_path / name)["weights.nets.task_main.conv_last.weight"].dtype
            == torch.float32
        )
    assert losses["fp32"] == pytest.approx(losses["bf16"], rel=0.02)
    assert losses["fp32"] != losses["bf16"]


@pytest.mark.long
@pytest.mark.usefixtures("compiler")
def test_torch_compile(write_recipe: Write, tmp_path: Path) -> None:
    for name, run in (("plain", ""), ("compiled", "compile = true")):
        train(read_recipe(write_recipe(f"{name}.toml", folder=name, run=run)))
    plain, compiled = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], compiled[name], rtol=0.02, atol=1e-4)


# -- Cut, and resumed. --------------------------------------------------------------------

STAGES: tuple[dict[str, object], ...] = (
    {
        "iterations": 4,
        "stage": 'degradation = [{ kind = "bicubic" }, { kind = "noise", sigma = [0, 9] }]',
    },
    {"iterations": 3, "rate": 1e-4},
)


@pytest.mark.parametrize("cuts", [(1, 2, 1, 1, 1), (4, 2)])
def test_a_run_cut_and_resumed_ends_with_the_same_bits(
    write_recipe: Write, tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    more = '[validation]\npictures = "pictures"\nevery = 2'
    train(read_recipe(write_recipe("whole.toml", *STAGES, folder="whole", more=more)))
    recipe = read_recipe(write_recipe("cut.toml", *STAGES, folder="cut", more=more))
    done = 0
    for cut in cuts:
        outcome = train(recipe, stop=after(cut))
        done += cut
        assert (outcome.finished, outcome.iteration) == (False, done)
    assert train(recipe).finished
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    for kind in ("params", "params_ema"):
        found = [published(tmp_path / name)[kind] for name in ("whole", "cut")]
        assert same(*found)
    rows = [read_rows(tmp_path / name / "validation.csv") for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    assert [row["iteration"] for row in rows[0]] == ["0", "2", "4", "6", "7"]
    assert (tmp_path / "cut" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_stochastic_depth_is_drawn_for_each_step_alone(write_recipe: Write, tmp_path: Path) -> None:
    stage = {"iterations": 6, "stage": "drop_path = 0.5"}
    train(read_recipe(write_recipe("whole.toml", stage, folder="whole")))
    recipe = read_recipe(write_recipe("cut.toml", stage, folder="cut"))
    assert train(recipe, stop=after(3)).iteration == 3
    torch.manual_seed(99)
    assert train(recipe).finished
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    train(read_recipe(write_recipe("none.toml", {"iterations": 6}, folder="none")))
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "none"))


def test_checkpoints_are_not_lost_unasked(write_recipe: Write, tmp_path: Path) -> None:
    path = write_recipe()
    train(read_recipe(path))
    state, latest = tmp_path / "run" / "state.safetensors", tmp_path / "run" / "latest.pth"
    kept = latest.read_bytes()
    state.unlink()
    with pytest.raises(OptionError, match=r"without state.*another run.folder, or --overwrite"):
        train(read_recipe(path))
    start = '[start]\ncheckpoint = "run/latest.pth"'
    with pytest.raises(OptionError, match=r"lies in run.folder"):
        train(read_recipe(write_recipe("other.toml", more=start)), overwrite=True)
    assert latest.read_bytes() == kept
    assert train(read_recipe(path), overwrite=True).finished


def test_a_run_that_was_killed_at_once_can_go_on(
    write_recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A best checkpoint is written before the first step."""
    recipe = read_recipe(write_recipe(more='[validation]\npictures = "pictures"\nevery = 2'))

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as during:
        during.setattr("hatvid.research.trainer.Trainer.run_stage", killed)
        with pytest.raises(SystemExit):
            train(recipe)
    assert (tmp_path / "run" / "best.pth").exists()
    assert train(recipe).finished


def test_ablations_are_trained_and_known_again(write_recipe: Write, tmp_path: Path) -> None:
    train(read_recipe(write_recipe(network="cab = false\nocab = false")))
    found = load_checkpoint(tmp_path / "run" / "latest.pth").config
    assert (found.cab, found.ocab) == (False, False)


def test_a_finished_run_is_not_run_again(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe())
    first = train(recipe)
    before = weights(tmp_path / "run")
    assert train(recipe) == first
    assert first == Outcome(
        finished=True,
        iteration=4,
        total=4,
        checkpoint=tmp_path / "run" / "latest.pth",
        best=None,
        seconds=first.seconds,
    )
    assert same(weights(tmp_path / "run"), before)


def test_what_was_logged_after_the_state_comes_once(write_recipe: Write, tmp_path: Path) -> None:
    """As a kill leaves it: rows of iterations that are not in the state, the last one torn."""
    recipe = read_recipe(write_recipe("r.toml", {"iterations": 6}))
    train(recipe, stop=after(3))
    with (tmp_path / "run" / "log.csv").open("a") as file:
        file.write("4,1,0.5,0.1,0.1,1\n5,1,0.5")
    train(recipe)
    rows = read_rows(tmp_path / "run" / "log.csv")
    assert [row["iteration"] for row in rows] == ["2", "3", "4", "6"]
    assert "0.5" not in [row["loss"] for row in rows]


def test_another_recipe_is_not_mistaken_for_a_resumed_one(
    write_recipe: Write, tmp_path: Path
) -> None:
    train(read_recipe(write_recipe("r.toml", {"iterations": 6})), stop=after(2))
    other = read_recipe(write_recipe("r.toml", {"iterations": 6, "rate": 1e-4}))
    with pytest.raises(OptionError, match=r"another recipe; .*--changed .*--overwrite"):
        train(other)
    logged_otherwise = read_recipe(write_recipe("r.toml", {"iterations": 6}, save_every=2))
    train(logged_otherwise, stop=after(1))
    assert train(other, changed=True).iteration == 6
    rates = [float(row["rate"]) for row in read_rows(tmp_path / "run" / "log.csv")]
    assert rates == [1e-3, 1e-3, 1e-4, 1e-4]
    wider = read_recipe(write_recipe("r.toml", {"iterations": 6}, network="num_feat_ = 1"[:0]))
    text = (tmp_path / "r.toml").read_text().replace("num_feat = 8", "num_feat = 4")
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(CheckpointError, match="the state of another network"):
        train(read_recipe(tmp_path / "r.toml"), changed=True)
    assert train(wider, overwrite=True, stop=after(1)).iteration == 1


# -- From network to network. -------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of spandrel
def test_the_published_layout_loads_here_and_elsewhere(write_recipe: Write, tmp_path: Path) -> None:
    train(read_recipe(write_recipe()))
    path = tmp_path / "run" / "latest.pth"
    assert set(torch.load(path, weights_only=True)) == {"params_ema", "params"}
    ours, theirs = load_checkpoint(path), spandrel.ModelLoader().load_from_file(path)
    assert isinstance(theirs, spandrel.ImageModelDescriptor)
    assert (theirs.architecture.id, theirs.scale) == ("HAT", 2)
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs.model.eval()(x), rtol=1e-4, atol=1e-5)
    average = weights(tmp_path / "run")["ema.nets.task_main.conv_last.weight"]
    assert torch.equal(ours.conv_last.weight, average)


@pytest.mark.parametrize("take", ["fitting", "body"])
def test_x4_from_x2(write_recipe: Write, tmp_path: Path, take: str) -> None:
    train(read_recipe(write_recipe("x2.toml", folder="x2")))
    start = f'[start]\ncheckpoint = "x2/latest.pth"\ntake = "{take}"'
    none = {"iterations": 1, "rate": 1e-30}
    train(read_recipe(write_recipe("x4.toml", none, scale=4, folder="x4", more=start)))
    x2, x4 = (published(tmp_path / name)["params_ema"] for name in ("x2", "x4"))
    for name, value in x4.items():
        if not is_tail(name):
            torch.testing.assert_close(value, x2[name], rtol=0, atol=1e-20)
        elif name.endswith("weight"):
            fits = name in x2 and x2[name].shape == value.shape
            taken = fits and torch.allclose(value, x2[name], rtol=0, atol=1e-20)
            assert taken == (fits and take == "fitting"), name
    path = write_recipe("x.toml", none, scale=4, folder="x", more=start.replace(take, "all"))
    with pytest.raises(CheckpointError, match=r'tensors are missing .*upsample\.2.*"body"'):
        train(read_recipe(path))


def test_a_new_tail_begins_where_it_was_fitted(write_recipe: Write, tmp_path: Path) -> None:
    train(read_recipe(write_recipe("x2.toml", folder="x2")))
    start = '[start]\ncheckpoint = "x2/latest.pth"\ntake = "fitting"\n'
    none, losses = {"iterations": 2, "rate": 1e-30}, {}
    for name, stage in (("new", none), ("fitted", {**none, "stage": "fit = 6"})):
        train(read_recipe(write_recipe(f"{name}.toml", stage, scale=3, folder=name, more=start)))
        (row,) = read_rows(tmp_path / name / "log.csv")
        losses[name] = float(row["loss"])
    assert losses["fitted"] < 0.8 * losses["new"]
    found = published(tmp_path / "fitted")
    middle = torch.zeros(3, 8, 3, 3)
    middle[range(3), range(3), 1, 1] = 1
    for kind in ("params", "params_ema"):
        torch.testing.assert_close(found[kind]["conv_last.weight"], middle)


def test_a_later_stage_fits_the_tail_to_its_body(write_recipe: Write, tmp_path: Path) -> None:
    pictures = '[validation]\npictures = "pictures"\nevery = 100'
    for name, more in (("as_it_is", ""), ("fitted", "fit = 24")):
        last = {"iterations": 1, "rate": 1e-30, "stage": more}
        path = write_recipe(f"{name}.toml", {"iterations": 4}, last, folder=name, more=pictures)
        train(read_recipe(path))
    rows = read_rows(tmp_path / "fitted" / "validation.csv")
    # Before training, at the end of the first stage, with the new tail, at the end.
    assert [(row["iteration"], row["stage"]) for row in rows] == [
        *(("0", "1"), ("4", "1"), ("4", "2"), ("5", "2"))
    ]
    psnr = [float(row["psnr"]) for row in rows]
    assert psnr[2] > psnr[1] + 1
    assert psnr[3] == pytest.approx(psnr[2], abs=1e-6)
    before, after = (published(tmp_path / name)["params_ema"] for name in ("as_it_is", "fitted"))
    for name, value in after.items():
        fitted = name.startswith(("upsample.", "conv_last."))
        assert torch.equal(value, before[name]) != fitted, name


def test_a_start_that_is_no_such_network(write_recipe: Write, tmp_path: Path) -> None:
    for checkpoint, message in (
        ("hat-nano-x4", r"65 tensors of the body are missing or of another shape"),
        ("nothing.pth", "no checkpoint at"),
    ):
        more = f'[start]\ncheckpoint = "{checkpoint}"\ntake = "body"'
        with pytest.raises(CheckpointError, match=message):
            train(read_recipe(write_recipe(more=more)))
    assert not (tmp_path / "run").exists()


def test_tasks_share_the_body_and_have_tails_of_their_own(
    write_recipe: Write, tmp_path: Path
) -> None:
    tasks = """
[[stage.task]]
name = "double"
scale = 2
[[stage.task]]
name = "fourfold"
scale = 4
weight = 2
[[stage.task]]
name = "clean"
scale = 1
degradation = [{ kind = "noise", sigma = [1, 20] }]
"""
    path = write_recipe("r.toml", {"iterations": 8}, {"iterations": 1, "rate": 1e-30}, scale=4)
    first, second, last = re.split(r"(?=\[\[stage\]\])", path.read_text())
    path.write_text(first + second + tasks + last)
    recipe = read_recipe(path)
    turns = [Patches(recipe, 0).task(k).name for k in range(8)]
    assert set(turns) == {"double", "fourfold", "clean"}
    fresh = build_tasks(recipe.network, recipe.stage[0].task, seed=5)
    train(recipe, stop=after(8))
    state = weights(tmp_path / "run")
    named = dict(fresh.named_parameters())
    assert sum(name.endswith("conv_first.weight") for name in named) == 1
    for task in ("double", "fourfold", "clean"):
        key = f"nets.task_{task}.conv_last.weight"
        assert int(state[f"step.{key}"]) == turns.count(task)
        assert not torch.equal(state[f"weights.{key}"], named[key])
    assert int(state["step.nets.task_double.conv_first.weight"]) == 8
    # The next stage has one task: its tail is that of the task of its scale.
    train(recipe)
    now = published(tmp_path / "run")["params"]
    for name in ("conv_last.weight", "upsample.0.weight"):
        before = state[f"ema.nets.task_fourfold.{name}"]
        torch.testing.assert_close(now[name], before, rtol=0, atol=1e-20)
    assert load_checkpoint(tmp_path / "run" / "latest.pth").scale == 4


# -- What goes wrong. ---------------------------------------------------------------------


def test_a_loss_that_is_not_finite(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe("r.toml", {"iterations": 9, "rate": 1e30}))
    with pytest.raises(TrainingError, match=r"not finite; .*learning_rate.*--changed"):
        train(recipe)
    kept = weights(tmp_path / "run")
    assert all(value.isfinite().all() for name, value in kept.items() if "weights" in name)
    with pytest.raises(TrainingError):  # again, at the same place
        train(recipe)
    assert same(weights(tmp_path / "run"), kept)


def test_a_full_disk(write_recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(write_recipe("r.toml", {"iterations": 6}))
    train(recipe, stop=after(3))
    before = (tmp_path / "run" / "state.safetensors").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device.*free some space"):
        train(recipe)
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))
    monkeypatch.undo()
    assert train(recipe).finished


def test_a_picture_that_breaks_meanwhile(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe("r.toml", {"iterations": 60}, run="cache = 0"))
    train(recipe, stop=after(2))
    told: list[str] = []

    def breaks(line: str) -> None:
        told.append(line)
        if line.startswith("stage"):
            for path in (tmp_path / "pictures").rglob("*.png"):
                path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(InputError, match="cannot be read as a picture"):
        train(recipe, tell=breaks)
    assert told[0] == "goes on after iteration 2 of 60"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (b"", CheckpointError, "not the state of a training"),
        (b"\x08\0\0\0\0\0\0\0{}      ", CheckpointError, "not the state of a training"),
    ],
)
def test_a_damaged_state(
    write_recipe: Write, tmp_path: Path, damage: bytes, error: type[HatvidError], message: str
) -> None:
    recipe = read_recipe(write_recipe())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.safetensors").write_bytes(damage)
    with pytest.raises(error, match=message):
        train(recipe)
    assert train(recipe, overwrite=True).finished


def test_devices_and_places_that_are_not_there(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe())
    for device in ("tpu0", "meta"):
        with pytest.raises(OptionError, match="give cpu, cuda or cuda:N"):
            train(recipe, device=device)
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot be made .*run\.folder"):
        train(recipe)
    net = HAT(recipe.network.config())
    assert net.scale == 2
    assert isinstance(recipe, Recipe)
