"""Every recipe, run as its header says on a tiny film."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from hatvid.jobs.recipes import recipes

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def video_of(path: Path) -> tuple[int, int, int, str, int, str]:
    """Width, height, frames, pixel format, matrix and shape of the pixels."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        stream = container.streams.video[0]
        shape = str(stream.sample_aspect_ratio)
        first = frames[0]
        return (
            first.width,
            first.height,
            len(frames),
            first.format.name,
            int(first.colorspace),
            shape,
        )


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_all_have_a_header_that_says_how_they_are_run() -> None:
    found = recipes()
    assert len(found) >= 6
    for recipe in found:
        assert recipe.purpose.endswith("."), recipe.name
        assert recipe.name in shlex.split(recipe.run.replace("|", " ")), recipe.name


# -- By vspipe. ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "arguments", "header"),
    [
        ("preview_compare", ["scale=2", "end=1"], b" W192 H64 "),
        ("dvd_film", ["height=96", "crop=0,2,0,0"], b" W164 H96 "),
        ("anime_1080p", ["height=48", "scale=2"], b" W72 H48 "),
    ],
)
def test_vspipe_runs_it(
    run: Run, film: Path, network: Path, recipe: str, arguments: list[str], header: bytes
) -> None:
    given = [f"input={film}", f"model={network}", *arguments]
    options = [part for text in given for part in ("-a", text)]
    done = run("vspipe", "-c", "y4m", *options, f"{{recipe}}/{recipe}.vpy", "-")
    assert done.returncode == 0, done.stderr.decode()
    first, *frames = done.stdout.split(b"FRAME\n")
    assert header in first
    assert len(frames) == (1 if recipe == "preview_compare" else 5)
    assert len(set(frames)) == len(frames)


@pytest.mark.parametrize(
    "recipe",
    [
        "preview_compare",
        pytest.param("dvd_film", marks=pytest.mark.long),
        pytest.param("anime_1080p", marks=pytest.mark.long),
    ],
)
def test_without_an_input_it_says_what_to_give(run: Run, recipe: str) -> None:
    done = run("vspipe", "-c", "y4m", f"{{recipe}}/{recipe}.vpy", "-")
    assert done.returncode != 0
    assert b"input=" in done.stderr


# -- By hatvid. ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "arguments", "wanted"),
    [
        ("dvd_film", ["height=64"], (102, 64, 5, "yuv420p10le", 1, "1/1")),
        pytest.param(
            *("anime_1080p", ["height=64"], (96, 64, 5, "yuv420p10le", 5, "16/15")),
            marks=pytest.mark.long,
        ),
    ],
)
def test_hatvid_runs_it_and_copies_the_sound(
    run: Run,
    film: Path,
    network: Path,
    tmp_path: Path,
    recipe: str,
    arguments: list[str],
    wanted: tuple[object, ...],
) -> None:
    given = [f"input={film}", f"model={network}", *arguments]
    options = [part for text in given for part in ("--arg", text)]
    script = f"{{recipe}}/{recipe}.vpy"
    done = run("hatvid", "upscale", script, *options, "--streams-from", film, "-o", "out.mkv")
    assert done.returncode == 0, done.stderr.decode()
    assert video_of(tmp_path / "out.mkv") == wanted
    assert sound_of(tmp_path / "out.mkv") == sound_of(film)


# -- Shells. ------------------------------------------------------------------------------


@pytest.mark.usefixtures("ffmpeg")
def test_in_the_middle_of_a_pipe(run: Run, film: Path, network: Path, tmp_path: Path) -> None:
    command = ("{recipe}/ffmpeg_pipe.sh", film, "out.mkv", "--model", network)
    done = run(*command, ENCODE="-c:v libx264 -crf 4 -preset ultrafast")
    assert done.returncode == 0, done.stderr.decode()
    assert video_of(tmp_path / "out.mkv") == (96, 64, 5, "yuv420p", 5, "16/15")
    assert sound_of(tmp_path / "out.mkv") == sound_of(film)
    again = run(*command)
    assert (again.returncode, again.stderr) == (1, b"out.mkv exists; name another output\n")
    lost = run("{recipe}/ffmpeg_pipe.sh", "none.mkv", "other.mkv")
    assert lost.returncode != 0
    assert not (tmp_path / "other.mkv").exists()


def test_one_task_of_an_array(run: Run, film: Path, network: Path, tmp_path: Path) -> None:
    for name in ("a b.mkv", "c.mkv"):
        (tmp_path / "in put").mkdir(exist_ok=True)
        shutil.copy(film, tmp_path / "in put" / name)
    command = ("{recipe}/slurm_array.sh", "in put", "out/put", "--model", network)
    done = run(*command, "--verify", "none", SLURM_ARRAY_TASK_ID="1")
    assert done.returncode == 0, done.stderr.decode()
    assert [path.name for path in (tmp_path / "out/put").iterdir()] == ["a b.mkv"]
    assert video_of(tmp_path / "out/put/a b.mkv")[:3] == (96, 64, 5)
    again = run(*command, SLURM_ARRAY_TASK_ID="1")
    assert (again.returncode, again.stdout) == (0, b"already there: out/put/a b.mkv\n")
    beyond = run(*command, SLURM_ARRAY_TASK_ID="3")
    assert beyond.returncode == 1
    assert b"--array=1-2" in beyond.stderr
    assert run(*command).returncode == 2


# -- Job files. ---------------------------------------------------------------------------


def test_a_folder_as_a_batch(run: Run, film: Path, network: Path, tmp_path: Path) -> None:
    (recipe,) = [recipe for recipe in recipes() if recipe.name == "batch_folder.toml"]
    shutil.copy(recipe.path, tmp_path)
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    shutil.copy(film, tmp_path / "videos" / "a b.mkv")
    shutil.copy(film, tmp_path / "videos" / "deep" / "c.mkv")
    # Weights are random: what comes out is no picture of what goes in.
    more = ("--model", network, "--height", "64", "--settle", "0", "--verify", "quick")
    done = run(*shlex.split(recipe.run), *more)
    assert done.returncode == 0, done.stderr.decode()
    assert b"2 done" in done.stderr
    for name in ("a b_64p.mkv", "deep/c_64p.mkv"):
        assert video_of(tmp_path / "larger" / name)[:3] == (96, 64, 5)
        assert sound_of(tmp_path / "larger" / name) == sound_of(film)
    assert len((tmp_path / "report.jsonl").read_text().splitlines()) == 2
