"""The sheet shows the right frames in the right colours, and is there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hatvid.errors import InputError, OptionError, OutputExistsError, UsageError
from hatvid.jobs.preview import Preview, preview
from hatvid.options import EngineOptions
from hatvid.selectors import TimePoint
from hatvid.upscaler import Upscaler

WIDTH, HEIGHT = 96, 64
BLUE = (48, 128, 192)


class RepeatPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture(scope="module")
def repeat() -> Iterator[Upscaler]:
    options = EngineOptions(engine="eager", threads=1)
    with Upscaler(RepeatPixels(), scale=2, engine_options=options, name="repeat") as upscaler:
        yield upscaler


def write(
    path: Path, pictures: list[NDArray[np.uint8]], *, pts: list[int] | None = None, turned: int = 0
) -> Path:
    """RGB pictures as BT.709 video, losslessly, 10 a second."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"qp": "0", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        context = stream.codec_context
        context.time_base = Fraction(1, 10)
        context.colorspace, context.color_range = 1, 1
        if turned:
            stream.set_display_rotation(turned)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
                format="yuv444p", dst_colorspace=1, dst_color_range=1
            )
            frame.pts, frame.time_base = (pts or range(99))[number], Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def flat(color: tuple[int, int, int]) -> NDArray[np.uint8]:
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:] = color
    return picture


def striped(number: int) -> NDArray[np.uint8]:
    """Stripes, and how bright they are tells the number."""
    picture = flat((20, 20, 20))
    picture[:, ::2] = 100 + 5 * number
    return picture


def sheet(drawn: Preview) -> NDArray[np.uint8]:
    with Image.open(drawn.sheet) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def panels(drawn: Preview, rows: int = 1) -> list[NDArray[np.uint8]]:
    """The picture panels of the first row: whole, bicubic, upscaled."""
    picture = sheet(drawn)[28 : 28 + 2 * HEIGHT]
    starts = (12, 12 + 320 + 12, 12 + 320 + 12 + 2 * WIDTH + 12)
    return [
        picture[: part[0], start : start + part[1]]
        for start, part in zip(
            starts, [(HEIGHT, WIDTH), *[(2 * HEIGHT, 2 * WIDTH)] * 2], strict=True
        )
    ]


def test_colours_are_those_that_the_tags_mean(repeat: Upscaler, tmp_path: Path) -> None:
    source = write(tmp_path / "in.mp4", [flat(BLUE)] * 3)
    drawn = preview(source, frames=1, upscaler=repeat)
    assert drawn.sheet == tmp_path / "in_preview.png"
    for panel in panels(drawn)[1:]:
        # BT.601's matrix would be off by 8 and more.
        assert np.abs(panel.astype(int) - BLUE).max() <= 1


def test_both_details_show_the_same_place_at_output_size(repeat: Upscaler, tmp_path: Path) -> None:
    picture = np.random.default_rng(3).integers(30, 220, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    drawn = preview(write(tmp_path / "in.mp4", [picture] * 3), frames=1, upscaler=repeat)
    whole, bicubic, larger = (panel.astype(int) for panel in panels(drawn))
    assert np.abs(larger - picture.repeat(2, 0).repeat(2, 1)).max() <= 2
    reference = Image.fromarray(picture).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC)
    # Pillow clips what overshoots after either pass, and rounds in between.
    assert np.abs(bicubic - np.asarray(reference).astype(int)).mean() < 1
    inside = np.abs(whole - picture)[2:-2, 2:-2]
    assert inside.max() <= 2
    assert (whole[0, 5:90] == (255, 64, 64)).all()  # the frame around the detail


def test_empty_frames_are_passed_over(repeat: Upscaler, tmp_path: Path) -> None:
    shown = [flat((0, 0, 0))] * 12 + [striped(number) for number in range(8)]
    drawn = preview(write(tmp_path / "in.mp4", shown), frames=1, upscaler=repeat)
    assert drawn.times == (1.5,)
    dark = preview(write(tmp_path / "dark.mp4", shown[:12]), frames=2, upscaler=repeat)
    assert len(dark.times) == 2


