"""HAT as a VapourSynth filter.

::

    from hatvid_vs import upscale

    clip = clip.resize.Bicubic(format=vs.RGBS, matrix_in_s="709")
    clip = upscale(clip, scale=4)

Where vs-mlrt's OpenVINO plugin is installed too, import this before ``vs.core`` is used:
the plugin brings an OpenVINO library of its own, and of two the first one that is loaded
serves all. The plugin takes hatvid's; hatvid refuses the plugin's, and runs in PyTorch.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Literal

import numpy as np
import torch
import vapoursynth as vs

from hatvid import HatvidError, Upscaler
from hatvid.options import DEFAULT_MODEL, EngineName, Precision

__all__ = ["upscale"]

# See above: before the core loads its plugins.
with suppress(ImportError, OSError):
    importlib.import_module("hatvid.engine.openvino")


def upscale(
    clip: vs.VideoNode,
    *,
    scale: int = 4,
    model: str = DEFAULT_MODEL,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    tile: int | Literal["auto"] = "auto",
    overlap: int | Literal["auto"] = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> vs.VideoNode:
    """Make a clip larger with HAT; frame properties are kept.

    Args:
        clip: RGBS, of constant format and size.
        scale: what comes out; a larger model is reduced to it.
        model: a known name, the path of a checkpoint, or ``auto``: the embedded model
            of that scale.
        engine: see :class:`hatvid.options.EngineOptions`, as ``precision``, ``device``
            and ``threads``.
        precision: what the network computes in.
        tile: see :class:`hatvid.options.TileOptions`, as ``overlap``.
        overlap: input pixels that neighbouring tiles share.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads for the network.

    Returns:
        RGBS, ``scale`` times as wide and high, not clamped. The pixels are those of
        :class:`hatvid.Upscaler`.

    Raises:
        vapoursynth.Error: the clip or an option does not fit; the text begins with
            ``hatvid:``.
    """
    if clip.format is None or not clip.width or not clip.height:
        raise vs.Error("hatvid: the clip's format or size varies; make it constant by resize first")
    if clip.format.id != vs.RGBS:
        raise vs.Error(
            f"hatvid: the clip is {clip.format.name}, not RGBS; convert it first: "
            'clip.resize.Bicubic(format=vs.RGBS, matrix_in_s="709")'
        )
    try:
        upscaler = Upscaler.from_checkpoint(
            model,
            scale=scale,
            engine=engine,
            precision=precision,
            tile=tile,
            overlap=overlap,
            batch=1,
            device=device,
            threads=threads,
        )
        upscaler.warm_up(clip.height, clip.width)
    except HatvidError as error:
        raise vs.Error(f"hatvid: {error}") from error
    # keep: every frame starts as a copy of one blank frame, which is then filled.
    canvas = clip.std.BlankClip(width=clip.width * scale, height=clip.height * scale, keep=True)

    def enlarge(n: int, f: list[vs.VideoFrame]) -> vs.VideoFrame:
        planes = [torch.from_numpy(np.array(f[1][index])) for index in range(3)]
        larger = upscaler(torch.stack(planes).unsqueeze(0))[0].cpu().numpy()
        frame = f[0].copy()
        for index in range(3):
            np.copyto(np.asarray(frame[index]), larger[index])
        return frame

    enlarged = canvas.std.ModifyFrame([canvas, clip], enlarge)
    return enlarged.std.CopyFrameProps(clip)
