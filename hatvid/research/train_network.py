"""The network as it is trained: one body, and a tail for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hatvid.errors import CheckpointError
from hatvid.model.blocks import CAB, HAB
from hatvid.model.checkpoint import read_state_dict
from hatvid.model.hat import HAT
from hatvid.model.zoo import check_file, resolve_model
from hatvid.research.recipe import Network, Start, Task

__all__ = ["Tasks", "begin_with", "build_tasks", "drop_paths", "follow", "is_tail"]

_TAIL = ("conv_before_upsample.", "upsample.", "conv_last.")
_BODY_PARTS = ("conv_first", "patch_embed", "layers", "norm", "conv_after_body")


def is_tail(name: str) -> bool:
    """Whether a tensor of a HAT's state dict lies behind the body."""
    return name.startswith(_TAIL)


class Tasks(nn.Module):
    """Several HATs that share a body; with one task, a HAT.

    Args:
        nets: by the name of the task; the modules of the first one's body become theirs.

    Attributes:
        nets: by ``task_`` and its name.
    """

    def __init__(self, nets: Mapping[str, HAT]) -> None:
        super().__init__()
        first, *others = nets.values()
        for net in others:
            for part in _BODY_PARTS:
                setattr(net, part, getattr(first, part))
        # The names of tasks may be those of methods, as "double" is.
        self.nets = nn.ModuleDict({f"task_{name}": net for name, net in nets.items()})

    def net(self, name: str) -> HAT:
        """The whole network of one task."""
        return cast(HAT, self.nets[f"task_{name}"])

    def forward(self, x: Tensor, task: str) -> Tensor:
        """(N, 3, H, W) -> (N, 3, sH, sW), s the task's scale."""
        out: Tensor = self.net(task)(x)
        return out

    def parts(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """The parameters of the body and those of the tails, by name; each once."""
        body: dict[str, nn.Parameter] = {}
        tail: dict[str, nn.Parameter] = {}
        for name, parameter in self.named_parameters():
            inner = name.split(".", 2)[2]  # behind "nets" and the task
            (tail if is_tail(inner) else body)[name] = parameter
        return body, tail


def build_tasks(network: Network, tasks: Sequence[Task], seed: int) -> Tasks:
    """Build the network with its initial weights.

    Args:
        network: of the recipe.
        tasks: of the stage.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nets = {task.name: HAT(network.config(task.scale)) for task in tasks}
    with torch.no_grad():
        for net in nets.values():
            for part in net.modules():
                if isinstance(part, CAB):
                    for parameter in part.cab[2].parameters():
                        parameter.mul_(network.cab_gain)
            for parameter in net.conv_last.parameters():
                parameter.mul_(network.last_gain)
    return Tasks(nets)


def begin_with(tasks: Tasks, start: Start, path: str, scale: int) -> list[str]:
    """Take weights from a checkpoint.

    Args:
        tasks: they are changed.
        start: of the recipe.
        path: of the checkpoint, or its known name.
        scale: of the network; the tails of its tasks are meant by ``take = "all"``.

    Returns:
        Names of the tensors that were not there, or did not fit.

    Raises:
        CheckpointError: it cannot be read, or not all of it fits that should.
    """
    found = resolve_model(path)
    if found.known is not None:
        check_file(found.known, found.path)
    given = read_state_dict(found.path)
    missing: dict[str, None] = {}
    for net in (cast(HAT, net) for net in tasks.nets.values()):
        own = net.state_dict()
        wanted = {name for name in own if not (start.take == "body" and is_tail(name))}
        fits = {n: given[n] for n in wanted if n in given and given[n].shape == own[n].shape}
        lacking = sorted(wanted - set(fits))
        whole = start.take == "all" and net.scale == scale
        must = lacking if whole else [name for name in lacking if not is_tail(name)]
        if must:
            kind = "tensors" if whole else "tensors of the body"
            raise CheckpointError(
                f"{found.path} does not fit the network of the recipe: {len(must)} {kind} are "
                f"missing or of another shape (first {must[0]}); give another checkpoint"
                + (', or take = "body"' if whole and all(map(is_tail, must)) else "")
            )
        net.load_state_dict(fits, strict=False)
        missing |= dict.fromkeys(lacking)
    return list(missing)


def drop_paths(tasks: Tasks, rate: float) -> None:
    """Give the HABs their chances of stochastic depth, from 0 in even steps to ``rate``."""
    body = next(iter(tasks.nets.values()))  # which all share
    blocks = [part for part in body.modules() if isinstance(part, HAB)]
    for block, chance in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        block.drop_path = chance


def follow(tasks: Tasks, before: Tasks) -> None:
    """Take the weights of the stage before: its body, and tails of tasks of the same name
    or, where there is none, of the same scale.

    Args:
        tasks: they are changed.
        before: may have other tasks.
    """
    others = {name: cast(HAT, net) for name, net in before.nets.items()}
    for name, net in ((name, cast(HAT, net)) for name, net in tasks.nets.items()):
        alike = {other: of for other, of in others.items() if of.scale == net.scale}
        source = alike.get(name) or next(iter(alike.values()), None)
        weights = (source or next(iter(others.values()))).state_dict()
        if source is None:
            weights = {key: value for key, value in weights.items() if not is_tail(key)}
        net.load_state_dict(weights, strict=source is not None)
