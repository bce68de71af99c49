"""A few frames as they are and as they would be, on one sheet, and how long all would take."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from hatvid.errors import InputError, OptionError, OutputExistsError
from hatvid.jobs.partial import PartialFile
from hatvid.options import DEFAULT_MODEL, EngineOptions, InputOptions, TileOptions
from hatvid.selectors import StreamSpecifier, TimePoint
from hatvid.upscaler import Description, Upscaler
from hatvid.video.samples import Sample, Samples

__all__ = ["Preview", "preview"]

# Of each half of a comparison, and of the whole picture beside it, in pixels of the sheet.
_DETAIL = (640, 480)
_WHOLE = (320, 480)
_GAP = 12
_TEXT = 16
_PAPER, _INK, _MARK = (24, 24, 24), (235, 235, 235), (255, 64, 64)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What was drawn, and what was measured on the way.

    Args:
        sheet: the PNG file.
        times: of the frames shown, in seconds after the first frame.
        description: of the engine that ran.
        seconds_per_frame: the median over the frames shown; upscaling alone.
        frames: in the whole video, as far as the file tells.
    """

    sheet: Path
    times: tuple[float, ...]
    description: Description
    seconds_per_frame: float
    frames: int | None

    @property
    def eta(self) -> float | None:
        """Seconds that the whole video would take, an estimate; None if nobody knows."""
        return None if self.frames is None else self.frames * self.seconds_per_frame


def preview(
    input: str | Path,  # noqa: A002 - the name that users know
    sheet: str | Path | None = None,
    *,
    frames: int = 4,
    at: Sequence[TimePoint] = (),
    scale: int = 4,
    model: str = DEFAULT_MODEL,
    engine: EngineOptions | None = None,
    tile: TileOptions | None = None,
    reading: InputOptions | None = None,
    streams: Sequence[StreamSpecifier] = (),
    overwrite: bool = False,
    upscaler: Upscaler | None = None,
) -> Preview:
    """Draw sample frames, bicubic beside upscaled, as one PNG.

    Args:
        input: a video file.
        sheet: None writes ``NAME_preview.png`` beside the input.
        frames: how many, spread over the video, empty ones passed over.
        at: these in place of spread ones.
        upscaler: used in place of the one that ``model`` and the engine options
            describe, at its own scale. It stays open.

    Raises:
        HatvidError: see :mod:`hatvid.errors`; nothing lies under the sheet's name then.
    """
    source = Path(input)
    target = source.with_name(f"{source.stem}_preview.png") if sheet is None else Path(sheet)
    _check_target(source, target, overwrite=overwrite)
    if frames < 1:
        raise OptionError(f"frames is {frames}; it must be at least 1")
    samples = Samples(source, reading=reading, streams=streams)
    shown = [samples.at(point) for point in at] or samples.spread(frames)
    with PartialFile(target, overwrite=overwrite) as partial:
        if upscaler is not None:
            rows, description, seconds = _rows(shown, upscaler)
        else:
            engine, tile = engine or EngineOptions(), tile or TileOptions()
            with Upscaler.from_checkpoint(
                model,
                scale=scale,
                engine=engine.engine,
                precision=engine.precision,
                device=engine.device,
                threads=engine.threads,
                streams=1 if engine.streams == "auto" else engine.streams,
                compiled=engine.compiled,
                tile=tile.tile,
                overlap=tile.overlap,
                batch=tile.batch,
                reuse="off",  # the time is to hold for any frame
            ) as own:
                rows, description, seconds = _rows(shown, own)
        _stacked(rows).save(partial.file, format="PNG")
        partial.seal()
        partial.publish()
    return Preview(
        sheet=target,
        times=tuple(sample.seconds for sample in shown),
        description=description,
        seconds_per_frame=seconds,
        frames=samples.frames,
    )


