"""Option values that are wrong, or do not fit each other or the input."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., Any]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--tile", "17"], "tile is 17; it must be 0 .*or a multiple of 16"),
        (["--tile", "-16"], "tile is -16; it must be 0 .*or a multiple of 16"),
        (["--tile", "big"], "'--tile'.*'big' is neither a whole number nor auto"),
        (["--tile", "16", "--overlap", "9"], r"overlap is 9; it must be at most half of tile \(16"),
        (["--overlap", "-1"], "overlap is -1; it must be 0 or more"),
        (["--batch", "0"], "batch is 0; it must be at least 1"),
        (["--batch", "-3"], "batch is -3; it must be at least 1"),
        (["--batch", "many"], "'--batch'.*'many' is neither a whole number nor auto"),
        (["--threads", "0"], "threads is 0; it must be at least 1"),
        (["--crf", "-1"], r"crf is -1(\.0)?; it must be 0 or more"),
        (["--crf", "nan"], "crf is nan; it must be 0 or more"),
        (["--crf", "inf"], "crf is inf; it must be 0 or more"),
        (["--crf", "good"], "'--crf'.*'good' is not a valid float"),
        (["--engine", "replay"], "'--engine'.*'replay' is not one of .*'tensorrt'"),
        (["--engine", "steam"], "'--engine'.*'steam' is not one of 'auto', 'eager', 'openvino'"),
        (["--precision", "fp8"], "'--precision'.*'fp8' is not one of"),
        (["--device", "tpu"], "device 'tpu' is not known; choose auto, cpu, cuda"),
        (["--progress", "loud"], "'--progress'.*'loud' is not one of 'bar', 'json', 'none'"),
        (["--start", "soon"], "'--start'.*'soon' is not a time; write seconds"),
        (["--end", "1:75"], "'--end'.*'1:75' is not a time"),
        (["--start", "-1"], "'--start'.*'-1' is not a time"),
        (["--start", "2", "--end", "1"], r"end \(1s\) is not after start \(2s\)"),
        (["--start", "3f", "--end", "3f"], r"end \(3f\) is not after start \(3f\)"),
        (["--encoder-option", "tune"], "'tune' is not of the form K=V"),
        (["--encoder-option", "=grain"], "'=grain' is not of the form K=V"),
        (["--encoder-option", ""], "'' is not of the form K=V"),
        (["--codec", "libx999"], "codec 'libx999' is not an encoder here; try libx264"),
        (["--codec", "aac"], "codec 'aac' encodes audio; name a video encoder"),
        (["--pix-fmt", "yuv999p"], "does not take pix_fmt 'yuv999p'; choose one of yuv420p"),
        (["--pix-fmt", "gbrp"], "libx264 does not take pix_fmt 'gbrp'; choose one of yuv420p"),
        (["--encoder-option", "tun=grain"], "libx264 has no option 'tun'; did you mean tune"),
        (["--encoder-option", "zzzz=1"], "libx264 has no option 'zzzz'; check its name"),
        (["--codec", "ffv1", "--crf", "3"], "ffv1 has no crf; leave --crf out"),
        (["--codec", "ffv1", "--preset", "slow"], "ffv1 has no preset; leave --preset out"),
        (["--preset", "warp"], "libx264 has no preset 'warp'; choose one of .*slow"),
        (["--codec", "libx265", "--preset", "warp"], "libx265 has no preset 'warp'"),
        (["--encoder-option", "tune=film,music"], "libx264 has no tune 'music'; choose one of"),
        (["--codec", ""], "codec is empty; name one"),
        (["--sclae", "2"], "[Nn]o such option.*--sclae.*--scale"),
        (["--scale"], "'--scale' requires an argument"),
    ],
)
def test_a_wrong_value(
    refused: Refused, clip: Path, tmp_path: Path, given: list[str], says: str
) -> None:
    # Last, so that an option without its value has nothing to take for one.
    refused(clip, "-o", tmp_path / "out.mp4", *given, code=2, says=says)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--encoder-option", "crf=high"], "encoder .*refused .*libx264"),
        (["--end", "0"], "no frame lies between --start and --end; the video has 1 frame as far"),
        (["--end", "0f"], "no frame lies between --start and --end"),
        (["--start", "1000f"], "--start and --end; the video has 6 frames, the last at 0.208"),
        (["--start", "00:01:00"], "--start and --end; the video has 6 frames, the last at 0.208"),
        (["--start", "0.001", "--end", "0.002"], "no frame lies between --start and --end"),
        (["--start", "4f", "--end", "0.01"], "no frame lies between --start and --end"),
    ],
)
def test_a_value_that_only_the_input_or_the_encoder_refuses(
    refused: Refused, clip: Path, tmp_path: Path, given: list[str], says: str
) -> None:
    refused(*given, clip, "-o", tmp_path / "out.mp4", code=1, says=says)


def test_a_codec_that_the_container_does_not_hold(
    refused: Refused, clip: Path, tmp_path: Path
) -> None:
    for name, codec in [("out.webm", "libx264"), ("out.flv", "ffv1")]:
        says = rf"{codec}.*choose another --codec"
        refused(clip, "-o", tmp_path / name, "--codec", codec, code=1, says=says)


def test_no_such_graphics_card(refused: Refused, clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    refused(clip, "-o", output, "--device", "cuda:99", code=2, says="CUDA device.*choose")


def test_no_input_and_two_inputs(refused: Refused, clip: Path) -> None:
    refused(code=2, says="Missing argument 'INPUT'; see hatvid upscale --help")
    refused(clip, clip, code=2, says="unexpected extra argument.*see hatvid upscale --help")


def test_no_such_command(hatvid: Callable[..., Any], refusal: Refused) -> None:
    refusal(hatvid("upscael"), code=2, says="No such command 'upscael'.*see hatvid --help")


def test_no_command_at_all_shows_the_help(hatvid: Callable[..., Any]) -> None:
    outcome = hatvid()
    assert outcome.code == 2
    assert re.search("upscale +Make a video 2, 3 or 4 times larger.", outcome.err)


def test_what_was_noted_on_the_way_does_not_hide_the_reason(
    refused: Refused, tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    # Matroska rounds timestamps, which is noted; then the encoder refuses.
    source = make_clip(tmp_path / "clip.mp4")
    options = ["--encoder-option", "crf=high", "-o", tmp_path / "out.mkv"]
    for progress in ("none", "bar"):
        refused(source, *options, "--progress", progress, code=1, says="refused .*libx264")


def test_the_program_says_it_in_one_line_too(
    hatvid_program: Callable[..., Any],
    refusal: Refused,
    cheap: list[str],
    clip: Path,
    tmp_path: Path,
) -> None:
    # The encoders have logs of their own, which would go straight to standard error.
    arguments = ["upscale", *cheap, "--progress", "none", clip, "-o", tmp_path / "out.mp4"]
    for codec in ("libx264", "libx265"):
        given = ["--codec", codec, "--encoder-option", "crf=high"]
        refusal(hatvid_program(*arguments, *given), code=1, says="refused .*choose another")
    refusal(hatvid_program(*arguments, "--tile", "17"), code=2, says="tile is 17")
    assert not list(tmp_path.iterdir())
