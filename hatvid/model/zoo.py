"""How a name or a path becomes a model.

Resolving needs no torch, so that a command can refuse a wrong name at once; loading
does.
"""

from __future__ import annotations

import difflib
import importlib.resources
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from hatvid.errors import CheckpointError, OptionError, UnknownModelError
from hatvid.model.catalog import EMBEDDED, KNOWN, KnownModel, file_sha256

if TYPE_CHECKING:
    from hatvid.model.edsr import EDSR
    from hatvid.model.foreign import ForeignModel
    from hatvid.model.hat import HAT

__all__ = [
    "ResolvedModel",
    "check_file",
    "load_model",
    "model_path",
    "models_folder",
    "resolve_model",
]

AUTO = "auto"
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
"""A name that ends in one of these is the path of a checkpoint."""

FOLDER_VARIABLE = "HATVID_MODELS"


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """Where a model is; made by :func:`resolve_model`."""

    name: str
    """The known name, or the file's name without its suffix."""

    path: Path
    """Of the checkpoint."""

    scale: int | None
    """What a known model has, which may be more than was asked for; None for a path,
    until it is loaded."""

    known: KnownModel | None
    """None for a path."""


def models_folder() -> Path:
    """Where pulled checkpoints are: ``HATVID_MODELS``, or a folder of the user's data."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(platformdirs.user_data_dir("hatvid", appauthor=False)) / "models"


def model_path(model: KnownModel) -> Path:
    """Where the checkpoint of a known model is, or would be."""
    if model.embedded:
        weights = importlib.resources.files("hatvid.model") / "weights" / model.filename
        return Path(str(weights))
    return models_folder() / model.filename


def resolve_model(name_or_path: str, scale: int | None = None) -> ResolvedModel:
    """Find the checkpoint that a user means.

    Args:
        name_or_path: ``auto``, a known name, or the path of a checkpoint. What is no
            known name is a path if it has a path separator or a checkpoint's suffix,
            or if such a file is there.
        scale: the least scale that will do, for what is too large is reduced; None takes
            what the model has, and 4 for ``auto``.

    Raises:
        OptionError: no embedded model reaches that scale, or the named one does not.
        CheckpointError: a path at which nothing is, or a known model that is not here.
        UnknownModelError: neither a known name nor a path.
    """
    if name_or_path == AUTO:
        return _embedded_of_scale(4 if scale is None else scale)
    if name_or_path in KNOWN:
        model = KNOWN[name_or_path]
        if scale is not None and scale > model.scale:
            raise _too_small(model.name, model.scale, scale)
        found = _resolved(model)
        if not model.embedded and not found.path.is_file():
            raise CheckpointError(
                f"{model.name} is not on this machine; fetch it with: hatvid models pull "
                f"{model.name}"
            )
        return found

    separators = [separator for separator in (os.sep, os.altsep) if separator]
    path = Path(name_or_path).expanduser()
    looks_like_path = name_or_path.lower().endswith(SUFFIXES) or any(
        separator in name_or_path for separator in separators
    )
    if looks_like_path or path.is_file():
        if not path.exists():
            raise CheckpointError(
                f"no checkpoint at {name_or_path}; check the path, or choose one of "
                "hatvid models list"
            )
        return ResolvedModel(name=path.stem, path=path, scale=None, known=None)

    close = difflib.get_close_matches(name_or_path.lower(), KNOWN, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UnknownModelError(
        f"no model is called {name_or_path!r}; {hint}"
        "see hatvid models list, or give the path of a checkpoint"
    )


def load_model(name_or_path: str, scale: int | None = None) -> HAT | ForeignModel | EDSR:
    """Load the model that a user means.

    Args:
        name_or_path: as in :func:`resolve_model`.
        scale: the least scale that will do; None takes any.

    Returns:
        It, in float32 on the CPU, in eval mode, without gradients.

    Raises:
        OptionError: the model has a smaller scale.
        CheckpointError: it cannot be found, read, or trusted.
    """
    from hatvid.model.foreign import load_network

    found = resolve_model(name_or_path, scale)
    if found.known is not None:
        check_file(found.known, found.path)
    model = load_network(found.path)
    if scale is not None and scale > model.scale:
        raise _too_small(found.name, model.scale, scale)
    return model


def check_file(model: KnownModel, path: Path) -> None:
    """Compare a file with what a known model's must be.

    Raises:
        CheckpointError: it cannot be read, or is another.
    """
    mend = "install hatvid again" if model.embedded else f"run hatvid models pull {model.name}"
    try:
        found = file_sha256(path)
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({error.strerror}); {mend}"
        ) from error
    if found != model.sha256:
        raise CheckpointError(
            f"the checkpoint {path} is not the {model.name} that is known by that name; {mend}"
        )


def _embedded_of_scale(scale: int) -> ResolvedModel:
    for model in sorted(EMBEDDED, key=lambda model: model.scale):
        if model.scale >= scale:
            return _resolved(model)
    scales = ", ".join(str(model.scale) for model in EMBEDDED)
    raise OptionError(
        f"no embedded model upscales by {scale} (embedded: {scales}); choose one of these "
        "scales, or give a checkpoint with --model PATH"
    )


def _resolved(model: KnownModel) -> ResolvedModel:
    return ResolvedModel(name=model.name, path=model_path(model), scale=model.scale, known=model)


def _too_small(name: str, has: int, wanted: int) -> OptionError:
    return OptionError(
        f"model {name} upscales by {has}, not by {wanted}; choose scale {has} or another model"
    )
