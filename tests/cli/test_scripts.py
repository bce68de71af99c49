"""VapourSynth scripts as input: run once, encoded as they are, or upscaled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import vapoursynth as vs
from PIL import Image

from hatvid.video.convert import frame_to_planes
from hatvid.video.declared import declared

START = "import vapoursynth as vs\ncore = vs.core\n"
NUMBERED = """
import vapoursynth as vs
import numpy as np
from fractions import Fraction

blank = vs.core.std.BlankClip(format=vs.{form}, width=32, height=24, length=6, fpsnum=25)


def fill(n, f):
    frame = f.copy()
    for index in range(len(frame)):
        plane = np.asarray(frame[index])
        codes = np.arange(plane.size).reshape(plane.shape) * 7 + 31 * n + 5 * index
        plane[:] = codes % (1 << {depth})
    frame.props.update(dict({props}))
    return frame


clip = blank.std.ModifyFrame(blank, fill)
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    """Write a script whose frame n shows codes that follow from n."""

    def write(
        end: str = "clip.set_output()",
        *,
        form: str = "YUV420P8",
        depth: int = 8,
        props: str = "_Matrix=1, _Range=0",
        name: str = "script.vpy",
    ) -> Path:
        path = tmp_path / name
        path.write_text(NUMBERED.format(form=form, depth=depth, props=props) + end + "\n")
        return path

    return write


def planes_of(path: Path) -> list[list[np.ndarray[Any, Any]]]:
    """Every frame's planes."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            found.append([plane.numpy() for plane in frame_to_planes(frame)[1]])
    return found


def times_of(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def codes(n: int, index: int, height: int, width: int, depth: int) -> np.ndarray[Any, Any]:
    return (np.arange(height * width).reshape(height, width) * 7 + 31 * n + 5 * index) % (
        1 << depth
    )


# -- As it is. ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "depth"),
    [
        ("YUV420P8", 8),
        ("YUV422P10", 10),
        ("YUV444P16", 16),
        ("GRAY8", 8),
        ("RGB24", 8),
        ("RGB48", 16),
    ],
)
def test_the_very_samples(
    hatvid: Callable[..., Any], script: Callable[..., Path], form: str, depth: int
) -> None:
    path = script(form=form, depth=depth, props="" if "YUV" not in form else "_Matrix=1, _Range=0")
    done = hatvid("upscale", path, "--codec", "ffv1")
    assert done.code == 0, done.err
    frames = planes_of(path.with_suffix(".mkv"))
    assert len(frames) == 6
    for n, planes in enumerate(frames):
        for index, plane in enumerate(planes):
            assert np.array_equal(plane, codes(n, index, *plane.shape, depth))
    assert "as they are" in done.err
    assert "not compared" in done.err


def test_another_pixel_format_where_it_is_asked_for(
    hatvid: Callable[..., Any], script: Callable[..., Path]
) -> None:
    path = script("clip.std.Expr('16').resize.Point(format=vs.YUV420P8).set_output()")
    done = hatvid("upscale", path, "--codec", "ffv1", "--pix-fmt", "yuv444p10le")
    assert done.code == 0, done.err
    (luma, *_), *_ = planes_of(path.with_suffix(".mkv"))
    assert (luma == 64).all()


def test_alpha_goes_with_it(hatvid: Callable[..., Any], script: Callable[..., Path]) -> None:
    path = script("clip.set_output(alpha=clip.std.ShufflePlanes(0, vs.GRAY))", form="YUV444P8")
    done = hatvid("upscale", path, "--codec", "ffv1")
    assert done.code == 0, done.err
    for planes in planes_of(path.with_suffix(".mkv")):
        assert len(planes) == 4
        assert np.array_equal(planes[3], planes[0])


def test_colours_and_shape_are_tagged(
    hatvid: Callable[..., Any], script: Callable[..., Path]
) -> None:
    path = script(
        props="_Matrix=9, _Range=1, _Primaries=9, _Transfer=16, _ChromaLocation=2, _SARNum=4, "
        "_SARDen=3"
    )
    assert hatvid("upscale", path, "--codec", "ffv1").code == 0
    with av.open(str(path.with_suffix(".mkv"))) as container:
        frame = next(container.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == (9, 2)
        assert (int(frame.color_primaries), int(frame.color_trc)) == (9, 16)
        assert int(frame.chroma_location) == 3
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_hdr_goes_with_it(hatvid: Callable[..., Any], script: Callable[..., Path]) -> None:
    path = script(
        form="YUV420P10",
        depth=10,
        props="_Matrix=9, _Range=0, _Primaries=9, _Transfer=16, ContentLightLevelMax=1000,"
        " ContentLightLevelAverage=400, MasteringDisplayPrimariesX=[.708, .17, .131],"
        " MasteringDisplayPrimariesY=[.292, .797, .046], MasteringDisplayWhitePointX=.3127,"
        " MasteringDisplayWhitePointY=.329, MasteringDisplayMinLuminance=.0001,"
        " MasteringDisplayMaxLuminance=1000.0",
    )
    done = hatvid("upscale", path, "--codec", "libx265", "--preset", "ultrafast")
    assert done.code == 0, done.err
    told = declared(path.with_suffix(".mkv"), 0).names
    assert told["content light"] == "max 1000, average 400"
    assert told["mastering display"] == (
        "primaries and white (0.7080,0.2920) (0.1700,0.7970) (0.1310,0.0460) (0.3127,0.3290), "
        "0.0001 to 1000.00 cd/m2"
    )


def test_numbered_pictures_of_it(
    hatvid: Callable[..., Any], script: Callable[..., Path], tmp_path: Path
) -> None:
    done = hatvid("upscale", script(form="RGB24", props=""), "-o", tmp_path / "a%03d.png")
    assert done.code == 0, done.err
    assert sorted(path.name for path in tmp_path.glob("*.png"))[0] == "a001.png"
    picture = np.asarray(Image.open(tmp_path / "a003.png"))
    for index in range(3):
        assert np.array_equal(picture[..., index], codes(2, index, 24, 32, 8))


def test_frames_last_as_long_as_they_say(
    hatvid: Callable[..., Any], script: Callable[..., Path], tmp_path: Path
) -> None:
    """The last one says nothing, and lasts as long as the one before."""
    lengths = "[(1001, 24000), (1, 25), (1, 10), (1, 1000), (1, 30), None]"
    end = f"""
