"""Running recipes as their headers say, in a private environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

RECIPES = Path(__file__).parents[2] / "pipelines"


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With ``hatvid`` and ``vspipe`` on the PATH, and folders that are nobody's."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "hatvid"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hatvid "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(folder), sysconfig.get_path("scripts"), os.environ["PATH"]])
    # vspipe writes its configuration there.
    private = {"XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("config"))}
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **private}


@pytest.fixture
def run(
    environment: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a program in an empty folder; ``{recipe}`` in an argument is where recipes lie."""

    def program(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(argument).replace("{recipe}", str(RECIPES)) for argument in arguments],
            capture_output=True,
            env=environment | more,
            cwd=tmp_path,
            timeout=240,
            check=False,
        )

    return program


@pytest.fixture(scope="session")
def network(smallest_hat: Path) -> Path:
    """A checkpoint of scale 2."""
    return smallest_hat


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of 48x32 with pixels that are wider than high, and sound."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    noise = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(16, 15)
        video.codec_context.colorspace, video.codec_context.color_range = 5, 1
        sound = output.add_stream("flac", rate=48000, layout="mono")
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 3 * number, 1), "rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=5, dst_color_range=1)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(video.encode(frame))
        for begin in range(0, 9600, 4608):
            part = av.AudioFrame.from_ndarray(
                (noise.reshape(1, -1)[:, :4608].astype(np.int16) - 128) * 99, "s16", "mono"
            )
            part.sample_rate, part.pts, part.time_base = 48000, begin, Fraction(1, 48000)
            output.mux(sound.encode(part))
        output.mux(video.encode(None))
        output.mux(sound.encode(None))
    return path
