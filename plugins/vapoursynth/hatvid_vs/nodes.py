"""Clips that compute some frames at once, each once, in whatever order they are asked for.

A node of VapourSynth gives one frame at a time. The larger frames of one batch are therefore
laid below one another in one tall frame, from which each is cut::

    clip  ->  every B-th frame from 0, from 1, ... B-1  ->  ModifyFrame: B frames, one tall
          ->  cut 0, cut 1, ... cut B-1  ->  Interleave  ->  ModifyFrame: its properties

The tall frame takes the frames that it was made of along, for their properties: asked for
a second time, they might be rendered a second time. VapourSynth merges requests of one tall
frame, and keeps some of them for those that come later. One node's function runs in one
thread at a time; with several streams batches take turns in as many nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import vapoursynth as vs

from hatvid.errors import HatvidError
from hatvid.video.color import ColorTags
from hatvid.video.vs_frames import planes_of
from hatvid_vs.pictures import Enlarger, Reading, Shape, refuse_fields

__all__ = ["enlarged", "labelled"]

type Planes = tuple[torch.Tensor, ...]

_SOURCE = "_hatvid{}"
"""The property of a tall frame that holds the n-th frame that it was made of."""


def enlarged(
    clip: vs.VideoNode,
    enlarger: Enlarger,
    reading: Reading | None,
    *,
    width: int,
    height: int,
    batch: int,
    streams: int,
) -> vs.VideoNode:
    """The larger frames, each with all of its batch that it comes from.

    Args:
        clip: of constant format and size.
        enlarger: makes them.
        reading: what codes mean; None where samples are none.
        width: of the larger frames, in pixels.
        height: likewise.
        batch: frames that are made at once.
        streams: batches that may be on their way at once.
    """
    frames = clip.num_frames
    streams = min(streams, -(-frames // batch))
    turn = batch * streams
    # The last frame again, which is at hand, where a batch has no more.
    missing = -frames % turn
    padded = clip.std.DuplicateFrames([frames - 1] * missing) if missing else clip
    canvas = clip.std.BlankClip(
        width=width, height=height * batch, length=(frames + missing) // turn, keep=True
    )
    cuts = []
    for stream in range(streams):
        parts = [_every(padded, turn, stream * batch + number) for number in range(batch)]
        work = _work(enlarger, reading, rest=frames - stream * batch, turn=turn)
        tall = canvas.std.ModifyFrame([canvas, *parts], work)
        if batch == 1:
            cuts.append(tall)
            continue
        # For frames of a batch that are asked for when it is done: as many as the
        # threads ask for at once lie between the first and the last of them.
        kept = -(-vs.core.num_threads // turn) + 1
        tall.std.SetVideoCache(mode=1, fixedsize=1, maxsize=kept)
        cuts += [
            tall.std.CropAbs(width, height, left=0, top=number * height) for number in range(batch)
        ]
    if len(cuts) == 1:
        return cuts[0]
    return vs.core.std.Interleave(cuts, modify_duration=False)[:frames]


def _every(clip: vs.VideoNode, turn: int, first: int) -> vs.VideoNode:
    """One frame of each turn."""
    if turn == 1:
        return clip
    return clip.std.SelectEvery(turn, first, modify_duration=False)


def labelled(larger: vs.VideoNode, clip: vs.VideoNode, shape: Shape, *, batch: int) -> vs.VideoNode:
    """Larger frames with the properties of those they come from, and with their times.

    Args:
        larger: from :func:`enlarged`.
        clip: that it was made of.
        shape: what is to be said of them beside.
        batch: as it was given there.
    """

    def label(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        source = f.props[_SOURCE.format(n % batch)]
        frame = f.copy()
        frame.props.clear()
        # An alpha of the old size would be none of this frame.
        frame.props.update({k: v for k, v in source.props.items() if k != "_Alpha"})
        frame.props.update(_told(lambda: shape.changed(source.props)))
        return frame

    times = clip.std.BlankClip(width=larger.width, height=larger.height, keep=True)
    return times.std.ModifyFrame(larger, label)


def _work(
    enlarger: Enlarger, reading: Reading | None, *, rest: int, turn: int
) -> Callable[[int, list[vs.VideoFrame]], vs.VideoFrame]:
    """A node's function: the tall frame of one batch.

    Args:
        rest: frames of the clip from the node's first batch on.
        turn: frames from one of its batches to its next.
    """
    # PyTorch starts threads of its own beside each thread that it is called from, and
    # VapourSynth calls from any: it is always this one.
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hatvid")

    def read(frames: Sequence[vs.VideoFrame]) -> list[ColorTags | None]:
        for frame in frames:
            refuse_fields(frame.props)
        return [None if reading is None else reading.tags(frame.props) for frame in frames]

    def work(n: int, f: list[vs.VideoFrame]) -> vs.VideoFrame:
        blank, sources = f[0], f[1:][: rest - n * turn]
        tags = _told(lambda: read(sources))
        planes = [planes_of(frame, len(frame)) for frame in sources]
        larger = _told(lambda: worker.submit(enlarger, planes, tags).result())
        tall = blank.copy()
        for index in range(len(tall)):
            place = np.asarray(tall[index])
            rows = len(place) // len(f[1:])
            for number, made in enumerate(larger):
                np.copyto(place[number * rows : (number + 1) * rows], made[index].numpy())
        for number, frame in enumerate(sources):
            tall.props[_SOURCE.format(number)] = frame
        return tall

    return work


def _told[T](work: Callable[[], T]) -> T:
    """What a function gives; hatvid's errors as VapourSynth's."""
    try:
        return work()
    except HatvidError as error:
        raise vs.Error(f"hatvid: {error}") from error
