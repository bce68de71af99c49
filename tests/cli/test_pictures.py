"""``hatvid upscale`` with pictures on either side; read back by FFmpeg's decoders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyav_cli import pyav

Hatvid = Callable[..., Any]
Make = Callable[..., Path]
Refused = Callable[..., Any]
Picture = NDArray[np.float64]

CODECS = {"png": "png", "jpg": "mjpeg", "jpeg": "mjpeg", "webp": "webp"}


def draw(path: Path, *, number: int = 0, width: int = 30, height: int = 20) -> Path:
    """A picture of soft colours that differ from one number to the next."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    waves = [across / 7 + number, down / 5 - number, (across + down) / 9 + 2 * number]
    rgb = np.stack([128 + 90 * np.sin(wave) for wave in waves], 2).astype(np.uint8)
    best: dict[str, dict[str, Any]] = {
        ".jpeg": {"quality": 100, "subsampling": 0},
        ".webp": {"lossless": True},
    }
    Image.fromarray(rgb).save(path, **best.get(path.suffix, {}))
    return path


def pixels(path: Path, width: int, height: int) -> list[Picture]:
    """The RGB pictures of a file, (H, W, 3) from 0 to 255, as FFmpeg reads them."""
    with av.open(f"file:{path}") as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert {picture.shape for picture in found} == {(height, width, 3)}
    return [picture.astype(np.float64) for picture in found]


def error(larger: Path, source: Path, width: int = 30, height: int = 20) -> float:
    """Mean difference of a picture and its source with each pixel repeated."""
    found, wanted = pixels(larger, 2 * width, 2 * height), pixels(source, width, height)
    assert len(found) == len(wanted) == 1
    return float(np.abs(found[0] - wanted[0].repeat(2, 0).repeat(2, 1)).mean())


def only(folder: Path, *paths: Path) -> None:
    assert sorted(folder.iterdir()) == sorted(paths)


@pytest.mark.parametrize("target", ["png", "jpg", "webp"])
@pytest.mark.parametrize("source", ["png", "jpeg", "webp"])
def test_one_picture(
    hatvid: Hatvid,
    cheap: list[str],
    tmp_path: Path,
    source: str,
    target: str,
) -> None:
    path, output = draw(tmp_path / f"in.{source}"), tmp_path / f"out.{target}"
    before = path.read_bytes()
    done = hatvid("upscale", *cheap, path, "-o", output)
    assert done.code == 0, done.err
    with av.open(f"file:{output}") as written:
        assert written.streams.video[0].codec_context.name == CODECS[target]
    assert error(output, path) < 2.5
    assert path.read_bytes() == before
    only(tmp_path, path, output)
    assert done.out == ""
    assert done.err.splitlines()[-1].startswith(f"hatvid: {output}: 60x40 in ")


def test_the_default_name(hatvid: Hatvid, cheap: list[str], tmp_path: Path) -> None:
    path = draw(tmp_path / "in.png")
    assert hatvid("upscale", *cheap, path).code == 0
    only(tmp_path, path, tmp_path / "in_x2.png")


def test_a_size(hatvid: Hatvid, cheap: list[str], tmp_path: Path) -> None:
    path, output = draw(tmp_path / "in.png"), tmp_path / "out.png"
    done = hatvid("upscale", *cheap, path, "--height", "33", "-o", output)
    assert done.code == 0, done.err
    # 30:20 at 33 rows is 49.5 columns.
    assert [picture.shape for picture in pixels(output, 50, 33)] == [(33, 50, 3)]


def test_progress_of_pictures(hatvid: Hatvid, cheap: list[str], tmp_path: Path) -> None:
    for number in (1, 2):
        draw(tmp_path / f"in_{number}.png", number=number)
    done = hatvid(
        *("upscale", *cheap, tmp_path / "in_%d.png", "-o", tmp_path / "out_%d.png"),
        *("--progress", "json"),
    )
    assert (done.code, done.err) == (0, "")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["started", "finished"]
    assert events[0]["frames"] == events[-1]["frames"] == 2


def test_numbered_pictures_keep_their_numbers(
    hatvid: Hatvid, cheap: list[str], tmp_path: Path
) -> None:
    numbers = (8, 9, 11)
    sources = {n: draw(tmp_path / f"in_{n:03d}.png", number=n) for n in numbers}
    done = hatvid("upscale", *cheap, tmp_path / "in_%03d.png", "-o", tmp_path / "big%04d.png")
    assert done.code == 0, done.err
    outputs = {n: tmp_path / f"big{n:04d}.png" for n in numbers}
    only(tmp_path, *sources.values(), *outputs.values())
    for n in numbers:
        assert error(outputs[n], sources[n]) < 2.5
        assert error(outputs[n], sources[9 if n != 9 else 8]) > 20
    assert "no file has the number 10" in done.err


def test_a_spoilt_picture_among_others(
    hatvid: Hatvid, refusal: Callable[..., None], cheap: list[str], tmp_path: Path
) -> None:
    sources = [draw(tmp_path / f"in_{n}.png", number=n) for n in (1, 2, 3)]
    sources[1].write_bytes(sources[1].read_bytes()[:200])
    done = hatvid(
        *("upscale", *cheap, "--progress", "none", tmp_path / "in_%d.png"),
        *("-o", tmp_path / "out_%d.png"),
    )
    refusal(done, code=1, says=r"1 of 3 pictures could not be read.*in_2\.png")
    only(tmp_path, *sources, tmp_path / "out_1.png", tmp_path / "out_3.png")


