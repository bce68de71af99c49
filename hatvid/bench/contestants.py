"""Who takes part in the race."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hatvid.errors import OptionError
from hatvid.options import WINDOW

__all__ = [
    "CEILINGS",
    "CONTESTANTS",
    "Contestant",
    "OURS",
    "REFERENCE",
    "RIVALS",
    "chosen",
    "tile_shape",
]

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to run a network, in a process of its own."""

    name: str

    side: Literal["ours", "rival", "ceiling"]

    build: str
    """``module:function``: makes a :class:`~hatvid.bench.runner.Runner` of a task and settings."""

    settings: tuple[Settings, ...] = ({},)
    """Of several, the fastest races: each is tried before, in a process of its own."""

    needs_bf16: bool = False
    """It is left out where the CPU emulates bf16."""

    onnx: bool = False
    """It is given the network as ONNX, in the size of its tile or else of the frame."""

    slow: bool = False
    """It takes minutes to start; a quick race goes without."""

    clips: bool | None = None
    """Races with clips alone, or (False) never; None with both."""

    def tile(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of its tiles, the same in all settings, for frames of a size."""
        return tile_shape(self.settings[0], height, width)


def tile_shape(settings: Settings, height: int, width: int) -> tuple[int, int]:
    """(height, width) of the tiles that settings mean for frames of a size: squares of side
    ``tile``, ``halves`` beside each other, or else the whole frame."""
    if tile := settings.get("tile"):
        return tile, tile
    if settings.get("halves"):
        return height, -(-(-(-width // 2) + settings["overlap"]) // WINDOW) * WINDOW
    return height, width


def _ours(
    engine: str, precision: str, *, name: str = "", streams: int | Literal["auto"] = 1
) -> Contestant:
    return Contestant(
        name=name or f"hatvid {engine} {precision}",
        side="ours",
        build="hatvid.bench.ours:upscaler",
        settings=({"engine": engine, "precision": precision, "streams": streams},),
        needs_bf16=precision == "bf16",
    )


def _filter(precision: str) -> Contestant:
    return Contestant(
        name=f"hatvid filter {precision}",
        side="ours",
        build="hatvid.bench.vs_hatvid:plugin",
        settings=({"precision": precision},),
        needs_bf16=precision == "bf16",
    )


OURS = (
    _ours("auto", "auto", name="hatvid auto", streams="auto"),
    _ours("eager", "fp32"),
    _ours("eager", "bf16"),
    _ours("openvino", "fp32"),
    _ours("openvino", "bf16"),
    _filter("fp32"),
    _filter("bf16"),
)
"""A further engine or precision is a further line."""

REFERENCE = "published eager"
"""By whose output, and time, all others are measured."""

_ALL_WAYS = tuple(
    {"fp16": fp16, "streams": streams} for fp16 in (False, True) for streams in (1, 2)
)


def _vs_mlrt(tile: int = 0, overlap: int = 0) -> Contestant:
    if not overlap:
        name, cut = "vs-mlrt", {}
    elif tile:
        name, cut = f"vs-mlrt tile {tile}+{overlap}", {"tile": tile, "overlap": overlap}
    else:
        name, cut = f"vs-mlrt halves+{overlap}", {"halves": 1, "overlap": overlap}
    return Contestant(
        name=name,
        side="rival",
        build="hatvid.bench.vs_mlrt:plugin",
        settings=tuple({**way, **cut} for way in _ALL_WAYS),
        onnx=True,
        clips=True if cut else None,
    )


RIVALS = (
    Contestant(name=REFERENCE, side="rival", build="hatvid.bench.rivals:published"),
    Contestant(
        name="published compiled",
        side="rival",
        build="hatvid.bench.rivals:compiled",
        settings=({"mode": "max-autotune"},),
        slow=True,
    ),
    Contestant(
        name="onnxruntime", side="rival", build="hatvid.bench.rivals:onnxruntime", onnx=True
    ),
    _vs_mlrt(),
    _vs_mlrt(64, 8),
    _vs_mlrt(64, 16),
    _vs_mlrt(128, 8),
    _vs_mlrt(128, 16),
    _vs_mlrt(128, 32),
    _vs_mlrt(overlap=16),
    _vs_mlrt(overlap=32),
)

CEILINGS = tuple(
    Contestant(
        name=f"matrix product {precision}",
        side="ceiling",
        build="hatvid.bench.ceiling:product",
        settings=({"precision": precision},),
        needs_bf16=precision == "bf16",
    )
    for precision in ("fp32", "bf16")
)

CONTESTANTS = (*CEILINGS, *RIVALS, *OURS)


def chosen(
    contestants: Iterable[Contestant], names: Iterable[str], *, clip: bool, quick: bool
) -> list[Contestant]:
    """Those that race; the reference and the ceilings always do.

    Args:
        contestants: to choose from.
        names: parts of the names of those that are wanted; none takes all.
        clip: whether they are given a clip.
        quick: without those that are slow to start, unless they are named.

    Raises:
        OptionError: a name fits none.
    """
    everybody = [one for one in contestants if one.clips in (None, clip)]
    wanted = list(names)
    for name in wanted:
        if not any(name.lower() in one.name for one in everybody):
            known = ", ".join(one.name for one in everybody)
            raise OptionError(f"no contestant is called {name!r}; there are {known}")
    return [
        one
        for one in everybody
        if one.name == REFERENCE
        or one.side == "ceiling"
        or any(name.lower() in one.name for name in wanted)
        or (not wanted and not (quick and one.slow))
    ]
