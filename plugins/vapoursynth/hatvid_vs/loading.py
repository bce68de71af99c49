"""Each network loaded once, each upscaler made once, however many filters ask for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary, WeakValueDictionary

from torch import nn

from hatvid import Upscaler
from hatvid.model.fingerprint import state_dict_hash
from hatvid.model.zoo import load_model, resolve_model
from hatvid.options import EngineOptions, ReuseOptions, TileOptions

__all__ = ["upscaler_for"]


@dataclass(frozen=True, eq=False)
class _Loaded:
    module: nn.Module
    scale: int
    fingerprint: str


type _File = tuple[Path, int, int]
"""A checkpoint as it lies there: path, size, time of its last change in ns."""

# Nothing is kept longer than a clip needs it: a preview evaluates a script again and again.
_networks: WeakValueDictionary[_File, _Loaded] = WeakValueDictionary()
_upscalers: WeakValueDictionary[tuple[object, ...], Upscaler] = WeakValueDictionary()
_used_by: WeakKeyDictionary[Upscaler, _Loaded] = WeakKeyDictionary()
_lock = threading.Lock()


def upscaler_for(
    height: int,
    width: int,
    *,
    model: str,
    scale: int | None,
    engine: EngineOptions,
    tile: TileOptions,
    reuse: ReuseOptions,
    ahead: int,
) -> Upscaler:
    """An upscaler, warmed up for frames of one size.

    Filters of the same options and frame size share it; those of another size share its
    network.

    Args:
        height: of the frames in pixels.
        width: of the frames in pixels.
        model: a known name, the path of a checkpoint, or ``auto``.
        scale: what comes out; None is the network's.
        engine: how the network is run.
        tile: how frames are cut.
        reuse: whether tiles of the same bytes take a result from before.
        ahead: frames that are to come, by which ``auto`` decides.

    Raises:
        HatvidError: see :meth:`hatvid.Upscaler.from_checkpoint`.
    """
    with _lock:
        found = resolve_model(model, scale)
        file = _as_it_lies(found.path)
        key = (file, found.name, height, width, scale, engine, tile, reuse)
        upscaler = _upscalers.get(key)
        if upscaler is None:
            loaded = _networks.get(file)
            if loaded is None:
                network = load_model(model, scale)
                loaded = _Loaded(network, network.scale, state_dict_hash(network))
            upscaler = Upscaler(
                loaded.module,
                scale=loaded.scale,
                output_scale=scale,
                engine_options=engine,
                tile_options=tile,
                reuse=reuse,
                fingerprint=loaded.fingerprint,
                name=found.name,
            )
            upscaler.warm_up(height, width, ahead=ahead)
            _networks[file] = loaded
            _used_by[upscaler] = loaded
            _upscalers[key] = upscaler
        return upscaler


def _as_it_lies(path: Path) -> _File:
    try:
        facts = path.stat()
    except OSError:  # whoever reads it says what is wrong
        return path, 0, 0
    return path.resolve(), facts.st_size, facts.st_mtime_ns