def test_frames_are_spread_and_counted(repeat: Upscaler, tmp_path: Path) -> None:
    source = write(tmp_path / "in.mp4", [striped(number) for number in range(20)])
    drawn = preview(source, frames=4, upscaler=repeat)
    # The middles of quarters of two seconds, or the first frame after each.
    assert drawn.times == (0.3, 0.8, 1.3, 1.8)
    assert drawn.frames == 20
    assert drawn.eta == 20 * drawn.seconds_per_frame
    assert drawn.seconds_per_frame > 0
    assert sheet(drawn).shape == (4 * (28 + 2 * HEIGHT + 12), 320 + 4 * WIDTH + 48, 3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "nut"])
def test_a_place_is_found_to_the_frame(repeat: Upscaler, tmp_path: Path, suffix: str) -> None:
    pts = [5, 6, 7, 9, 10, 14, 15, 16, 18, 20, 21, 22]
    source = write(tmp_path / f"in.{suffix}", [striped(n) for n in range(12)], pts=pts)
    for point, number in (("0", 0), ("7f", 7), ("0.9", 5), ("1.0", 6), ("99", 11)):
        drawn = preview(source, at=[TimePoint.parse(point)], upscaler=repeat, overwrite=True)
        assert abs(drawn.times[0] - (pts[number] - 5) / 10) < 0.001, point
        assert abs(int(panels(drawn)[2][10, 0, 0]) - (100 + 5 * number)) <= 2, point


def test_a_turned_video_is_shown_upright(repeat: Upscaler, tmp_path: Path) -> None:
    picture = flat((200, 40, 40))
    picture[:, WIDTH // 2 :] = (40, 40, 200)
    source = write(tmp_path / "in.mp4", [picture] * 2, turned=90)
    with av.open(str(source)) as container:
        turned = next(container.decode(video=0)).rotation
    drawn = preview(source, frames=1, upscaler=repeat)
    upper = sheet(drawn)[28 + 10, 12 + HEIGHT // 2]
    # Counter-clockwise brings the right side, which is blue, to the top.
    assert (upper[2] > upper[0]) == (turned == 90)
    assert abs(turned) == 90


def test_what_is_there_is_not_replaced(repeat: Upscaler, tmp_path: Path) -> None:
    source = write(tmp_path / "in.mp4", [striped(1)] * 2)
    target = tmp_path / "sheet.png"
    target.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        preview(source, target, upscaler=repeat)
    assert target.read_bytes() == b"mine"
    assert preview(source, target, upscaler=repeat, overwrite=True).sheet == target
    assert target.read_bytes().startswith(b"\x89PNG")


def broken(frames: Tensor) -> Tensor:
    raise RuntimeError("out of breath")


@pytest.mark.parametrize(
    ("name", "sheet_name", "error"),
    [
        ("none.mp4", "sheet.png", InputError),
        ("text.mp4", "sheet.png", InputError),
        ("in.mp4", "sheet.jpg", OptionError),
        ("in.mp4", "folder.png", OptionError),
        ("in.mp4", "nowhere/sheet.png", Exception),
    ],
)
def test_refusals_leave_nothing(
    repeat: Upscaler, tmp_path: Path, name: str, sheet_name: str, error: type[Exception]
) -> None:
    write(tmp_path / "in.mp4", [striped(1)] * 2)
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        preview(tmp_path / name, tmp_path / sheet_name, upscaler=repeat)
    with pytest.raises(UsageError):
        preview(tmp_path / "in.mp4", tmp_path / "s.png", frames=0, upscaler=repeat)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_while_computing_leaves_nothing(
    repeat: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in.mp4", [striped(1)] * 2)
    breaking: Callable[..., Tensor] = lambda self, frames: broken(frames)  # noqa: E731
    monkeypatch.setattr(Upscaler, "__call__", breaking)
    with pytest.raises(RuntimeError, match="breath"):
        preview(source, upscaler=repeat)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