def timed(n, f):
    frame = f.copy()
    length = {lengths}[n]
    if length:
        frame.props["_DurationNum"], frame.props["_DurationDen"] = length
    else:
        del frame.props["_DurationNum"], frame.props["_DurationDen"]
    return frame

clip.std.ModifyFrame(clip, timed).set_output()
"""
    path = script(end)
    done = hatvid("upscale", path, "-o", tmp_path / "out.mp4", "--encoder-option", "bf=0")
    assert done.code == 0, done.err
    steps = [Fraction(1001, 24000), Fraction(1, 25), Fraction(1, 10), Fraction(1, 1000)]
    steps.append(Fraction(1, 30))
    times = times_of(tmp_path / "out.mp4")
    assert times == [sum(steps[:n], Fraction(0)) for n in range(6)]
    with av.open(str(tmp_path / "out.mp4")) as container:
        video = container.streams.video[0]
        assert video.duration * video.time_base == sum(steps) + steps[-1]


def test_arguments_and_another_output(
    hatvid: Callable[..., Any], script: Callable[..., Path], tmp_path: Path
) -> None:
    end = "clip.set_output()\nclip[: int(count)].std.Expr(level).set_output(3)"
    path = script(end)
    done = hatvid(
        "upscale", path, "--arg", "count=2", "--arg", "level=77", "--output-index", "3",
        "--codec", "ffv1", "-o", tmp_path / "out.mkv",
    )  # fmt: skip
    assert done.code == 0, done.err
    frames = planes_of(tmp_path / "out.mkv")
    assert len(frames) == 2
    assert (frames[0][0] == 77).all()


# -- Upscaled. ----------------------------------------------------------------------------


def test_upscaled_it_is_as_a_file_of_its_frames(
    hatvid: Callable[..., Any], cheap: list[str], script: Callable[..., Path], tmp_path: Path
) -> None:
    path = script()
    assert hatvid("upscale", path, "--codec", "ffv1").code == 0
    for source in (path, path.with_suffix(".mkv")):
        output = tmp_path / f"{source.suffix[1:]}_out.mkv"
        done = hatvid(
            "upscale", *cheap, source, "--codec", "ffv1", "--verify", "none", "-o", output
        )
        assert done.code == 0, done.err
    mine, wanted = planes_of(tmp_path / "vpy_out.mkv"), planes_of(tmp_path / "mkv_out.mkv")
    assert len(mine) == len(wanted) == 6
    for planes, others in zip(mine, wanted, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(planes, others, strict=True))
        assert planes[0].shape == (48, 64)


# -- What goes beside it. -----------------------------------------------------------------


def test_streams_come_from_a_file(
    hatvid: Callable[..., Any],
    script: Callable[..., Path],
    make_clip: Callable[..., Path],
    tmp_path: Path,
) -> None:
    beside = make_clip(tmp_path / "beside.mkv", frames=6, rate=25, audio="flac")
    done = hatvid(
        "upscale", script(), "--streams-from", beside, "-o", tmp_path / "out.mkv", "--progress",
        "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    receipt = json.loads(done.out.splitlines()[-1])
    checks = {check["name"]: check for check in receipt["verification"]["checks"]}
    assert "SHA-256 and times equal" in checks["stream 1"]["text"]
    assert "frames" in checks
    sound = []
    for path in (beside, tmp_path / "out.mkv"):
        with av.open(str(path)) as container:
            sound.append([(p.pts, bytes(p)) for p in container.demux(audio=0) if p.size])
    assert sound[0] == sound[1]
    assert len(sound[0]) > 1


def test_the_first_frame_is_shown_when_that_of_the_file_is(
    hatvid: Callable[..., Any],
    script: Callable[..., Path],
    make_clip: Callable[..., Path],
    tmp_path: Path,
) -> None:
    beside = make_clip(tmp_path / "beside.ts", frames=6, rate=25, audio="mp2")
    done = hatvid("upscale", script(), "--streams-from", beside, "-o", tmp_path / "out.mkv")
    assert done.code == 0, done.err
    assert abs(times_of(tmp_path / "out.mkv")[0] - times_of(beside)[0]) <= Fraction(1, 1000)
    assert times_of(beside)[0] > Fraction(1, 200)


# -- Where its prints go. -----------------------------------------------------------------

TALKING = """
import os
print("said at once")
os.system("echo said by another")

