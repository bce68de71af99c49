"""Colour tags, HDR, shape, rotation, fields, odd sizes and alpha through whole jobs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pyav_cli import WEAVE

import hatvid

FAST = ("-preset", "ultrafast")
QUIET = "log-level=error"
COLOURS = ("color_space", "color_range", "color_primaries", "color_transfer", "chroma_location")

Video = Callable[[Path], dict[str, Any]]
Run = Callable[..., None]


def noise(size: str = "64x48", frames: int = 5, rate: str = "25") -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}", "-frames:v", str(frames))


def colours(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found.get(name) for name in COLOURS}


def side_data(found: dict[str, Any], kind: str) -> dict[str, Any]:
    """By kind, from the stream or from its first frame."""
    both = [*found.get("side_data_list", []), *found["first"].get("side_data_list", [])]
    matching = [entry for entry in both if entry["side_data_type"].startswith(kind)]
    assert matching, f"no {kind} in {both}"
    return {key: value for key, value in matching[0].items() if key != "side_data_type"}


PQ = (
    *("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc"),
    *("-color_range", "tv", "-pix_fmt", "yuv420p10le"),
)
MASTERING = "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1)"


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_hdr10(
    codec: str, repeat: hatvid.Upscaler, pyav: Run, video_of: Video, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    parameters = f"hdr10=1:master-display={MASTERING}:max-cll=1000,400:{QUIET}"
    pyav(*noise(), "-c:v", "libx265", *FAST, *PQ, "-x265-params", parameters, source)
    receipt = hatvid.upscale(source, output, upscaler=repeat, codec=codec)
    before, after = video_of(source), video_of(output)
    assert colours(after) == colours(before)
    assert after["color_transfer"] == "smpte2084"
    assert after["pix_fmt"] == "yuv420p10le"

    def display(found: dict[str, Any]) -> dict[str, float]:
        mastering = side_data(found, "Mastering display")
        return {name: float(Fraction(value)) for name, value in mastering.items()}

    # AV1 keeps chromaticities in steps of 1/65536 and luminance in 1/256 and 1/16384.
    assert display(after) == pytest.approx(display(before), abs=2**-14)
    light = side_data(before, "Content light level")
    assert side_data(after, "Content light level") == light
    assert light["max_content"] == 1000
    assert not any("mastering" in note for note in receipt.notes)


def test_hdr10_in_an_encoder_that_cannot_carry_it(
    repeat: hatvid.Upscaler, pyav: Run, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    parameters = f"hdr10=1:master-display={MASTERING}:max-cll=1000,400:{QUIET}"
    pyav(*noise(), "-c:v", "libx265", *FAST, *PQ, "-x265-params", parameters, source)
    receipt = hatvid.upscale(source, output, upscaler=repeat, codec="ffv1")
    assert any("mastering display" in note and "libx265" in note for note in receipt.notes)


def test_hlg(repeat: hatvid.Upscaler, pyav: Run, video_of: Video, tmp_path: Path) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    hlg = [*PQ]
    hlg[3] = "arib-std-b67"
    pyav(*noise(), "-c:v", "libx265", *FAST, *hlg, "-x265-params", QUIET, source)
    hatvid.upscale(source, output, upscaler=repeat)
    before, after = video_of(source), video_of(output)
    assert colours(after) == colours(before)
    assert after["color_transfer"] == "arib-std-b67"
    assert after["pix_fmt"] == "yuv420p10le"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_rotated(
    suffix: str, repeat: hatvid.Upscaler, pyav: Run, video_of: Video, tmp_path: Path
) -> None:
    flat, source, output = tmp_path / "flat.mp4", tmp_path / "in.mp4", tmp_path / f"out{suffix}"
    pyav(*noise(), "-c:v", "libx264", *FAST, "-pix_fmt", "yuv420p", flat)
    with av.open(str(flat)) as given, av.open(str(source), "w") as turned:
        twin = turned.add_stream_from_template(given.streams.video[0])
        twin.set_display_rotation(90)
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = twin
                turned.mux(packet)
    hatvid.upscale(source, output, upscaler=repeat)
    before, after = video_of(source), video_of(output)
    assert (after["width"], after["height"]) == (128, 96)
    if suffix == ".mkv":
        # Debian's ffprobe is older than Matroska's rotation; PyAV's FFmpeg reads it.
        with av.open(str(output)) as container:
            assert abs(next(container.decode(video=0)).rotation) == 90
        return
    assert side_data(after, "Display Matrix") == side_data(before, "Display Matrix")
    assert side_data(before, "Display Matrix")["rotation"] == 90


PAL = [
    (".mp4", "libx264"),
    (".mkv", "libx264"),
    (".mkv", "ffv1"),
    (".mkv", "libvpx-vp9"),
    (".webm", "libvpx-vp9"),
    (".mov", "prores_ks"),
    (".mkv", "prores_ks"),
    (".y4m", None),
    (".nut", "ffv1"),
]


@pytest.mark.parametrize(("suffix", "codec"), PAL)
def test_the_shape_of_pal_widescreen(
    suffix: str,
    codec: str | None,
    repeat: hatvid.Upscaler,
    pyav: Run,
    video_of: Video,
    tmp_path: Path,
) -> None:
    """Users of REAL-Video-Enhancer ask for anamorphic video that keeps its shape."""
    source, output = tmp_path / "in.mp4", tmp_path / f"out{suffix}"
    pyav(
        *noise("720x576", 2), "-vf", "setsar=16/15", "-c:v", "libx264", *FAST,
        "-pix_fmt", "yuv420p", source,
    )  # fmt: skip
    hatvid.upscale(source, output, upscaler=repeat, codec=codec)
    found = video_of(output)
    assert (found["width"], found["height"]) == (1440, 1152)
    assert found["sample_aspect_ratio"] == "16:15"


def interlaced(pyav: Run, path: Path) -> Path:
    pyav(
        *("-f", "lavfi", "-i", "testsrc2=s=96x64:r=50", "-frames:v", "20"),
        *("-vf", WEAVE["top first"] + ",setpts=N/25/TB", "-r", "25", "-c:v", "libx264", *FAST),
        *("-flags", "+ilme+ildct", "-x264-params", "tff=1", "-pix_fmt", "yuv420p", path),
    )
    return path


def test_interlaced_video_stops_with_a_choice(
    repeat: hatvid.Upscaler, pyav: Run, tmp_path: Path
) -> None:
    """video2x and VideoJaNai upscale woven fields as if they were pictures."""
    source = interlaced(pyav, tmp_path / "in.mp4")
    with pytest.raises(hatvid.HatvidError, match=r"--deinterlace .*--progressive"):
        hatvid.upscale(source, tmp_path / "out.mp4", upscaler=repeat)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(("mode", "many"), [("frame", 1), ("field", 2), (None, 1)])
def test_interlaced_video_by_choice(
    mode: Any, many: int, repeat: hatvid.Upscaler, pyav: Run, times: Any, tmp_path: Path
) -> None:
    source = interlaced(pyav, tmp_path / "in.mp4")
    output = tmp_path / "out.mp4"
    receipt = hatvid.upscale(
        source, output, upscaler=repeat, deinterlace=mode, progressive=mode is None
    )
    before, after = times(source), times(output)
    assert receipt.frames == len(after) == many * len(before)
    assert [pts for pts, _ in after][::many] == [pts for pts, _ in before]
    if many == 2:
        half = before[0][1] / 2
        assert [pts for pts, _ in after][1::2] == [pts + half for pts, _ in before]


@pytest.mark.parametrize("size", ["63x48", "64x47", "63x47"])
def test_an_odd_size_doubles_exactly(
    size: str, repeat: hatvid.Upscaler, pyav: Run, video_of: Video, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    # The pattern itself has even sides in 4:2:0.
    pyav(
        *noise(), "-vf", f"format=yuv444p,scale={size.replace('x', ':')}", "-c:v", "ffv1",
        "-pix_fmt", "yuv420p", source,
    )  # fmt: skip
    hatvid.upscale(source, output, upscaler=repeat)
    found = video_of(output)
    assert f"{found['width'] // 2}x{found['height'] // 2}" == size


def test_an_odd_output_is_refused_or_padded(
    repeat: hatvid.Upscaler, pyav: Run, video_of: Video, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    pyav(*noise(), "-c:v", "libx264", *FAST, "-pix_fmt", "yuv420p", source)
    with pytest.raises(hatvid.HatvidError, match="--odd pad"):
        hatvid.upscale(source, output, upscaler=repeat, width=101, height=75)
    assert not output.exists()
    receipt = hatvid.upscale(source, output, upscaler=repeat, width=101, height=75, odd="pad")
    found = video_of(output)
    assert (found["width"], found["height"]) == (102, 76)
    assert any("padded" in note for note in receipt.notes)
    hatvid.upscale(
        source, output, upscaler=repeat, width=101, height=75, pix_fmt="yuv444p", overwrite=True
    )
    found = video_of(output)
    assert (found["width"], found["height"]) == (101, 75)


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt", "kept"),
    [
        (".mkv", "ffv1", "gray", "gray"),
        (".mkv", "ffv1", "gray10le", "gray10le"),
        (".mp4", "libx264", "yuv444p", "yuv444p"),
        (".mp4", "libx264", "yuv422p10le", "yuv422p10le"),
        (".mkv", "ffv1", "yuv420p12le", "yuv420p12le"),
        (".mkv", "ffv1", "bgr0", "bgr0"),
        (".mkv", "ffv1", "gbrp10le", "gbrp10le"),
        (".mkv", "ffv1", "yuva420p", "yuva420p"),
        # ProRes 4444 is decoded as 12 bit, however it was made.
        (".mov", "prores_ks", "yuva444p10le", "yuva444p12le"),
    ],
)
def test_depth_chroma_and_alpha_stay(
    suffix: str,
    codec: str,
    pix_fmt: str,
    kept: str,
    repeat: hatvid.Upscaler,
    pyav: Run,
    video_of: Video,
    tmp_path: Path,
) -> None:
    source, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    pyav(*noise(), "-c:v", codec, "-pix_fmt", pix_fmt, source)
    hatvid.upscale(source, output, upscaler=repeat, codec=codec)
    assert video_of(output)["pix_fmt"] == kept


def test_alpha_is_upscaled_beside_the_colours(
    repeat: hatvid.Upscaler, pyav: Run, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    pyav(
        *noise(), "-vf", "format=yuva420p,geq=lum='lum(X,Y)':a='mod(X*3+Y*5,256)'",
        "-c:v", "ffv1", source,
    )  # fmt: skip
    hatvid.upscale(source, output, upscaler=repeat, codec="ffv1")

    def alpha(path: Path) -> np.ndarray[Any, Any]:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            plane = frame.planes[3]
            rows = np.frombuffer(plane, np.uint8).reshape(frame.height, -1)
            return rows[:, : frame.width].copy()

    before = alpha(source)
    assert np.ptp(before) > 200
    np.testing.assert_array_equal(alpha(output), before.repeat(2, 0).repeat(2, 1))


def test_alpha_that_the_encoder_cannot_hold_is_said(
    repeat: hatvid.Upscaler, pyav: Run, tmp_path: Path
) -> None:
    source = tmp_path / "in.mkv"
    pyav(*noise(), "-c:v", "ffv1", "-pix_fmt", "yuva420p", source)
    receipt = hatvid.upscale(source, tmp_path / "out.mp4", upscaler=repeat)
    assert any("alpha" in note for note in receipt.notes)


@pytest.mark.parametrize(
    ("size", "matrix"),
    [("64x48", "smpte170m"), ("64x500", "bt470bg"), ("64x578", "bt709"), ("1280x48", "bt709")],
)
def test_an_untagged_video_leaves_tagged(
    size: str, matrix: str, repeat: hatvid.Upscaler, pyav: Run, video_of: Video, tmp_path: Path
) -> None:
    """Users of video2x, chaiNNer and REAL-Video-Enhancer report colours that shift: an untagged
    small video is read with one matrix and, larger, played with another."""
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    pyav(*noise(size, 1), "-c:v", "libx264", *FAST, "-pix_fmt", "yuv420p", source)
    assert "color_space" not in video_of(source)
    receipt = hatvid.upscale(source, output, upscaler=repeat)
    found = video_of(output)
    assert (found["color_space"], found["color_range"]) == (matrix, "tv")
    assert any(f"unspecified -> {matrix}" in note for note in receipt.notes)


def test_what_the_input_says_can_be_overruled(
    repeat: hatvid.Upscaler, pyav: Run, video_of: Video, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    pyav(
        *noise(), "-c:v", "libx264", *FAST, "-pix_fmt", "yuv420p", "-colorspace", "bt709",
        "-color_range", "tv", source,
    )  # fmt: skip
    hatvid.upscale(source, output, upscaler=repeat, in_matrix="smpte170m", in_range="full")
    found = video_of(output)
    assert (found["color_space"], found["color_range"]) == ("smpte170m", "pc")


@pytest.mark.parametrize(
    ("asked", "expected", "aspect"),
    [
        ({"height": 120}, (160, 120), "1:1"),
        ({"width": 300}, (300, 224), "224:225"),
        ({"width": 200, "height": 100}, (200, 100), "2:3"),
    ],
)
def test_a_size_of_its_own(
    asked: dict[str, int],
    expected: tuple[int, int],
    aspect: str,
    repeat: hatvid.Upscaler,
    pyav: Run,
    video_of: Video,
    tmp_path: Path,
) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    pyav(*noise(), "-c:v", "libx264", *FAST, "-pix_fmt", "yuv420p", source)
    hatvid.upscale(source, output, upscaler=repeat, **asked)  # type: ignore[arg-type]
    found = video_of(output)
    assert (found["width"], found["height"]) == expected
    shape = Fraction(found["sample_aspect_ratio"].replace(":", "/")) * Fraction(*expected)
    assert shape == Fraction(4, 3)
    assert Fraction(found["sample_aspect_ratio"].replace(":", "/")) == Fraction(
        aspect.replace(":", "/")
    )
