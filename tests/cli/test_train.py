"""``hatvid train``: what it says, and what Ctrl-C and SIGTERM leave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hatvid.errors import HatvidError, InputError, TrainingError
from hatvid.research import atomic, smoke, trainer, training_set
from hatvid.research.outcome import Outcome
from hatvid.research.recipe import Recipe
from hatvid.research.recipe_file import shipped_recipes
from hatvid.research.train_state import read_place

RECIPE = """
[network]
name = "hat-nano"
scale = 2
embed_dim = 12
depths = [1]
num_heads = [2]
num_feat = 8
squeeze_factor = 12

[run]
folder = "run"
log_every = 1

[[stage]]
iterations = {iterations}
batch = 1
patch = 16
learning_rate = 1e-3

[stage.data]
sources = [{{ pictures = "pictures" }}]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[int], Path]:
    (tmp_path / "pictures").mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (40, 44, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "pictures" / "a.png")

    def write(iterations: int) -> Path:
        path = tmp_path / f"{iterations}.toml"
        path.write_text(RECIPE.format(iterations=iterations))
        return path

    return write


@pytest.fixture
def restored_threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
def test_a_run_tells_where_it_is_and_what_it_made(
    hatvid: Callable[..., Any], recipe: Callable[[int], Path], tmp_path: Path
) -> None:
    path = recipe(3)
    done = hatvid("train", path, "--threads", "1")
    assert (done.code, done.out) == (0, "")
    first, *steps, last = done.err.splitlines()
    assert first == "stage 1 of 1, training: 1 pictures, 3 iterations of 1 patches"
    assert [line.partition(":")[0] for line in steps] == [f"iteration {k} of 3" for k in (1, 2, 3)]
    checkpoint = re.escape(str(tmp_path / "run" / "latest.pth"))
    assert re.fullmatch(rf"done: 3 of 3 iterations in \d+[.]\d min, {checkpoint}", last)
    again = hatvid("train", path, "--threads", "1")
    assert (again.code, again.err.splitlines()[-1]) == (0, last)
    shown = hatvid("models", "show", tmp_path / "run" / "latest.pth")
    assert shown.code == 0


@pytest.mark.usefixtures("restored_threads")
def test_minutes_end_a_run_that_can_go_on(
    hatvid: Callable[..., Any], recipe: Callable[[int], Path]
) -> None:
    path = recipe(5)
    done = hatvid("train", path, "--threads", "1", "--minutes", "1e-9")
    assert done.code == 0
    assert "stopped; the same command goes on: 1 of 5 iterations" in done.err
    assert "goes on after iteration 1 of 5" in hatvid("train", path, "--threads", "1").err


