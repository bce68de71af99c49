"""Frames of a VapourSynth clip in order, with some on their way.

``VideoNode.frames`` looks again and again whether the next one is there: a core, and Python's
lock, that the script itself needs. Here the reader sleeps until it is.

Nothing here imports VapourSynth: its objects come from those who do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from itertools import islice
from typing import Any

__all__ = ["rendered"]


def rendered(clip: Any, *, ahead: int) -> Generator[Any]:
    """Every frame, each closed as the next is asked for.

    Args:
        clip: a ``vapoursynth.VideoNode``.
        ahead: frames asked for at once, at least 1.

    Raises:
        vapoursynth.Error: the frame that is next could not be rendered.
    """
    requests = map(clip.get_frame_async, range(len(clip)))
    coming: deque[Future[Any]] = deque(islice(requests, ahead))
    while coming:
        with coming.popleft().result() as frame:
            coming.extend(islice(requests, 1))
            yield frame
