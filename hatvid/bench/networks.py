"""The forms of one network that are compared: the published one, and ours, step by step.

Weights are fresh: what a network costs depends on its shape alone. One thing depends on
weights: by which powers of two fp16 divides. It is taken to be the same for all RHAGs, as
it is wherever a network's residual stream fits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from hatvid.errors import CheckpointError, EngineError, OptionError
from hatvid.model.attention_form import with_attention
from hatvid.model.catalog import KNOWN
from hatvid.model.checkpoint import config_from_state_dict, read_state_dict
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.padded import pad_channels
from hatvid.model.passes.channels_last import channels_last_weights
from hatvid.model.precision import RescalePlan, lower_precision
from hatvid.model.ranges import Ranges
from hatvid.model.tail import collapse_tail
from hatvid.model.zoo import resolve_model

__all__ = ["DTYPES", "NetworkForm", "network_config", "network_forms", "published"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
"""bf16, whose stream is in fp32, is not counted. It cannot be traced: without a GPU PyTorch
takes it that cuDNN has no bf16, and lays out feature maps otherwise."""

NETWORKS: dict[str, Callable[[int], HATConfig]] = {
    "hat-s": HATConfig.hat_s,
    "hat": HATConfig.hat,
    "hat-l": HATConfig.hat_l,
    "hat-nano": HATConfig.hat_nano,
}
"""By name in lower case."""


@dataclass(frozen=True, kw_only=True)
class NetworkForm:
    """One form of a network, and how it is run."""

    name: str

    network: nn.Module
    """On the CPU, in eval mode."""

    dtype: torch.dtype
    """Of its input."""

    recorded: bool = False
    """Run by a GPU's recording engine, and not by PyTorch as it is."""

    precision: str = "fp32"
    scale: int = 4

    keep_scores: bool = False
    """Counted as if the attention that it writes out were one kernel."""


def network_config(name: str, scale: int | None = None) -> HATConfig:
    """What a name stands for.

    Args:
        name: a network of the paper (``hat-s``, ``hat``, ``hat-l``) or ``hat-nano``; a
            checkpoint that hatvid knows by name, which need not be here; or a file.
        scale: needed to be what a checkpoint has; a network without one takes 4.

    Raises:
        OptionError: a scale that the checkpoint does not have, or no network can have.
        CheckpointError: the file cannot be read, or is no HAT; no such name.
    """
    if name in NETWORKS:
        try:
            return NETWORKS[name](4 if scale is None else scale)
        except ValueError as error:
            raise OptionError(str(error)) from error
    if name in KNOWN:
        config = NETWORKS[KNOWN[name].network.lower()](KNOWN[name].scale)
    else:
        config = config_from_state_dict(read_state_dict(resolve_model(name).path))
    if scale not in (None, config.upscale):
        raise OptionError(f"{name} upscales by {config.upscale}; leave out --scale")
    return config


def network_forms(config: HATConfig, precision: str = "fp16") -> Iterator[NetworkForm]:
    """The forms of a network, in the order in which they came about.

    Args:
        config: of the network.
        precision: ``fp32`` or ``fp16``. The published network computes all of
            it in that precision, ours what is safe (:mod:`hatvid.model.precision`).

    Raises:
        EngineError: spandrel, which has the published network, is not installed.
    """
    dtype = DTYPES[precision]
    theirs = published(config).to(dtype)
    yield NetworkForm(name="published", network=theirs, dtype=dtype)
    yield NetworkForm(
        name="published, attention in one kernel", network=theirs, dtype=dtype, keep_scores=True
    )
    ours = HAT(config).eval()
    collapsed = collapse_tail(ours)
    for name, network in (("hatvid", ours), ("+ tail collapsed", collapsed)):
        yield NetworkForm(name=name, network=_low(network, dtype), dtype=torch.float32)
    padded = _low(pad_channels(collapsed), dtype)
    fused = with_attention(padded, "triton")
    for name, network in (("+ padded", padded), ("+ Triton", fused)):
        form = channels_last_weights(network)
        yield NetworkForm(
            name=name,
            network=form,
            dtype=torch.float32,
            recorded=True,
            precision=precision,
            scale=config.upscale,
        )


def published(config: HATConfig) -> nn.Module:
    """The published network as spandrel has it, with fresh weights, fp32, in eval mode.

    Raises:
        EngineError: spandrel is not installed.
        CheckpointError: it has no such network.
    """
    if not (config.cab and config.ocab):
        raise CheckpointError("the published network is never without CAB and OCAB; choose another")
    try:
        import spandrel.architectures.HAT
    except ImportError as error:
        raise EngineError(
            "the published network comes from spandrel, which is not installed; "
            "run: pip install 'hatvid[bench]'"
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid")
        try:
            network: nn.Module = spandrel.architectures.HAT.HAT(
                in_chans=config.num_in_ch,
                embed_dim=config.embed_dim,
                depths=config.depths,
                num_heads=config.num_heads,
                window_size=config.window_size,
                compress_ratio=config.compress_ratio,
                squeeze_factor=config.squeeze_factor,
                conv_scale=config.conv_scale,
                overlap_ratio=config.overlap_ratio,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                qk_scale=config.qk_scale,
                patch_norm=config.patch_norm,
                upscale=config.upscale,
                img_range=config.img_range,
                resi_connection=config.resi_connection,
                num_feat=config.num_feat,
            )
        except (ValueError, AssertionError) as error:
            raise CheckpointError(f"spandrel has no such network: {error}") from error
    return network.eval()


def _low(network: HAT, dtype: torch.dtype) -> HAT:
    if dtype == torch.float32:
        return network
    config = network.config
    plan = RescalePlan(
        s=(1.0,) * len(config.depths),
        t=tuple((1.0,) * depth for depth in config.depths),
        subnormal=0.0,
        residual_fp32=False,
        ranges=Ranges(shallow=0.0, groups=(), body=0.0, tail=0.0),
    )
    return lower_precision(network, dtype, plan)
