"""Small clips, tiny checkpoints, and two ways to run the command: here, and as a program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from safetensors.torch import save_file
from smallest import smallest

from hatvid.cli.main import main
from hatvid.model.hat import HAT


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def listening_to_ctrl_c() -> None:
    """Undo what `&` and nohup do: a test run in the background ignores SIGINT, and so would
    every command that it starts, on purpose."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def repeating(model: HAT) -> HAT:
    """Set what stands around the body so that each pixel is repeated, and the body whispers.

    An output of wholly random weights would be no larger picture of its input, which a
    job finds out.
    """
    with torch.no_grad():
        model.conv_after_body.weight *= 0.01
        torch.nn.init.zeros_(model.conv_after_body.bias)
        convolutions = [model.conv_first, model.conv_before_upsample[0], model.conv_last]
        convolutions += [layer for layer in model.upsample if isinstance(layer, torch.nn.Conv2d)]
        for layer in convolutions:
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        for colour in range(3):
            model.conv_first.weight[colour, colour, 1, 1] = 1
            # Both signs, as a leaky ReLU follows: relu(x) - relu(-x) is 1.01 x.
            model.conv_before_upsample[0].weight[colour, colour, 1, 1] = 1
            model.conv_before_upsample[0].weight[colour + 3, colour, 1, 1] = -1
            model.conv_last.weight[colour, colour, 1, 1] = 1 / 1.01
            model.conv_last.weight[colour, colour + 3, 1, 1] = -1 / 1.01
        for layer in model.upsample:
            for out in range(getattr(layer, "out_channels", 0)):
                layer.weight[out, out // 4, 1, 1] = 1
    return model


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The smallest HATs there can be, by scale: they repeat pixels, with a little noise."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for scale in (2, 4):
        torch.manual_seed(scale)
        paths[scale] = folder / f"tiny-x{scale}.safetensors"
        model = repeating(HAT(smallest(scale, depths=(2,))))
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(state, paths[scale])
    return paths


@pytest.fixture(scope="session")
def cheap(checkpoints: dict[int, Path]) -> list[str]:
    """Options of ``hatvid upscale`` that make it as quick as can be, at x2."""
    model = str(checkpoints[2])
    return ["--scale", "2", "--model", model, "--engine", "eager", "--threads", "1"]


@pytest.fixture
def hatvid(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Run the command in this very program: no import of torch to wait for."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            main([os.fspath(argument) for argument in arguments])
        shown = capfd.readouterr()
        assert isinstance(ending.value.code, int)
        return Outcome(ending.value.code, shown.out, shown.err)

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def refused(
    hatvid: Callable[..., Outcome], cheap: list[str], tmp_path: Path
) -> Callable[..., Outcome]:
    """Run ``hatvid upscale`` on something that cannot be: one line, and nothing touched."""

    def check(*arguments: str | Path, code: int, says: str) -> Outcome:
        before = contents(tmp_path)
        outcome = hatvid("upscale", *cheap, "--progress", "none", *arguments)
        assert_refused(outcome, code=code, says=says)
        assert contents(tmp_path) == before
        return outcome

    return check


def assert_refused(outcome: Outcome, *, code: int, says: str) -> None:
    """One line on standard error, with all of ``says`` (a pattern) in it."""
    assert outcome.err.endswith("\n")
    line = outcome.err.removesuffix("\n")
    assert len(line.splitlines()) == 1, outcome.err
    assert line.startswith("hatvid: ")
    assert "Traceback" not in line
    assert re.search(says, line), line
    assert outcome.code == code, line
    assert outcome.out == ""


def contents(folder: Path) -> dict[str, object]:
    """All that lies in a folder, to the byte: an input spoilt or a file left over shows."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = os.fsdecode(path.relative_to(folder))
        if path.is_symlink():
            found[name] = path.readlink()
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture(scope="session")
def refusal() -> Callable[..., None]:
    """What :func:`refused` checks, for an outcome of :func:`hatvid_program`."""
    return assert_refused


@pytest.fixture(scope="session")
def lies_in() -> Callable[[Path], dict[str, object]]:
    """Everything in a folder, by name."""
    return contents


@pytest.fixture(scope="session")
def program_environment() -> dict[str, str]:
    """For the command as a program of its own."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "error",
        # A test may be started with any of them.
        "PYTHONUTF8": "1",
        "NO_COLOR": "",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="session")
def hatvid_program(program_environment: dict[str, str]) -> Callable[..., Outcome]:
    """Run ``python -m hatvid`` as a user does; torch takes seconds to import."""

    def run(
        *arguments: str | Path,
        code: str | None = None,
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> Outcome:
        entry = ["-m", "hatvid"] if code is None else ["-c", code]
        done = subprocess.run(
            [sys.executable, *entry, *map(os.fspath, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=program_environment | (environment or {}),
            **settings,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """Write a small clip: noise that moves, tagged so that nothing is left to assume."""

    def make(
        path: Path,
        *,
        frames: int = 6,
        width: int = 32,
        height: int = 24,
        rate: int = 24,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        audio: str | None = None,
        format: str | None = None,  # noqa: A002 - av.open's name
        options: dict[str, str] | None = None,
    ) -> Path:
        rng = np.random.default_rng(frames * width * height)
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        chosen = {"preset": "ultrafast", "g": "4"} if codec == "libx264" else {}
        with av.open(f"file:{path}", "w", format=format) as container:
            video = container.add_stream(codec, rate=rate, options=options or chosen)
            video.width, video.height, video.pix_fmt = width, height, pix_fmt
            video.codec_context.color_range = 1
            video.codec_context.colorspace = 6
            sound = None if audio is None else _sound_stream(container, audio)
            for number in range(frames):
                shifted = np.roll(picture, number, axis=1)
                frame = av.VideoFrame.from_ndarray(shifted, "rgb24").reformat(
                    format=pix_fmt, dst_colorspace=6, dst_color_range=1
                )
                frame.pts, frame.time_base = number, Fraction(1, rate)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if sound is not None:
                _add_sound(container, sound, Fraction(frames, rate))
        return path

    return make


@pytest.fixture(scope="session")
def make_sound() -> Callable[..., Path]:
    """Write a sound file, with a cover picture if asked for."""

    def make(path: Path, *, codec: str, cover: bool = False) -> Path:
        muxer = "mp4" if path.suffix == ".m4a" else None
        with av.open(f"file:{path}", "w", format=muxer) as container:
            sound = _sound_stream(container, codec)
            picture = None
            if cover and path.suffix == ".mkv":
                container.add_attachment("cover.png", "image/png", _png())
            elif cover:
                picture = container.add_stream("png", rate=1)
                picture.width, picture.height, picture.pix_fmt = 32, 24, "rgb24"
                picture.disposition = Disposition.attached_pic
            container.start_encoding()
            if picture is not None:
                image = av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), "rgb24")
                image.pts, image.time_base = 0, Fraction(1, 1)
                container.mux(picture.encode(image))
            _add_sound(container, sound, Fraction(1, 4))
        return path

    return make


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> Path:
    """Six frames of 32x24, no sound; do not write to it."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


def _png() -> bytes:
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = 32, 24, "rgb24"
    context.time_base = Fraction(1, 1)
    image = av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), "rgb24")
    image.pts = 0
    packets = [*context.encode(image), *context.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def _sound_stream(container: Any, codec: str) -> Any:
    stream = container.add_stream(codec, rate=48000, layout="mono")
    known = [audio_format.name for audio_format in stream.codec_context.codec.audio_formats]
    stream.format = next(name for name in ("fltp", "flt", "s16") if name in known)
    return stream


def _add_sound(container: Any, stream: Any, length: Fraction) -> None:
    rng = np.random.default_rng(7)
    stream.codec_context.open(strict=False)
    size = stream.codec_context.frame_size or 1024
    for start in range(0, int(length * 48000), size):
        samples = rng.normal(0, 0.1, (1, size)).astype(np.float32)
        if stream.format.name == "s16":
            samples = (samples * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, stream.format.name, "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
