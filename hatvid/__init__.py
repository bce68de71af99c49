"""hatvid: make videos larger with HAT, losing nothing.

::

    import hatvid

    up = hatvid.Upscaler.from_checkpoint("hat-nano-x4")
    larger = up(frames)                       # (N, 3, H, W) in [0, 1] -> (N, 3, 4H, 4W)
    hatvid.upscale("input.mp4", "output.mp4", scale=4)
    hatvid.verify("input.mp4", "output.mp4").ok
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hatvid.errors import HatvidError

if TYPE_CHECKING:
    from hatvid.jobs.receipt import Receipt
    from hatvid.jobs.upscale import upscale
    from hatvid.jobs.verify import verify
    from hatvid.upscaler import Upscaler

__version__ = "0.1.0"

__all__ = ["HatvidError", "Receipt", "Upscaler", "__version__", "upscale", "verify"]

# Imported at first use: torch takes seconds, and `hatvid --help` needs none of it.
_HOMES = {
    "Receipt": "hatvid.jobs.receipt",
    "Upscaler": "hatvid.upscaler",
    "upscale": "hatvid.jobs.upscale",
    "verify": "hatvid.jobs.verify",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hatvid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
