"""The models that hatvid knows by name, and how a name or a path becomes a model.

Resolving needs no torch, so that a command can refuse a wrong name at once; loading
does.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hatvid.errors import CheckpointError, OptionError, UnknownModelError

if TYPE_CHECKING:
    from hatvid.model.hat import HAT

__all__ = [
    "EMBEDDED",
    "EmbeddedModel",
    "ResolvedModel",
    "load_model",
    "resolve_model",
]

AUTO = "auto"
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
"""A name that ends in one of these is the path of a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedModel:
    """A checkpoint that comes with hatvid."""

    name: str
    scale: int

    filename: str
    """In the package's ``weights`` folder."""

    sha256: str
    """Of the file, in hexadecimal; checked each time it is loaded."""


EMBEDDED = (
    EmbeddedModel(
        name="hat-nano-x2",
        scale=2,
        filename="hat-nano-x2.safetensors",
        sha256="9d8da0a2d2e7df2acfe5bc6b029ab41e047d69cde3fd715b5241c7cac0c9752c",
    ),
    EmbeddedModel(
        name="hat-nano-x4",
        scale=4,
        filename="hat-nano-x4.safetensors",
        sha256="2d57c87174ac6fb35a15151e6b546daa90d11d1af634c574ab9910b7835cd7f5",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """Where a model is; made by :func:`resolve_model`."""

    name: str
    """The known name, or the file's name without its suffix."""

    path: Path
    """Of the checkpoint."""

    scale: int | None
    """What a known model has; None for a path, until it is loaded."""

    sha256: str | None
    """What the file must have; None for a path."""


def resolve_model(name_or_path: str, scale: int | None = None) -> ResolvedModel:
    """Find the checkpoint that a user means.

    Args:
        name_or_path: ``auto``, a known name, or the path of a checkpoint. What is no
            known name is a path if it has a path separator or a checkpoint's suffix,
            or if such a file is there.
        scale: the scale wanted; None takes what the model has, and 4 for ``auto``.

    Raises:
        OptionError: no embedded model has that scale, or the named one has another.
        CheckpointError: a path at which nothing is.
        UnknownModelError: neither a known name nor a path.
    """
    known = {model.name: model for model in EMBEDDED}
    if name_or_path == AUTO:
        return _embedded_of_scale(4 if scale is None else scale)
    if name_or_path in known:
        model = known[name_or_path]
        if scale not in (None, model.scale):
            raise _wrong_scale(model.name, model.scale, scale)
        return _resolved(model)

    separators = [separator for separator in (os.sep, os.altsep) if separator]
    path = Path(name_or_path).expanduser()
    looks_like_path = name_or_path.lower().endswith(SUFFIXES) or any(
        separator in name_or_path for separator in separators
    )
    if looks_like_path or path.is_file():
        if not path.exists():
            raise CheckpointError(
                f"no checkpoint at {name_or_path}; check the path, or choose one of "
                f"{', '.join(known)}"
            )
        return ResolvedModel(name=path.stem, path=path, scale=None, sha256=None)

    close = difflib.get_close_matches(name_or_path.lower(), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UnknownModelError(
        f"no model is called {name_or_path!r}; {hint}"
        f"known are {', '.join(known)}, or give the path of a checkpoint"
    )


def load_model(name_or_path: str, scale: int | None = None) -> HAT:
    """Load the model that a user means.

    Args:
        name_or_path: as in :func:`resolve_model`.
        scale: the scale that the model must have; None takes any.

    Returns:
        It, in float32 on the CPU, in eval mode, without gradients.

    Raises:
        OptionError: the model has another scale.
        CheckpointError: it cannot be found, read, or trusted.
    """
    from hatvid.model.checkpoint import load_checkpoint

    found = resolve_model(name_or_path, scale)
    if found.sha256 is not None:
        _check_file(found.path, found.sha256)
    model = load_checkpoint(found.path)
    if scale not in (None, model.config.upscale):
        raise _wrong_scale(found.name, model.config.upscale, scale)
    return model


def _embedded_of_scale(scale: int) -> ResolvedModel:
    for model in EMBEDDED:
        if model.scale == scale:
            return _resolved(model)
    scales = ", ".join(str(model.scale) for model in EMBEDDED)
    raise OptionError(
        f"no embedded model upscales by {scale} (embedded: {scales}); choose one of these "
        "scales, or give a checkpoint with --model PATH"
    )


def _resolved(model: EmbeddedModel) -> ResolvedModel:
    weights = importlib.resources.files("hatvid.model") / "weights" / model.filename
    return ResolvedModel(
        name=model.name, path=Path(str(weights)), scale=model.scale, sha256=model.sha256
    )


def _wrong_scale(name: str, has: int, wanted: int | None) -> OptionError:
    return OptionError(
        f"model {name} upscales by {has}, not by {wanted}; choose scale {has} or another model"
    )


def _check_file(path: Path, sha256: str) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"the embedded checkpoint {path} cannot be read ({error.strerror}); "
            "install hatvid again"
        ) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(
            f"the embedded checkpoint {path} is not the one that was shipped; install hatvid again"
        )