def test_video_to_pictures(hatvid: Hatvid, cheap: list[str], tmp_path: Path) -> None:
    for n in range(4):
        draw(tmp_path / f"in_{n}.png", number=n)
    clip = tmp_path / "clip.mkv"
    pyav("-framerate", "25", "-i", tmp_path / "in_%d.png", "-c:v", "ffv1", "-pix_fmt", "bgr0", clip)
    folder = tmp_path / "frames"
    folder.mkdir()
    done = hatvid("upscale", *cheap, clip, "-o", folder / "f_%05d.png")
    assert done.code == 0, done.err
    # From 1, as ffmpeg numbers them.
    outputs = [folder / f"f_{n + 1:05d}.png" for n in range(4)]
    only(folder, *outputs)
    for n, output in enumerate(outputs):
        assert error(output, tmp_path / f"in_{n}.png") < 2.5
    assert "pictures hold no times" in done.err


@pytest.mark.parametrize(("rate", "given"), [("30000/1001", True), ("25/1", False)])
def test_pictures_to_video(
    hatvid: Hatvid,
    cheap: list[str],
    ffprobe: Callable[..., dict[str, Any]],
    tmp_path: Path,
    rate: str,
    given: bool,
) -> None:
    sources = [draw(tmp_path / f"in_{n}.png", number=n) for n in range(7, 12)]
    output = tmp_path / "out.mp4"
    options = ["--preset", "ultrafast", *(["--framerate", rate] if given else [])]
    done = hatvid("upscale", *cheap, tmp_path / "in_%d.png", *options, "-o", output)
    assert done.code == 0, done.err
    found = ffprobe("-show_streams", "-show_packets", output)
    stream = found["streams"][0]
    assert stream["r_frame_rate"] == stream["avg_frame_rate"] == rate
    over, under = map(int, rate.split("/"))
    at = sorted(float(packet["pts_time"]) for packet in found["packets"])
    assert at == pytest.approx([n * under / over for n in range(5)], abs=1e-6)
    larger = pixels(output, 60, 40)
    assert len(larger) == 5
    for picture, source in zip(larger, sources, strict=True):
        wanted = pixels(source, 30, 20)[0].repeat(2, 0).repeat(2, 1)
        assert np.abs(picture - wanted).mean() < 6
    assumed = "numbered pictures have no frame rate: 25 a second is assumed" in done.err
    assert assumed is not given
    assert "verified" in done.err.splitlines()[-1]


@pytest.mark.parametrize("sequence", [False, True])
def test_what_exists_stays_unless_told(
    refused: Refused, hatvid: Hatvid, cheap: list[str], tmp_path: Path, sequence: bool
) -> None:
    for n in (1, 2):
        draw(tmp_path / f"in_{n}.png", number=n)
    names = ("in_%d.png", "out_%d.png") if sequence else ("in_2.png", "out_2.png")
    source, output = (tmp_path / name for name in names)
    there = tmp_path / "out_2.png"
    there.write_bytes(b"mine")
    says = r"out_2\.png exists; use --overwrite to replace it"
    refused(source, "-o", output, code=2, says=says)
    done = hatvid("upscale", *cheap, source, "-o", output, "--overwrite")
    assert done.code == 0, done.err
    assert error(there, tmp_path / "in_2.png") < 2.5


def test_frames_do_not_replace_pictures(
    refused: Refused, hatvid: Hatvid, cheap: list[str], clip: Path, tmp_path: Path
) -> None:
    there = tmp_path / "f_00003.png"
    there.write_bytes(b"mine")
    output = tmp_path / "f_%05d.png"
    says = r"f_00003\.png exists; use --overwrite"
    refused(clip, "-o", output, code=2, says=says)
    done = hatvid("upscale", *cheap, clip, "-o", output, "--overwrite")
    assert done.code == 0, done.err
    only(tmp_path, *(tmp_path / f"f_{n:05d}.png" for n in range(1, 7)))
    assert len(pixels(there, 64, 48)) == 1


@pytest.mark.parametrize(
    ("source", "output", "code", "says"),
    [
        ("one.png", "one.png", 2, "is itself an input"),
        ("one.png", "out_%d.png", 2, "is a name for many pictures and .* is one"),
        ("in_%d.png", "out.png", 2, r"is one name for many pictures.* out_%04d\.png"),
        ("in_%d.png", "in_%d.png", 2, "is itself an input"),
        ("in_%02d.png", "out_%d.png", 1, "no file is named like .*check the name"),
        ("in_%02d.png", "out.mkv", 1, "no picture has such a name"),
        ("gap_%d.png", "out.mkv", 1, "run from 1 to 3, but 2 is not there"),
        ("gone.png", "out.png", 1, "no such file; check the name"),
        ("one.png", "out.tiff", 2, r"\.tiff files are not written by hatvid"),
        ("one.png", "nowhere/out.png", 1, "no such folder"),
        ("text.png", "out.png", 1, r"text\.png"),
        ("clip.mp4", "out.png", 2, r"is the name of one picture; number them: .*out_%05d\.png"),
        ("clip.mp4", "out_%d.jpg", 2, "png|PNG"),
        ("clip.mp4", "nowhere/out_%d.png", 1, "no such folder"),
    ],
)
def test_wrong_names(
    refused: Refused, clip: Path, tmp_path: Path, source: str, output: str, code: int, says: str
) -> None:
    data = draw(tmp_path / "one.png").read_bytes()
    for name in ("in_1.png", "in_2.png", "gap_1.png", "gap_3.png"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "text.png").write_text("Tyger Tyger")
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    refused(tmp_path / source, "-o", tmp_path / output, code=code, says=says)


def test_a_format_is_for_pipes(refused: Refused, tmp_path: Path) -> None:
    path = draw(tmp_path / "in.png")
    output = tmp_path / "out.png"
    refused(path, "-o", output, "--format", "mkv", code=2, says="leave --format out")
