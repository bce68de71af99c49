"""Two processes that share a batch, by gloo on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hatvid.errors import OptionError
from hatvid.research.patches import Patches, batches
from hatvid.research.recipe_file import read_recipe
from hatvid.research.train import train
from hatvid.research.train_network import build_tasks
from hatvid.research.trainer import Trainer
from hatvid.research.world import World

Write = Callable[..., Path]


def run_two(recipe: Path, *options: str) -> list[tuple[int, str]]:
    """What torchrun starts, without torchrun: code and messages of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(2):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "hatvid", "train", str(recipe), "--threads", "1", *options],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [process.communicate(timeout=120)[1] for process in running]
    return [(process.returncode, text) for process, text in zip(running, told, strict=True)]


def test_two_processes_have_the_gradient_of_the_joint_batch(
    write_recipe: Write, tmp_path: Path
) -> None:
    """After one step Adam's first moment is a tenth of the gradient."""
    path = write_recipe("r.toml", {"iterations": 1, "batch": 4})
    (first, told), (second, quiet) = run_two(path)
    assert (first, second, quiet) == (0, 0, ""), told + quiet
    recipe = read_recipe(path)
    net = build_tasks(recipe.network, recipe.stage[0].tasks(2), seed=5)
    rest = {"rank": 0, "world": 1, "workers": 0}
    ((small, large),) = batches(Patches(recipe, 0), 0, 1, 4, **rest, pinned=False)  # type: ignore[arg-type]
    (net(small / 255, "main") - large / 255).abs().mean().backward()
    state = load_file(tmp_path / "run" / "state.safetensors")
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        found = state[f"exp_avg.{name}"] * 10
        torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-7, msg=name)


def test_two_processes_fit_one_tail(write_recipe: Write, tmp_path: Path) -> None:
    stage = {"iterations": 1, "batch": 4, "rate": 1e-30, "stage": "fit = 8"}
    path = write_recipe("two.toml", stage, folder="two")
    (first, told), (second, quiet) = run_two(path)
    assert (first, second, quiet) == (0, 0, ""), told + quiet
    train(read_recipe(write_recipe("one.toml", stage, folder="one")))
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    for name in one:
        if name.startswith("weights."):
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_picture_that_one_cannot_read_stops_both(write_recipe: Write, tmp_path: Path) -> None:
    path = write_recipe("r.toml", {"iterations": 40, "batch": 2})
    broken = tmp_path / "pictures" / "b.png"
    broken.write_bytes(broken.read_bytes()[:-2000])
    ended = run_two(path)
    assert [code for code, _ in ended] == [1, 1]
    said = [text.splitlines()[-1] for _, text in ended]
    assert sum("b.png cannot be read as a picture" in line for line in said) >= 1
    others = [line for line in said if "b.png" not in line]
    assert all("another process cannot read a picture" in line for line in others)
    assert (tmp_path / "run" / "state.safetensors").exists()


def test_a_batch_that_cannot_be_shared(write_recipe: Write) -> None:
    recipe = read_recipe(write_recipe("r.toml", {"batch": 3}))
    world = World(rank=1, size=2, device=torch.device("cpu"))
    with pytest.raises(OptionError, match="stage 1, 3, cannot be shared by 2 processes"):
        Trainer(recipe, world, print)
