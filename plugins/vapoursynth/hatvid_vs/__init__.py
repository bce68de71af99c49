"""HAT as a VapourSynth filter.

::

    from hatvid_vs import upscale

    clip = upscale(clip, scale=4)

Where vs-mlrt's OpenVINO plugin is installed too, import this before ``vs.core`` is used:
the plugin brings an OpenVINO library of its own, and of two the first one that is loaded
serves all. The plugin takes hatvid's; hatvid refuses the plugin's, and runs in PyTorch.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Literal

import vapoursynth as vs

from hatvid.codepoints import CHROMA_LOCATIONS, MATRICES, RANGES
from hatvid.errors import HatvidError, OptionError
from hatvid.jobs.scales import own_scale, scale_reaching
from hatvid.model.zoo import resolve_model
from hatvid.options import (
    DEFAULT_MODEL,
    ColorOptions,
    EngineName,
    EngineOptions,
    Precision,
    ReuseMode,
    ReuseOptions,
    SizeOptions,
    TileOptions,
)
from hatvid.video.resize import target_size
from hatvid.video.vs_frames import layout_of
from hatvid_vs.loading import upscaler_for
from hatvid_vs.nodes import enlarged, labelled
from hatvid_vs.pictures import Enlarger, Reading, Shape

__all__ = ["upscale"]

# See above: before the core loads its plugins.
with suppress(ImportError, OSError):
    importlib.import_module("hatvid.engine.openvino")

_FLOATS = (vs.RGBS, vs.RGBH)
_MOST_STREAMS = 32


def upscale(
    clip: vs.VideoNode,
    *,
    scale: int | None = None,
    width: int | None = None,
    height: int | None = None,
    model: str = DEFAULT_MODEL,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    tile: int | Literal["auto"] = "auto",
    overlap: int | Literal["auto"] = "auto",
    batch: int | Literal["auto"] = "auto",
    device: str = "auto",
    threads: int | None = None,
    num_streams: int = 1,
    reuse: ReuseMode = "auto",
    reuse_memory: int | None = None,
    matrix_in_s: str | None = None,
    range_in_s: str | None = None,
    chromaloc_in_s: str | None = None,
) -> vs.VideoNode:
    """Make a clip larger with HAT: the pixels of the command line.

    RGB of any kind is taken as it is. YUV and GRAY of 8 to 16 bits are read by their
    frames' ``_Matrix``, ``_Range`` and ``_ChromaLocation``, as ``hatvid upscale`` reads a
    video, and written likewise; what is not said is assumed by the command line's rule,
    told once, and tagged.

    Args:
        clip: of constant format and size.
        scale: what comes out; a larger model is reduced to it. None is the model's, 4, or
            what ``width`` and ``height`` need.
        width: of the output, by an antialiased bicubic behind the model; alone it keeps
            the aspect.
        height: likewise.
        model: a known name, the path of a checkpoint, or ``auto``: the embedded model
            of that scale.
        engine: see :class:`hatvid.options.EngineOptions`, as ``precision``, ``device``
            and ``threads``.
        precision: what the network computes in.
        tile: see :class:`hatvid.options.TileOptions`, as ``overlap`` and ``batch``.
        overlap: input pixels that neighbouring tiles share.
        batch: tiles in one call of the engine; of frames that are one tile, as many are
            computed at once.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads for the network.
        num_streams: batches on their way at once: one is read and written while another
            is in the network.
        reuse: see :class:`hatvid.options.ReuseOptions`: whether a tile of the same bytes as
            one before takes its result, whatever the order of requests.
        reuse_memory: MiB for what is kept.
        matrix_in_s: what the clip's matrix is, whatever its frames say: ``709``,
            ``170m``, ``470bg``, ``2020ncl`` and the like.
        range_in_s: likewise: ``limited`` or ``full``.
        chromaloc_in_s: likewise: ``left``, ``center``, ``topleft`` and the like.

    Returns:
        The clip in the same format, with the same times and frame properties, but for
        ``_SARNum`` and ``_SARDen`` where the aspect changes, the colours that were
        assumed, and ``_Alpha``, which is left out. RGB in floating point is not clamped.

    Raises:
        vapoursynth.Error: the clip or an option does not fit; the text begins with
            ``hatvid:``.
    """
    try:
        return _upscaled(
            clip,
            scale=scale,
            size=SizeOptions(width=width, height=height),
            model=model,
            engine=EngineOptions(
                engine=engine,
                precision=precision,
                device=device,
                threads=threads,
                streams="auto",
            ),
            tile=TileOptions(tile=tile, overlap=overlap, batch=batch),
            reuse=ReuseOptions(mode=reuse, memory=reuse_memory),
            streams=num_streams,
            colors=_colors(matrix_in_s, range_in_s, chromaloc_in_s),
        )
    except HatvidError as error:
        raise vs.Error(f"hatvid: {error}") from error


def _upscaled(
    clip: vs.VideoNode,
    *,
    scale: int | None,
    size: SizeOptions,
    model: str,
    engine: EngineOptions,
    tile: TileOptions,
    reuse: ReuseOptions,
    streams: int,
    colors: ColorOptions,
) -> vs.VideoNode:
    _check(clip)
    if scale not in (None, 2, 3, 4):
        raise OptionError(f"scale is {scale}; choose 2, 3 or 4")
    if not 1 <= streams <= _MOST_STREAMS:
        raise OptionError(f"num_streams is {streams}; choose 1 to {_MOST_STREAMS}")
    sized = size != SizeOptions()
    if scale is None and model != DEFAULT_MODEL:
        scale = own_scale(model)
    elif scale is None:
        scale = scale_reaching(size, clip.width, clip.height) if sized else 4
    before = clip.width, clip.height
    after = _target(clip, scale, size)
    upscaler = upscaler_for(
        clip.height,
        clip.width,
        model=model,
        # Resampled once, from all that the network gives, to a size asked for.
        scale=resolve_model(model, scale).scale if sized else scale,
        engine=engine,
        tile=tile,
        reuse=reuse,
        ahead=clip.num_frames,
    )
    facts = upscaler.describe(clip.height, clip.width)
    layout = layout_of(clip.format)
    reading = None
    if layout is not None:
        reading = Reading(layout, clip.height, clip.width, colors=colors, say=_say)
    # As many as fill the engine's batch.
    batch = min(max(1, facts.batch // facts.tiles), clip.num_frames)
    larger = enlarged(
        clip,
        Enlarger(upscaler, layout, height=after[1], width=after[0]),
        reading,
        width=after[0],
        height=after[1],
        batch=batch,
        streams=streams,
    )
    return labelled(larger, clip, Shape(before, after, reading), batch=batch)


def _check(clip: vs.VideoNode) -> None:
    form = clip.format
    if form is None or form.color_family == vs.UNDEFINED or not clip.width or not clip.height:
        raise OptionError("the clip's format or size varies; make it constant by resize first")
    if form.id in _FLOATS or layout_of(form) is not None:
        return
    kind = {vs.YUV: "YUV444P16", vs.GRAY: "GRAY16", vs.RGB: "RGBS"}[form.color_family]
    raise OptionError(
        f"the clip is {form.name}, of which there is no reading here; convert it first: "
        f"clip.resize.Bicubic(format=vs.{kind})"
    )


def _target(clip: vs.VideoNode, scale: int, size: SizeOptions) -> tuple[int, int]:
    """(width, height) of the output."""
    form = clip.format
    width, height = target_size(clip.width, clip.height, scale, size)
    across, down = 1 << form.subsampling_w, 1 << form.subsampling_h
    if width % across or height % down:
        raise OptionError(
            f"{form.name} has no size of {width}x{height}; choose a width of {across} times and a "
            f"height of {down} times a whole number"
        )
    return width, height


def _colors(matrix: str | None, extent: str | None, location: str | None) -> ColorOptions:
    for name, given, table in (
        ("matrix_in_s", matrix, MATRICES),
        ("range_in_s", extent, RANGES),
        ("chromaloc_in_s", location, CHROMA_LOCATIONS),
    ):
        if given is not None and given not in table:
            known = ", ".join(table)
            raise OptionError(f"{name} {given!r} is not known; choose one of {known}")
    return ColorOptions.named(
        matrix=matrix, primaries=None, transfer=None, extent=extent, chroma_location=location
    )


def _say(text: str) -> None:
    vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, f"hatvid: {text}")
