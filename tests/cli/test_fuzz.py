"""Damaged files by the dozen: each is upscaled to its last decodable frame, or refused."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import pytest

pytestmark = pytest.mark.long

Make = Callable[..., Path]

FILES = 40
"""Damaged files of each kind of container."""

# One program for all files of a kind, for the sake of torch's import; a file that takes
# longer than 20 s ends it, with a traceback of where it hung.
MANY = """
import contextlib, faulthandler, io, json, sys
from hatvid.cli.main import main
files, options = json.loads(sys.argv[1]), sys.argv[2:]
import hatvid.jobs.run
for source, output in files:
    faulthandler.dump_traceback_later(20, exit=True)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["upscale", *options, source, "-o", output])
        except SystemExit as ending:
            code = ending.code
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""

# What may stop a file that has frames: it says something that hatvid cannot follow.
LEGITIMATE = re.compile(
    r"the picture size changes|the pixel format changes|colour matrix .* is not supported"
    r"|pixel format \w+ is not supported|cannot hold \w+ audio"
)


def damage(data: bytes, rng: random.Random) -> bytes:
    """Cut, flip, overwrite or move some of the bytes."""
    spoilt = bytearray(data)
    size = len(data)
    kind = rng.choice(["cut", "flip", "flip the header", "zero", "swap", "remove", "repeat"])
    at, length = rng.randrange(size), rng.randrange(1, size // 8)
    if kind == "cut":
        return data[:at]
    if kind.startswith("flip"):
        reach = size if kind == "flip" else min(size, 1000)
        for _ in range(rng.randrange(1, 40)):
            spoilt[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        spoilt[at : at + length] = bytes(len(spoilt[at : at + length]))
    elif kind == "swap":
        other = rng.randrange(size)
        block = spoilt[at : at + length]
        del spoilt[at : at + length]
        spoilt[other:other] = block
    elif kind == "remove":
        del spoilt[at : at + length]
    else:
        spoilt[at:at] = spoilt[at : at + length]
    return bytes(spoilt)


def decodable(path: Path) -> int:
    """How many frames a plain decoding loop gets out of a file, errors passed over."""
    frames = 0
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, ValueError):
        return 0
    with container:
        videos = container.streams.video
        if not videos or videos[0].codec_context is None:
            return 0
        packets = container.demux(videos[0])
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                packet = None
            try:
                frames += len(videos[0].codec_context.decode(packet))
            except av.error.EOFError:
                return frames
            except av.error.FFmpegError:
                pass
            if packet is None or not packet.size:
                return frames


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, make_clip: Make) -> dict[str, bytes]:
    """Clips that are whole, by the suffix of their names."""
    folder = tmp_path_factory.mktemp("good")
    sound = {".mp4": "aac", ".mkv": "flac", ".webm": "libopus", ".ts": "aac", ".y4m": None}
    codecs = {".webm": "libvpx-vp9", ".y4m": "wrapped_avframe"}
    clips = {}
    for suffix, audio in sound.items():
        codec = codecs.get(suffix, "libx264")
        path = make_clip(folder / f"good{suffix}", frames=24, codec=codec, audio=audio)
        clips[suffix] = path.read_bytes()
    return clips


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".ts", ".y4m"])
def test_damaged_files(
    good: dict[str, bytes],
    cheap: list[str],
    program_environment: dict[str, str],
    tmp_path: Path,
    suffix: str,
) -> None:
    files = []
    for seed in range(FILES):
        source = tmp_path / f"damaged-{seed}{suffix}"
        source.write_bytes(damage(good[suffix], random.Random(f"{suffix} {seed}")))
        files.append((source, tmp_path / f"out-{seed}.mkv"))
    names = json.dumps([[str(source), str(output)] for source, output in files])
    done = subprocess.run(
        [sys.executable, "-c", MANY, names, *cheap, "--progress", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=25 * FILES,
        check=False,
        env=program_environment,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == FILES

    upscaled, wrong = 0, []
    for (source, output), (code, out, err) in zip(files, results, strict=True):
        frames = decodable(source)
        if code == 0:
            upscaled += 1
            receipt = json.loads(out.splitlines()[-1])
            fair = err == "" and receipt["event"] == "finished"
            fair = fair and receipt["frames"] == decodable(output) >= max(1, frames)
        else:
            fair = code == 1 and bool(re.fullmatch(r"hatvid: .+\n", err)) and not output.exists()
            fair = fair and (frames == 0 or bool(LEGITIMATE.search(err)))
        if not fair:
            wrong.append(f"{source.name}, {frames} frames: {code} {out[-300:]} {err}")
    assert not wrong, "\n".join(wrong)
    assert upscaled >= FILES // 3, "the damage is too great to tell much"
    left = set(tmp_path.iterdir()) - {path for pair in files for path in pair}
    assert not left
