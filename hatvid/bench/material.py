"""What all contestants of one race are given: weights, frames, a count of FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hatvid.bench import networks
from hatvid.bench.runner import Task
from hatvid.bench.trace import trace_network
from hatvid.engine import TileSpec
from hatvid.engine.fidelity import probe
from hatvid.errors import OptionError
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.zoo import load_model, resolve_model

__all__ = ["Network", "moving_frames", "network", "published_flops", "redraw", "task"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and the weights with which all contestants run it."""

    name: str
    config: HATConfig

    trained: bool
    """The weights are a checkpoint's, and not drawn at random."""

    published: nn.Module
    """spandrel's HAT with these weights, fp32, in eval mode."""


def network(name: str, scale: int | None = None) -> Network:
    """Load a checkpoint, or draw weights for a network.

    Args:
        name: ``hat-s``, ``hat``, ``hat-l`` or ``hat-nano``, with weights drawn at random, or a
            checkpoint as in :func:`~hatvid.model.zoo.resolve_model`.
        scale: as in :func:`~hatvid.bench.networks.network_config`.

    Raises:
        OptionError: the checkpoint is no HAT, or of another scale.
        CheckpointError: it cannot be found or read.
        EngineError: spandrel, which has the published network, is not installed.
    """
    if name in networks.NETWORKS:
        config = networks.network_config(name, scale)
        theirs = networks.published(config)
        redraw(theirs, config)
        return Network(name=name, config=config, trained=False, published=theirs)
    model = load_model(name)
    if not isinstance(model, HAT):
        raise OptionError(f"{name} is no HAT; only HATs race")
    if scale not in (None, model.scale):
        raise OptionError(f"{name} upscales by {model.scale}; leave out --scale")
    theirs = networks.published(model.config)
    theirs.load_state_dict(model.state_dict(), strict=True)
    known = resolve_model(name).name  # without the folder of a file
    return Network(name=known, config=model.config, trained=True, published=theirs)


@torch.no_grad()
def redraw(module: nn.Module, config: HATConfig, seed: int = 1) -> None:
    """Draw weights with which no part of a HAT is too small to be seen in the output.

    Fresh weights would make every precision look good: bias tables near zero, LayerNorm
    gains of one and biases of zero let whole terms round to nothing. The last convolution
    is then scaled so that the output varies about as much as a picture does.
    """
    random = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        if name.endswith("relative_position_bias_table") or ".attention." in name:
            value.normal_(std=1.0, generator=random)
            if name.endswith("attention.1.bias"):
                value.abs_().add_(1.0)  # of few hidden channels none may lie behind a dead ReLU
        elif "norm" in name and name.endswith("weight"):
            value.uniform_(0.5, 2.0, generator=random)
        elif name.endswith("bias"):
            value.normal_(std=0.3, generator=random)
        else:
            value.normal_(std=value[0].numel() ** -0.5, generator=random)
    last = module.get_submodule("conv_last")
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    side = 2 * config.window_size
    picture = probe(TileSpec(batch=1, height=side, width=side, scale=config.upscale))
    variation = float(module(picture).std())
    last.weight *= 0.2 / variation
    last.bias.zero_()


def published_flops(network: nn.Module, config: HATConfig, height: int, width: int) -> float:
    """FLOPs of the published network for one frame: two for each multiply-add.

    They are counted at the padded size, which is what it computes, and taken for the pixels
    of the frame alone: all but a handful of channel attention's grows with the pixels.
    """
    window = config.window_size
    padded = [math.ceil(length / window) * window for length in (height, width)]
    trace = trace_network(network, (1, config.num_in_ch, *padded))
    flops = sum(operator.flops for operator in trace.operators)
    return flops * (height * width) / math.prod(padded)


def moving_frames(count: int, height: int, width: int) -> Tensor:
    """A picture of waves, edges and noise that moves: (count, 3, height, width) in [0, 1]."""
    large = probe(TileSpec(batch=1, height=height + count, width=width + 2 * count, scale=1))
    parts = [large[..., n : n + height, 2 * n : 2 * n + width] for n in range(count)]
    return torch.cat(parts)


def task(
    network: Network,
    frames: Tensor,
    folder: Path,
    *,
    threads: int,
    native_bf16: bool,
    clip: bool = False,
) -> Task:
    """Write weights and frames to a folder.

    Args:
        frames: (N, 3, H, W).
        folder: of this race alone.
    """
    weights, pictures = folder / "weights.safetensors", folder / "frames.npy"
    state = {name: value.contiguous() for name, value in network.published.state_dict().items()}
    save_file(state, weights)
    np.save(pictures, frames.float().contiguous().numpy())
    shape: Sequence[int] = frames.shape
    return Task(
        model=network.name,
        scale=network.config.upscale,
        height=shape[2],
        width=shape[3],
        network=asdict(network.config),
        weights=str(weights),
        frames=str(pictures),
        threads=threads,
        native_bf16=native_bf16,
        clip=clip,
    )
