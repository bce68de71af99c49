"""The network, and the checkpoints it is loaded from.

The names below are looked up when first used: importing this package, or
``hatvid.model.zoo``, does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hatvid.model.attention import WindowTables
    from hatvid.model.blocks import CAB, HAB, OCAB, RHAG
    from hatvid.model.checkpoint import (
        config_from_state_dict,
        load_checkpoint,
        read_state_dict,
    )
    from hatvid.model.fingerprint import state_dict_hash
    from hatvid.model.foreign import ForeignModel, load_network
    from hatvid.model.hat import HAT, HATConfig
    from hatvid.model.zoo import ResolvedModel, load_model, resolve_model

__all__ = [
    "CAB",
    "ForeignModel",
    "HAB",
    "HAT",
    "HATConfig",
    "OCAB",
    "RHAG",
    "ResolvedModel",
    "WindowTables",
    "config_from_state_dict",
    "load_checkpoint",
    "load_model",
    "load_network",
    "read_state_dict",
    "resolve_model",
    "state_dict_hash",
]

_HOME = {
    "WindowTables": "attention",
    "CAB": "blocks",
    "HAB": "blocks",
    "OCAB": "blocks",
    "RHAG": "blocks",
    "HAT": "hat",
    "HATConfig": "hat",
    "config_from_state_dict": "checkpoint",
    "load_checkpoint": "checkpoint",
    "read_state_dict": "checkpoint",
    "state_dict_hash": "fingerprint",
    "ForeignModel": "foreign",
    "load_network": "foreign",
    "ResolvedModel": "zoo",
    "load_model": "zoo",
    "resolve_model": "zoo",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