def _check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    if target.suffix.lower() != ".png":
        raise OptionError(f"{target.name}: the sheet is a PNG file; give it a name in .png")
    if not os.path.lexists(target):
        return
    if target.is_dir():
        raise OptionError(f"{target} is a folder; give the sheet a file name")
    if target.exists() and source.exists() and target.samefile(source):
        raise OptionError(f"{target} is the input itself; give the sheet another name with -o")
    if not overwrite:
        raise OutputExistsError(f"{target} exists; use --overwrite to replace it, or -o to rename")


def _rows(
    shown: Sequence[Sample], upscaler: Upscaler
) -> tuple[list[Image.Image], Description, float]:
    """A picture for each sample, and seconds a frame."""
    height, width = shown[0].rgb.shape[2:]
    # Compiling the network is no part of the frame rate.
    description = upscaler.warm_up(height, width)
    rows, seconds = [], []
    for sample in shown:
        if sample.rgb.shape[2:] != (height, width):
            raise InputError(
                f"the picture size changes from {width}x{height} at {sample.seconds:.3f} s; "
                "choose times of one size with --at"
            )
        began = time.monotonic()
        larger = upscaler(sample.rgb).cpu()
        seconds.append(time.monotonic() - began)
        rows.append(_row(sample, larger, description))
    return rows, description, median(seconds)


def _row(sample: Sample, larger: Tensor, facts: Description) -> Image.Image:
    """The whole frame, and beside it a detail of it, bicubic and upscaled."""
    turns = round(sample.rotation / 90) % 4
    rgb, larger = (torch.rot90(picture, turns, (2, 3)) for picture in (sample.rgb, larger))
    scale = facts.scale
    bicubic = interpolate(rgb, scale_factor=scale, mode="bicubic", antialias=True)
    top, left, height, width = _detail(rgb, scale)
    inside = (
        ...,
        slice(top * scale, (top + height) * scale),
        slice(left * scale, (left + width) * scale),
    )
    whole = _image(rgb)
    whole.thumbnail(_WHOLE)
    ratio = whole.width / rgb.shape[3]
    corners = (left, top, left + width - 1 / ratio, top + height - 1 / ratio)
    ImageDraw.Draw(whole).rectangle([round(c * ratio) for c in corners], outline=_MARK)
    panels = [
        (f"{_clock(sample.seconds)}", whole),
        (f"bicubic x{scale}", _image(bicubic[inside])),
        (f"{facts.model} (x{scale}, {facts.engine} {facts.precision})", _image(larger[inside])),
    ]
    line = _TEXT + _GAP
    columns = [_WHOLE[0], width * scale, width * scale]
    row = Image.new(
        "RGB",
        (sum(columns) + _GAP * 4, line + max(panel.height for _, panel in panels) + _GAP),
        _PAPER,
    )
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(_TEXT)
    at = _GAP
    for (label, panel), column in zip(panels, columns, strict=True):
        draw.text((at, _GAP // 2), _fitting(label, draw, font, column), _INK, font)
        row.paste(panel, (at, line))
        at += column + _GAP
    return row


def _fitting(
    label: str,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    while len(label) > 1 and draw.textlength(label, font) > width:
        label = label[:-2] + "…"
    return label


def _detail(rgb: Tensor, scale: int) -> tuple[int, int, int, int]:
    """(top, left, height, width), in pixels of the input, of where there is most to see."""
    height = min(rgb.shape[2], _DETAIL[1] // scale)
    width = min(rgb.shape[3], _DETAIL[0] // scale)
    luma = rgb.mean(1, keepdim=True)
    edges = torch.zeros_like(luma)
    edges[..., 1:, :] += luma.diff(dim=2).abs()
    edges[..., :, 1:] += luma.diff(dim=3).abs()
    found = int(avg_pool2d(edges, (height, width), stride=1).flatten().argmax())
    columns = rgb.shape[3] - width + 1
    return found // columns, found % columns, height, width


def _image(rgb: Tensor) -> Image.Image:
    codes = (rgb[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(codes.permute(1, 2, 0).numpy())


def _stacked(rows: Sequence[Image.Image]) -> Image.Image:
    size = (max(row.width for row in rows), sum(row.height for row in rows))
    sheet = Image.new("RGB", size, _PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02}:{minutes:02}:{rest:06.3f}"