def talk(n, f):
    print("said at frame", n)
    return f

clip.std.ModifyFrame(clip, talk).set_output()
"""


def test_prints_do_not_reach_a_pipe(
    program_environment: dict[str, str], script: Callable[..., Path]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatvid", "upscale", script(TALKING), "-o", "-"],
        capture_output=True,
        timeout=120,
        check=False,
        env=program_environment,
    )
    assert done.returncode == 0, done.stderr
    header, *frames = done.stdout.split(b"FRAME\n")
    assert header.startswith(b"YUV4MPEG2 W32 H24 F25:1 ")
    assert [len(frame) for frame in frames] == [32 * 24 * 3 // 2] * 6
    for words in (b"said at once", b"said by another", b"said at frame 5"):
        assert words in done.stderr


def test_prints_do_not_reach_json(hatvid: Callable[..., Any], script: Callable[..., Path]) -> None:
    done = hatvid("upscale", script(TALKING), "--progress", "json")
    assert done.code == 0, done.err
    events = [json.loads(line)["event"] for line in done.out.splitlines()]
    assert (events[-1], "said at frame 5" in done.err) == ("finished", True)


# -- What it is refused for. --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "sets no output; end it with clip.set_output"),
        ("import vapoursynth as vs\n\nclip = vs.core.std.Blank()", r"line 3: .*Blank"),
        ("1 +", "line 1: SyntaxError"),
        ("\nraise ValueError('two\\nlines')", "line 2: ValueError: two lines"),
        ("import sys\nsys.exit('enough')", r"line 2: it exits \(enough\)"),
        ("\n\nimport no_such_module", "line 3: ModuleNotFoundError"),
        (START + "core.std.BlankAudio().set_output()", "output 0 .* is sound"),
        (START + "core.std.BlankClip(format=vs.RGBS).set_output()", "is RGBS, .*YUV444P16"),
        (
            START + "a = core.std.BlankClip()\n"
            "core.std.Splice([a, a.std.CropRel(left=2)], mismatch=True).set_output()",
            "varies in format or size",
        ),
        (
            START + "def bad(n, f):\n    raise KeyError('gone')\n"
            "a = core.std.BlankClip()\na.std.ModifyFrame(a, bad).set_output()",
            "line 4: KeyError: 'gone'",
        ),
        (
            START + "core.std.BlankClip(format=vs.YUV420P8).std.SetFieldBased(1).set_output()",
            "frame 0 is interlaced",
        ),
        (
            START + "a = core.std.BlankClip()\na.set_output(alpha=a.std.ShufflePlanes(0, vs.GRAY)"
            "[:2])",
            "line 4: Alpha clip length must match",
        ),
    ],
)
def test_scripts_that_fail(
    hatvid: Callable[..., Any],
    refusal: Callable[..., None],
    tmp_path: Path,
    text: str,
    says: str,
) -> None:
    path = tmp_path / "bad.vpy"
    path.write_text(text)
    done = hatvid("upscale", path, "--progress", "none")
    refusal(done, code=1, says=says)
    assert sorted(tmp_path.iterdir()) == [path]
    assert not vs.get_outputs()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--output-index", "4"], 1, "no output 4; choose one of 0"),
        (["--output-index", "-1"], 2, "0 or more"),
        (["--arg", "a b=1"], 2, "'a b' is no name"),
        (["--start", "1"], 2, "cut in it"),
        (["--deinterlace", "frame"], 2, "says itself how"),
        (["--model", "hat-s-x4"], 2, "add --scale"),
        (["--streams-from", "none.mkv"], 1, "none.mkv: no such file"),
    ],
)
def test_options_that_do_not_go_with_it(
    hatvid: Callable[..., Any],
    refusal: Callable[..., None],
    script: Callable[..., Path],
    options: list[str],
    code: int,
    says: str,
) -> None:
    done = hatvid("upscale", script(), "--progress", "none", *options)
    refusal(done, code=code, says=says)


def test_options_of_scripts_are_for_scripts(
    hatvid: Callable[..., Any], refusal: Callable[..., None], clip: Path
) -> None:
    refusal(hatvid("upscale", clip, "--arg", "a=1"), code=2, says="for VapourSynth scripts")


@pytest.mark.parametrize("command", ["preview", "verify"])
def test_what_runs_no_script_says_so(
    hatvid: Callable[..., Any],
    refusal: Callable[..., None],
    clip: Path,
    tmp_path: Path,
    command: str,
) -> None:
    ran = tmp_path / "ran"
    path = tmp_path / "script.vpy"
    path.write_text(f"open({str(ran)!r}, 'w')")
    done = hatvid(command, path, *([clip] if command == "verify" else []))
    assert done.code == 1
    assert "is a VapourSynth script" in done.err + done.out
    assert not ran.exists()


def test_info_tells_what_would_be_done(
    hatvid: Callable[..., Any], script: Callable[..., Path]
) -> None:
    done = hatvid("info", script(form="YUV420P10", depth=10), "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["input"]["frames"], told["input"]["pix_fmt"]) == (6, "yuv420p10le")
    assert told["output"]["model"] == "none: the frames as they are"
