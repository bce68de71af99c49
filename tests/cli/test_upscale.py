"""``hatvid upscale``: names, options that reach the output, and the parts of a clip."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
import pytest

from hatvid.cli.main import cli

Hatvid = Callable[..., Any]
Make = Callable[..., Path]

X264_SETTINGS = re.compile(rb"x264 - core \d+.*?options: ([^\0]*)")


def frame_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def settings(path: Path) -> dict[str, str]:
    """What x264 wrote into the stream about how it was told to encode."""
    match = X264_SETTINGS.search(path.read_bytes())
    assert match is not None
    pairs = match[1].decode().split()
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


@pytest.fixture
def mine(clip: Path, tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    return path


@pytest.mark.parametrize("scale", [2, 4])
def test_the_default_name(
    hatvid: Hatvid, checkpoints: dict[int, Path], mine: Path, scale: int
) -> None:
    options = ["--engine", "eager", "--threads", "1", "--model", checkpoints[scale]]
    done = hatvid("upscale", mine, "--scale", str(scale), *options)
    assert done.code == 0, done.err
    output = mine.with_name(f"clip_x{scale}.mp4")
    assert sorted(mine.parent.iterdir()) == sorted([mine, output])
    with av.open(str(output)) as container:
        assert "mp4" in container.format.name
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert sizes == [(32 * scale, 24 * scale)] * 6
    assert frame_times(output) == frame_times(mine)


def test_the_default_scale_is_4_with_an_embedded_model(hatvid: Hatvid, mine: Path) -> None:
    # As in the README: nothing but the input, at one frame.
    done = hatvid("upscale", mine, "--end", "1f", "--engine", "eager")
    assert done.code == 0, done.err
    assert "hat-nano-x4" in done.err
    with av.open(str(mine.with_name("clip_x4.mp4"))) as container:
        assert [(f.width, f.height) for f in container.decode(video=0)] == [(128, 96)]


@pytest.mark.parametrize(
    ("name", "codec", "cause"),
    [
        ("old.avi", "mpeg4", "is not written by hatvid"),
        ("clip.y4m", "rawvideo", "keeps neither times nor colours"),
    ],
)
def test_an_input_whose_container_is_not_written_becomes_mkv_and_that_is_said(
    hatvid: Hatvid,
    cheap: list[str],
    make_clip: Make,
    tmp_path: Path,
    name: str,
    codec: str,
    cause: str,
) -> None:
    source = make_clip(tmp_path / name, codec="wrapped_avframe" if "y4m" in name else codec)
    done = hatvid("upscale", *cheap, source)
    assert done.code == 0, done.err
    said = f"hatvid: {source.suffix} {cause}: the output is mkv\n"
    assert done.err.count(said) == 1
    output = source.with_name(f"{source.stem}_x2.mkv")
    with av.open(str(output)) as container:
        assert "matroska" in container.format.name
        assert sum(1 for _ in container.decode(video=0)) == 6


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], {"crf": "16.0", "subme": "7"}),  # subme 7 is the preset medium
        (["--crf", "31"], {"crf": "31.0"}),
        (["--crf", "22.5"], {"crf": "22.5"}),
        (["--preset", "ultrafast"], {"subme": "0", "crf": "16.0"}),
        (["--encoder-option", "keyint=7"], None),
        (["--encoder-option", "g=7"], {"keyint": "7"}),
        (["--encoder-option", "g=7", "--encoder-option", "refs=5"], {"keyint": "7", "ref": "5"}),
        (["--encoder-option", "x264-params=keyint=9:min-keyint=3"], {"keyint": "9"}),
        (["--crf", "30", "--encoder-option", "crf=20"], {"crf": "20.0"}),
    ],
)
def test_the_encoder_is_told(
    hatvid: Hatvid, cheap: list[str], mine: Path, given: list[str], wanted: dict[str, str] | None
) -> None:
    output = mine.with_name("out.mp4")
    done = hatvid("upscale", *cheap, mine, "-o", output, *given)
    if wanted is None:
        assert done.code == 2
        assert "libx264 has no option 'keyint'" in done.err
        return
    assert done.code == 0, done.err
    told = settings(output)
    assert {name: told[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "codec", "pix_fmt"),
    [
        ([], "h264", "yuv420p"),
        (["--codec", "libx265"], "hevc", "yuv420p"),
        (["--codec", "ffv1"], "ffv1", "yuv420p"),
        (["--pix-fmt", "yuv444p"], "h264", "yuv444p"),
        (["--pix-fmt", "yuv420p10le"], "hevc", "yuv420p10le"),
        (["--codec", "libx265", "--pix-fmt", "yuv422p10le"], "hevc", "yuv422p10le"),
    ],
)
def test_codec_and_pixel_format_show_in_the_stream(
    hatvid: Hatvid, cheap: list[str], mine: Path, given: list[str], codec: str, pix_fmt: str
) -> None:
    output = mine.with_name("out.mkv")
    done = hatvid("upscale", *cheap, mine, "-o", output, *given)
    assert done.code == 0, done.err
    with av.open(str(output)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == (codec, pix_fmt)
        assert sum(1 for _ in container.decode(video=0)) == 6


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--start", "2f"], range(2, 12)),
        (["--end", "5f"], range(5)),
        (["--start", "3f", "--end", "4f"], range(3, 4)),
        (["--start", "0.25"], range(6, 12)),  # frame 6 lies at 6/24 s exactly
        (["--start", "00:00:00.25", "--end", "00:00:00.375"], range(6, 9)),
        (["--start", "0.26", "--end", "99"], range(7, 12)),
        (["--start", "0", "--end", "1000f"], range(12)),
    ],
)
def test_a_part_of_the_clip(
    hatvid: Hatvid,
    cheap: list[str],
    make_clip: Make,
    tmp_path: Path,
    given: list[str],
    kept: range,
) -> None:
    source = make_clip(tmp_path / "clip.mp4", frames=12)
    output = tmp_path / "out.mp4"
    done = hatvid("upscale", *cheap, source, "-o", output, *given)
    assert done.code == 0, done.err
    times = frame_times(output)
    assert times == [Fraction(number - kept[0], 24) for number in kept]


def test_the_right_part_of_the_clip(
    hatvid: Hatvid, cheap: list[str], make_clip: Make, tmp_path: Path
) -> None:
    # The pictures, and not only their number: lossless, against a run over the whole.
    source = make_clip(tmp_path / "clip.mp4", frames=12)
    pictures = {}
    for name, given in (("all", []), ("part", ["--start", "5f", "--end", "8f"])):
        output = tmp_path / f"{name}.mkv"
        done = hatvid("upscale", *cheap, source, "-o", output, "--codec", "ffv1", *given)
        assert done.code == 0, done.err
        with av.open(str(output)) as container:
            pictures[name] = [f.to_ndarray().tobytes() for f in container.decode(video=0)]
    assert len(set(pictures["all"])) == 12
    assert pictures["part"] == pictures["all"][5:8]


def test_overwrite_replaces_the_file(
    hatvid: Hatvid, cheap: list[str], mine: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    output.write_text("old")
    kept = tmp_path / "elsewhere.mp4"
    kept.write_text("precious")
    link = tmp_path / "link.mp4"
    link.symlink_to(kept)
    for target in (output, link):
        done = hatvid("upscale", *cheap, mine, "-o", target, "--overwrite")
        assert done.code == 0, done.err
        assert len(frame_times(target)) == 6
    # A link is replaced itself; what it pointed to may belong to somebody else.
    assert not link.is_symlink()
    assert kept.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--tile", "0"], "eager fp32, whole frame"),
        (["--tile", "32", "--overlap", "0"], "eager fp32, 2 tiles 32x32"),
        (["--tile", "32", "--overlap", "16"], "eager fp32, 3 tiles 32x32"),
    ],
)
def test_tiles_are_said_to_be_used(
    hatvid: Hatvid, cheap: list[str], make_clip: Make, tmp_path: Path, given: list[str], said: str
) -> None:
    source = make_clip(tmp_path / "clip.mp4", frames=1, width=64, height=32)
    done = hatvid("upscale", *cheap, source, *given)
    assert done.code == 0, done.err
    assert said in done.err


def test_strict_stops_where_else_a_frame_is_repeated(
    hatvid: Hatvid, cheap: list[str], make_clip: Make, tmp_path: Path
) -> None:
    source = make_clip(tmp_path / "clip.mov", frames=8, codec="png", pix_fmt="rgb24")
    with av.open(str(source)) as container:
        broken = [packet for packet in container.demux(video=0) if packet.size][3]
        spoilt = bytes(broken)
    data = source.read_bytes()
    assert data.count(spoilt) == 1
    source.write_bytes(data.replace(spoilt, b"\0" * len(spoilt)))

    output = tmp_path / "out.mkv"
    done = hatvid("upscale", *cheap, source, "-o", output, "--strict")
    assert done.code == 1
    assert re.search(r"0\.125 s cannot be decoded .*leave out --strict", done.err)
    assert not output.exists()

    done = hatvid("upscale", *cheap, source, "-o", output)
    assert done.code == 0
    assert "1 frame could not be decoded: the picture before stands there, at 0.125 s" in done.err
    assert len(frame_times(output)) == 8


def test_every_option_is_in_the_readme(request: pytest.FixtureRequest) -> None:
    readme = (request.config.rootpath / "README.md").read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        assert f"hatvid {name}" in readme
        for option in command.params:
            if isinstance(option, click.Option):
                long = max(option.opts, key=len)
                assert re.search(rf"{long}\b(?!-)", readme), f"{long} is not in README.md"
