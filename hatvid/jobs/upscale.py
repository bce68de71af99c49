"""``hatvid.upscale``: a whole job in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

from hatvid.jobs.job import plan_job
from hatvid.jobs.progress import Progress
from hatvid.jobs.receipt import Receipt, ShardReceipt
from hatvid.jobs.run import run_job
from hatvid.jobs.stills import PictureReceipt
from hatvid.options import (
    DEFAULT_MODEL,
    ColorOptions,
    EncodeOptions,
    EngineName,
    EngineOptions,
    InputOptions,
    JobOptions,
    Precision,
    ReuseMode,
    ReuseOptions,
    ScriptOptions,
    SizeOptions,
    StreamOptions,
    TileOptions,
)
from hatvid.segment_options import SegmentOptions
from hatvid.selectors import StreamSpecifier, TimePoint
from hatvid.upscaler import Upscaler

__all__ = ["upscale"]


def upscale(
    input: str | Path,  # noqa: A002 - the name that users know
    output: str | Path | None = None,
    *,
    scale: int | None = None,
    width: int | None = None,
    height: int | None = None,
    model: str = DEFAULT_MODEL,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    device: str = "auto",
    threads: int | None = None,
    streams: int | Literal["auto"] = "auto",
    compiled: bool = False,
    tile: int | Literal["auto"] = "auto",
    overlap: int | Literal["auto"] = "auto",
    batch: int | Literal["auto"] = "auto",
    reuse: ReuseMode = "auto",
    reuse_memory: int | None = None,
    codec: str | None = None,
    crf: float | None = None,
    lossless: bool = False,
    preset: str | None = None,
    pix_fmt: str | None = None,
    encoder_options: Mapping[str, str] | None = None,
    odd: Literal["refuse", "pad"] = "refuse",
    format: str | None = None,  # noqa: A002
    audio: bool = True,
    subtitles: bool = True,
    map: Sequence[str] = (),  # noqa: A002
    start: str | None = None,
    end: str | None = None,
    deinterlace: Literal["frame", "field"] | None = None,
    progressive: bool = False,
    framerate: Fraction | None = None,
    in_matrix: str | None = None,
    in_primaries: str | None = None,
    in_transfer: str | None = None,
    in_range: str | None = None,
    in_chromaloc: str | None = None,
    hwaccel: str | None = None,
    strict: bool = False,
    args: Mapping[str, str] | None = None,
    output_index: int = 0,
    streams_from: str | Path | None = None,
    segment: float | None = None,
    restart: bool = False,
    per_segment: bool = False,
    workers: int | tuple[str, ...] | None = None,
    cluster: str | None = None,
    mixed: bool = False,
    shard: tuple[int, int] | None = None,
    overwrite: bool = False,
    verify: Literal["full", "quick", "none"] = "full",
    progress: Progress | None = None,
    upscaler: Upscaler | None = None,
) -> Receipt | PictureReceipt | ShardReceipt:
    """Upscale one video, or pictures, as ``hatvid upscale`` does.

    Args:
        input: a video file, a picture, numbered pictures, or a VapourSynth script, which is
            run; ``-`` is standard input.
        output: None writes ``NAME_x4.EXT`` beside the input.
        scale: None is 4, or what ``width`` and ``height`` need; a script's frames are then
            left as they are.
        map: stream specifiers as on the command line: ``v:0``, ``a``, ``s:m:language:eng``.
        start: a time as on the command line: ``12.5``, ``00:00:12.5`` or ``300f``.
        end: likewise; the first frame that is left out.
        in_matrix: the input's matrix by FFmpeg's name, whatever it says itself; likewise
            primaries, transfer, range (``limited``, ``full``) and chroma location.
        args: global names that a VapourSynth script finds.
        output_index: which output of a script.
        streams_from: a file whose sound, subtitles, chapters and tags go beside a script's
            frames.
        segment: seconds of the parts that are kept once done, 0 for none; likewise
            ``restart``, ``per_segment``, ``workers``, ``cluster``, ``mixed``, ``shard`` (k, n), see
            :class:`~hatvid.segment_options.SegmentOptions`.
        progress: told what happens.
        upscaler: runs the frames in place of the one that ``model`` and the engine
            options describe, at its own scale. It stays open.

    The other arguments are those of :mod:`hatvid.options`.

    Returns:
        What was done; shorter accounts where pictures became pictures, or a shard was done.

    Raises:
        HatvidError: see :mod:`hatvid.errors`; nothing lies under the output's name then.
    """
    options = JobOptions(
        input=Path(input),
        output=None if output is None else Path(output),
        scale=scale if upscaler is None else upscaler.scale,
        model=model,
        engine=EngineOptions(
            engine=engine,
            precision=precision,
            device=device,
            threads=threads,
            streams=streams,
            compiled=compiled,
        ),
        tile=TileOptions(tile=tile, overlap=overlap, batch=batch),
        reuse=ReuseOptions(mode=reuse, memory=reuse_memory),
        encode=EncodeOptions(
            codec=codec,
            crf=crf,
            lossless=lossless,
            preset=preset,
            pix_fmt=pix_fmt,
            encoder_options=dict(encoder_options or {}),
            odd=odd,
        ),
        reading=InputOptions(
            framerate=framerate,
            colors=ColorOptions.named(
                matrix=in_matrix,
                primaries=in_primaries,
                transfer=in_transfer,
                extent=in_range,
                chroma_location=in_chromaloc,
            ),
            deinterlace=deinterlace,
            progressive=progressive,
            hwaccel=hwaccel,
            strict=strict,
        ),
        size=SizeOptions(width=width, height=height),
        streams=StreamOptions(
            audio=audio,
            subtitles=subtitles,
            map=tuple(StreamSpecifier.parse(text) for text in map),
        ),
        script=ScriptOptions(
            args=dict(args or {}),
            output_index=output_index,
            streams_from=None if streams_from is None else Path(streams_from),
        ),
        segments=SegmentOptions(
            length=segment,
            restart=restart,
            per_segment=per_segment,
            workers=workers,
            cluster=cluster,
            mixed=mixed,
            shard=shard,
        ),
        format=format,
        start=None if start is None else TimePoint.parse(start),
        end=None if end is None else TimePoint.parse(end),
        overwrite=overwrite,
        verify=verify,
    )
    job = plan_job(options, own_upscaler=upscaler is not None)
    return run_job(job, progress=progress, upscaler=upscaler)
