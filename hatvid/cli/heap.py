"""Memory that one frame has freed is kept for the next."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["KEPT", "LARGEST", "keep_freed_memory"]

LARGEST = 128 << 20
"""Bytes of a tensor that may lie in the heap: a frame of 3840x2160 in RGB, fp32, has 95 MiB.
What is larger is asked of the system each time."""

KEPT = 256 << 20
"""Bytes that are kept free at the heap's end, at most."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what is freed, within :data:`LARGEST` and :data:`KEPT`.

    As it comes, malloc gives a frame's memory back to the system as soon as it is freed,
    and the next frame has the system clear each page anew, which takes longer than its
    colours do. This holds for the whole process, so only a command may call it; an
    environment that chooses for itself, and another C library, are left alone.

    Returns:
        Whether malloc was told.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _CHOSEN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, KEPT))