@pytest.mark.usefixtures("restored_threads", "listening_to_ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_state_and_the_rest_is_the_same(
    hatvid: Callable[..., Any],
    recipe: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    """Cut in the midst of a step, resumed: the weights of an uncut run, bit for bit."""
    path, rate = recipe(6), trainer.learning_rate

    waiting = [number]

    def signalled(stage: Any, iteration: int) -> float:
        if iteration == 2 and waiting:
            os.kill(os.getpid(), waiting.pop())
        return rate(stage, iteration)

    with monkeypatch.context() as during:
        during.setattr(trainer, "learning_rate", signalled)
        done = hatvid("train", path, "--threads", "1")
    assert done.code == code, done.err
    assert "stops after this iteration; once more ends at once" in done.err
    word = "stopped" if number == signal.SIGINT else "terminated"
    last = done.err.splitlines()[-1]
    assert last == f"hatvid: {word}; iteration 3 of 6 is kept; run it again to go on"
    assert not list((tmp_path / "run").glob(".*"))
    resumed = hatvid("train", path, "--threads", "1")
    assert resumed.code == 0
    assert resumed.err.startswith("goes on after iteration 3 of 6")
    cut = load_file(tmp_path / "run" / "state.safetensors")
    assert hatvid("train", path, "--threads", "1", "--overwrite").code == 0
    whole = load_file(tmp_path / "run" / "state.safetensors")
    assert cut.keys() == whole.keys()
    assert all(torch.equal(cut[name], whole[name]) for name in cut)


@pytest.mark.skipif(os.name != "posix", reason="there are no groups of processes")
def test_a_signal_to_the_whole_job_keeps_the_state(
    recipe: Callable[[int], Path], tmp_path: Path
) -> None:
    """As torchrun, timeout and Slurm send it: to the processes that make batches, too."""
    path = recipe(100_000)
    path.write_text(path.read_text().replace("log_every = 1", "log_every = 1\nworkers = 2"))
    running = subprocess.Popen(
        [sys.executable, "-m", "hatvid", "train", str(path), "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with running:
        assert running.stderr is not None
        told = next(line for line in running.stderr if line.startswith("iteration 2 "))
        os.killpg(running.pid, signal.SIGTERM)
        rest = running.stderr.read()
    assert running.returncode == 143, told + rest
    last = rest.splitlines()[-1]
    assert re.fullmatch(r"hatvid: terminated; iteration \d+ of 100000 is kept; .*", last), rest
    assert (tmp_path / "run" / "state.safetensors").exists()


@pytest.mark.usefixtures("restored_threads", "listening_to_ctrl_c")
def test_a_second_signal_ends_at_once(
    hatvid: Callable[..., Any],
    recipe: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def signalled(stage: Any, iteration: int) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(trainer, "learning_rate", signalled)
    done = hatvid("train", recipe(6), "--threads", "1")
    assert done.code == 130
    assert done.err.endswith("stopped; the state is that of the last time it was kept\n")
    kept = read_place(tmp_path / "run" / "state.safetensors")
    assert kept is not None
    assert kept.iteration == 0


@pytest.mark.long
def test_a_kill_costs_only_what_was_not_kept(
    program_environment: dict[str, str], recipe: Callable[[int], Path], tmp_path: Path
) -> None:
    path = recipe(60)
    text = path.read_text().replace("log_every = 1", "log_every = 1\nsave_every = 1")
    path.write_text(text)
    command = [sys.executable, "-m", "hatvid", "train", str(path), "--threads", "1"]
    state = tmp_path / "run" / "state.safetensors"
    for _ in range(4):
        with subprocess.Popen(command, env=program_environment, stderr=subprocess.DEVNULL) as run:
            before = state.stat().st_mtime_ns if state.exists() else 0
            deadline = time.monotonic() + 60
            while not state.exists() or state.stat().st_mtime_ns == before:
                assert time.monotonic() < deadline
                if run.poll() is not None:
                    break
                time.sleep(0.001)
            run.kill()
    assert subprocess.run(command, env=program_environment, check=False).returncode == 0
    cut = load_file(state)
    (tmp_path / "run").rename(tmp_path / "cut")
    assert subprocess.run(command, env=program_environment, check=False).returncode == 0
    whole = load_file(state)
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


@pytest.mark.long
def test_the_trial_gains_what_it_promises(
    program_environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatvid", "train", "--smoke"],
        env=program_environment | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert "gained" in done.stdout
    assert not list(tmp_path.iterdir())


class Trial:
    """A training in place of the trial's, which would take minutes: what it gains is given,
    None if it is stopped."""

    def __init__(self, gained: float | None) -> None:
        self.gained = gained

    def __call__(self, recipe: Recipe, **given: Any) -> Outcome:
        folder = recipe.path(recipe.run.folder)
        folder.mkdir()
        rows = ("iteration,psnr,bicubic", "0,20,30", f"120,{20 + (self.gained or 0)},30")
        (folder / "validation.csv").write_text("\n".join(rows))
        return Outcome(
            finished=self.gained is not None,
            iteration=1,
            total=120,
            checkpoint=folder / "latest.pth",
            best=None,
            seconds=1,
        )


@pytest.mark.parametrize(("gained", "code"), [(9.5, 0), (None, 2), (1.25, 1)])
def test_a_trial_that_failed_keeps_its_log(
    hatvid: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gained: float | None,
    code: int,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(smoke, "_SIDE", 16)
    monkeypatch.setattr(smoke, "train", Trial(gained))
    done = hatvid("train", "--smoke")
    assert done.code == code, done.err
    if code != 1:
        assert not list(tmp_path.iterdir())
        return
    (folder,) = tmp_path.iterdir()
    assert done.err.splitlines()[-1] == (
        "hatvid: the trial gained 1.25 dB, less than 9: training does not work here; try --device "
        f"cpu, and report it with the log in {folder / 'run'}"
    )
    assert (folder / "run" / "validation.csv").exists()


@pytest.mark.parametrize(("raised", "kept"), [(TrainingError, True), (InputError, False)])
def test_a_trial_keeps_only_what_its_message_names(
    hatvid: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: type[HatvidError],
    kept: bool,
) -> None:
    def broken(recipe: Recipe, **given: Any) -> Outcome:
        raise raised("the state before it is kept")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(smoke, "_SIDE", 16)
    monkeypatch.setattr(smoke, "train", broken)
    assert hatvid("train", "--smoke").code == 1
    assert bool(list(tmp_path.iterdir())) == kept


def test_recipes_are_listed_and_copied(
    hatvid: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = hatvid("train", "--recipes")
    names = [line.split()[0] for line in listed.out.splitlines()]
    assert (listed.code, names) == (0, list(shipped_recipes()))
    done = hatvid("train", "--copy", "hat-x4")
    assert (done.code, done.out) == (0, "hat-x4.toml\n")
    assert Path("hat-x4.toml").read_bytes() == shipped_recipes()["hat-x4"].read_bytes()
    again = hatvid("train", "--copy", "hat-x4")
    assert (again.code, again.err) == (2, "hatvid: hat-x4.toml exists; rename it first\n")
    other = hatvid("train", "--copy", "hat-xl")
    assert other.code == 2
    assert "no recipe is called 'hat-xl'; there are hat-l-x4" in other.err
    started = hatvid("train", "hat-x4.toml")
    assert started.code == 1
    assert "data/Set5 cannot be read" in started.err
    assert len(started.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [(), ("x.toml", "--smoke"), ("--smoke", "--recipes")])
def test_one_thing_at_a_time(hatvid: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    done = hatvid("train", *arguments)
    assert done.code == 2
    assert "give either a RECIPE.toml, --smoke" in done.err


def test_without_what_training_needs(
    hatvid: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hatvid.cli.train as command

    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    done = hatvid("train", "x.toml")
    assert (done.code, "pip install 'hatvid[train]'" in done.err) == (2, True)


def test_a_training_set(hatvid: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (150, 220, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "a.png")
    done = hatvid("training-set", tmp_path / "set", tmp_path / "in")
    assert (done.code, done.out) == (0, f"2 patches of 1 pictures in {tmp_path / 'set'}\n")
    assert "1/1: 220x150" in done.err
    for arguments in ((), (tmp_path / "in", "--debian")):
        wrong = hatvid("training-set", tmp_path / "other", *arguments)
        assert (wrong.code, "give either PICTURES or --debian" in wrong.err) == (2, True)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A folder of two pictures, two patches each."""
    (tmp_path / "in").mkdir()
    for number in range(2):
        codes = np.random.default_rng(number).integers(0, 256, (150, 220, 3), np.uint8)
        Image.fromarray(codes).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


@pytest.mark.usefixtures("listening_to_ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_part_of_a_set(
    hatvid: Callable[..., Any],
    noise: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    encode, encoded = training_set.encode_png, []

    def signalled(patch: Any) -> bytes:
        encoded.append(patch)
        if len(encoded) == 4:
            os.kill(os.getpid(), number)
        return encode(patch)

    with monkeypatch.context() as during:
        during.setattr(training_set, "encode_png", signalled)
        done = hatvid("training-set", tmp_path / "set", noise)
    assert done.code == code
    assert done.err.endswith("; nothing was written under the output's name\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert hatvid("training-set", tmp_path / "set", noise).code == 0


@pytest.mark.usefixtures("listening_to_ctrl_c")
def test_a_signal_when_a_set_is_whole(
    hatvid: Callable[..., Any], noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too late to stop anything."""
    publish = atomic.PartialFolder.publish

    def signalled(folder: atomic.PartialFolder) -> None:
        publish(folder)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(atomic.PartialFolder, "publish", signalled)
    done = hatvid("training-set", tmp_path / "set", noise)
    assert (done.code, done.out) == (0, f"4 patches of 2 pictures in {tmp_path / 'set'}\n")


def test_a_set_of_no_patches_fails(hatvid: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("RGB", (200, 200)).save(tmp_path / "flat.png")
    done = hatvid("training-set", tmp_path / "set", tmp_path / "flat.png")
    assert (done.code, done.out) == (1, "")
    assert "give larger ones" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["flat.png"]
