"""The whole state of a training, in one file that holds numbers and text only."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hatvid.errors import CheckpointError
from hatvid.model.hat import HAT
from hatvid.research.atomic import write_whole
from hatvid.research.train_network import Tasks

__all__ = ["Place", "load_state", "read_place", "save_published", "save_state"]

FORMAT = 1
_NAME = "hatvid"


@dataclass(kw_only=True)
class Place:
    """Where a training stands."""

    recipe: str
    """Its fingerprint."""

    stage: int = 0
    """From 0."""

    iteration: int = 0
    """How many of the stage are done."""

    best: float | None = None
    """The best PSNR of a validation so far, dB."""

    threads: int = 0
    torch: str = ""
    seconds: float = 0.0
    """That the training has taken."""

    format: int = field(default=FORMAT)


def save_state(
    path: Path, place: Place, tasks: Tasks, average: Tasks, optimiser: torch.optim.Adam
) -> None:
    """Write weights, averaged weights, the optimiser's moments, and where all that stands.

    Raises:
        OutputError: the disk refuses; the state before is kept.
    """
    tensors = {
        name: value.detach().contiguous().cpu() for name, value in _all(tasks, average, optimiser)
    }
    text = {_NAME: json.dumps(asdict(place))}
    write_whole(path, safetensors.torch.save(tensors, metadata=text))


def read_place(path: Path) -> Place | None:
    """Where the training of a file stands; None if there is no such file.

    Raises:
        CheckpointError: it is no such file, or of another version.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {})[_NAME]
        fields: dict[str, Any] = json.loads(text)
        if fields["format"] == FORMAT:
            return Place(**fields)
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not the state of a training ({error}); remove it to begin anew from a "
            "checkpoint or from nothing"
        ) from error
    raise CheckpointError(f"{path} was written by another version of hatvid; go on with that one")


def load_state(path: Path, tasks: Tasks, average: Tasks, optimiser: torch.optim.Adam) -> None:
    """Bring back what :func:`save_state` wrote; all three are changed.

    Raises:
        CheckpointError: it is damaged, or of another network.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it to begin anew") from error
    for name, parameter in tasks.named_parameters():
        if f"step.{name}" in tensors:
            optimiser.state[parameter] = {
                "step": tensors[f"step.{name}"],
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            }
    own = dict(_all(tasks, average, optimiser))
    wrong = [
        name
        for name in {*own, *tensors}
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path} is the state of another network ({len(wrong)} tensors differ, as "
            f"{min(wrong)}); give another run.folder"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def save_published(path: Path, net: HAT, average: HAT) -> None:
    """Write a checkpoint in the published layout: ``params_ema`` and ``params``.

    Raises:
        OutputError: the disk refuses; the file before is kept.
    """
    file = io.BytesIO()
    torch.save({"params_ema": _plain(average), "params": _plain(net)}, file)
    write_whole(path, file.getvalue())


def _plain(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}


def _all(tasks: Tasks, average: Tasks, optimiser: torch.optim.Adam) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in tasks.named_parameters():
        yield f"weights.{name}", parameter
        for key, value in optimiser.state.get(parameter, {}).items():
            yield f"{key}.{name}", value
    for name, parameter in average.named_parameters():
        yield f"ema.{name}", parameter
