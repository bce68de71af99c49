"""Read a checkpoint without trusting it, and load it strictly.

A ``.pth`` file is a pickle, and a pickle may be a program: it is read by torch's
restricted unpickler only, which builds tensors and plain containers and nothing else.
What the network is made of is read off the shapes of its tensors.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hatvid.errors import CheckpointError
from hatvid.model.hat import HAT, HATConfig

__all__ = [
    "build_hat",
    "config_from_state_dict",
    "load_checkpoint",
    "read_state_dict",
]

WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Keys under which training programs put the state dict; the first one found is taken."""

PREFIXES = ("module.", "netG.")
"""What wrappers of the network put before each name."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
INDEX_SA, INDEX_OCA = "relative_position_index_SA", "relative_position_index_OCA"
INDEXES = (INDEX_SA, INDEX_OCA)

MAX_WRAPPERS = 8
"""Dictionaries in dictionaries that are looked through for the weights."""

MAX_VALUES = 2**30
"""More numbers than any HAT has: 25 times HAT-L."""

StateDict = dict[str, Tensor]


def read_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """Read the tensors of a checkpoint file; nothing in it is executed.

    The state dict is taken out of the wrapper keys and freed of the prefixes that
    training programs use. What kind of file it is, its content decides.

    Args:
        path: a ``.safetensors`` file, or one written by ``torch.save``.

    Returns:
        Name -> tensor on the CPU: floating-point ones in float32, HAT's index tables
        int64, other whole numbers as they are.

    Raises:
        CheckpointError: the file is missing, unreadable, damaged, or holds code; it
            holds no tensors, or tensors no network could use.
    """
    path = Path(path)
    kind = _file_kind(path)
    content = _read_safetensors(path) if kind == "safetensors" else _read_torch(path)
    for _ in range(MAX_WRAPPERS):  # a file can be made that wraps itself
        if not isinstance(content, Mapping):
            break
        inner = (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping))
        wrapped = next(inner, None)
        if wrapped is None:
            break
        content = wrapped
    if not isinstance(content, Mapping) or not any(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} holds no tensors; give the checkpoint of a HAT")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds {type(value).__name__} under {key!r} beside its tensors; "
                "give a file that holds the state dict alone"
            )
    tensors = _strip_prefixes(dict(content))
    if (count := sum(value.numel() for value in tensors.values())) > MAX_VALUES:
        raise CheckpointError(f"{path} claims to hold {count} values; no HAT is that large")
    return {key: _plain(path, key, value) for key, value in tensors.items()}


def _file_kind(path: Path) -> str:
    """``safetensors`` or ``torch``, by the file's first bytes."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; give the checkpoint file in it")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; check the path") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from error
    if not head:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    if head[8:] == b"{":
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):  # a zip of torch.save, or a bare pickle
        return "torch"
    raise CheckpointError(
        f"{path} is neither a safetensors nor a PyTorch file; give the checkpoint of a HAT"
    )


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # Of old storage classes, and of archives of TorchScript, refused below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise CheckpointError(f"{path} needs more memory than there is") from error
    except Exception as error:  # torch.load lets through whatever its parsers meet
        text = str(error)
        # Two wordings of the restricted unpickler; both name what it was asked to call.
        named = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"class ([\w.]+)", text)
        if "Weights only load failed" in text and named:
            raise CheckpointError(
                f"{path} holds code ({named[1]}) besides tensors and was refused; none of it was "
                "run; give a file that holds the state dict alone, best as .safetensors"
            ) from error
        if "Unsupported operand" in text:
            raise CheckpointError(
                f"{path} holds pickle operations that tensors do not need, or is damaged; it was "
                "refused and none of it was run; give the state dict alone, best as .safetensors"
            ) from error
        if "TorchScript" in text:
            raise CheckpointError(
                f"{path} is a TorchScript program, not a checkpoint; give the state dict"
            ) from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    text = str(error).strip() or type(error).__name__
    # The restricted unpickler's advice is to switch it off; that is not passed on.
    detail = "" if text.startswith("Weights only") else f" ({text.splitlines()[0][:120]})"
    return CheckpointError(f"{path} is damaged or cut short{detail}; download it again")


def _strip_prefixes(tensors: StateDict) -> StateDict:
    """Remove prefixes, nested ones too. Beside a generator, other networks are left out."""
    while True:
        for prefix in PREFIXES:
            inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if inside and (prefix == "netG." or len(inside) == len(tensors)):
                tensors = inside
                break
        else:
            return tensors


def _plain(path: Path, key: str, value: Tensor) -> Tensor:
    """The tensor as the network can use it."""
    where = f"{path}: {key}"
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise CheckpointError(
            f"{where} is not a plain tensor; give the weights before quantisation"
        )
    if not value.numel():
        raise CheckpointError(
            f"{where} has no values (shape {list(value.shape)}); download it again"
        )
    value = value.detach()
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        # One stored value can be shown as millions, which a copy would make real.
        raise CheckpointError(f"{where} repeats its values; give weights that are stored in full")
    if key in INDEXES and value.dtype in (torch.int32, torch.int64):
        return value.long().contiguous()
    if value.dtype in WHOLE:  # index tables and counters of networks that are no HAT
        return value.contiguous()
    if value.dtype not in FLOATS:
        name = str(value.dtype).removeprefix("torch.")
        raise CheckpointError(f"{where} is {name}, not floating point; give unquantised weights")
    value = value.float().contiguous()
    if not bool(value.isfinite().all()):
        raise CheckpointError(f"{where} holds NaN or infinite values; the weights cannot be used")
    return value


def config_from_state_dict(
    state_dict: Mapping[str, Tensor], *, conv_scale: float | None = None
) -> HATConfig:
    """Read off the shapes of its tensors what a HAT is made of.

    Three values leave no trace in a state dict: ``qk_scale`` and ``img_range`` take the
    published values, ``conv_scale`` does too unless it is given. Of the ratios that
    give the same number of channels, ``squeeze_factor`` and ``compress_ratio`` take a
    published one if it is among them.

    Args:
        state_dict: with the published names, without wrapper keys and prefixes.
        conv_scale: weight of the CAB beside the attention.

    Raises:
        CheckpointError: the tensors are not those of a HAT, or of one with absolute
            position embedding, which no published checkpoint has.
    """
    if "absolute_pos_embed" in state_dict:
        raise CheckpointError(
            "the checkpoint has an absolute position embedding (ape, absolute_pos_embed), which "
            "fixes the input's size and is not supported; give a HAT trained without ape"
        )
    try:
        config = _infer(state_dict)
        return config if conv_scale is None else replace(config, conv_scale=conv_scale)
    except KeyError as error:
        first = next(iter(state_dict), "none")
        raise CheckpointError(
            f"not a HAT: it holds {len(state_dict)} tensors, first {first!r}, but no "
            f"{error.args[0]!r}; give the checkpoint of a HAT"
        ) from error
    except (ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"the shapes of the checkpoint make no HAT ({error}); give the checkpoint of a HAT"
        ) from error


def _infer(state_dict: Mapping[str, Tensor]) -> HATConfig:
    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        sizes = tuple(state_dict[name].shape)
        if len(sizes) != dimensions:
            raise ValueError(f"{name} has shape {list(sizes)}")
        return sizes

    def count(prefix: str) -> int:
        found = {key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)}
        return next(number for number in range(len(found) + 1) if str(number) not in found)

    group = "layers.{}.residual_group."
    block = group.format(0) + "blocks.0."
    table = "relative_position_bias_table"
    embed_dim, num_in_ch = shape("conv_first.weight", 4)[:2]
    window = (math.isqrt(shape(f"{block}attn.{table}", 2)[0]) + 1) // 2
    # SwinIR has the same names less those two kinds of block, and no such index.
    cab, ocab = (
        INDEX_SA not in state_dict or any(f".{part}." in key for key in state_dict)
        for part in ("conv_block", "overlap_attn")
    )
    keys = math.isqrt(shape(f"{group.format(0)}overlap_attn.{table}", 2)[0]) if ocab else 0
    overlap_size = keys + 1 - window if ocab else math.isqrt(shape(INDEX_OCA, 2)[1])
    layers = count("layers.")
    depths = [count(f"{group.format(i)}blocks.") for i in range(layers)]
    attention = "overlap_attn" if ocab else "blocks.0.attn"
    heads = [shape(f"{group.format(i)}{attention}.{table}", 2)[1] for i in range(layers)]
    compressed = shape(f"{block}conv_block.cab.0.weight", 4)[0] if cab else embed_dim // 3
    squeezed = shape(f"{block}conv_block.cab.3.attention.1.weight", 4)[0] if cab else 0
    num_feat = shape("conv_last.weight", 4)[1]
    upscale = 1
    for stage in range(0, len(state_dict), 2):
        if f"upsample.{stage}.weight" not in state_dict:
            break
        upscale *= math.isqrt(shape(f"upsample.{stage}.weight", 4)[0] // num_feat)
    return HATConfig(
        embed_dim=embed_dim,
        depths=tuple(depths),
        num_heads=tuple(heads),
        window_size=window,
        overlap_ratio=_ratio(window, overlap_size - window),
        compress_ratio=_divisor(embed_dim, compressed, (3, 24)),
        squeeze_factor=_divisor(embed_dim, squeezed, (30, 24, 12)) if cab else 30,
        mlp_ratio=_ratio(embed_dim, shape(f"{block}mlp.fc1.weight", 2)[0]),
        qkv_bias=f"{block}attn.qkv.bias" in state_dict,
        patch_norm="patch_embed.norm.weight" in state_dict,
        num_in_ch=num_in_ch,
        num_feat=num_feat,
        upscale=upscale,
        resi_connection="1conv" if "conv_after_body.weight" in state_dict else "identity",
        cab=cab,
        ocab=ocab,
    )


def _divisor(total: int, part: int, preferred: tuple[int, ...]) -> int:
    """An r with total // r == part."""
    lowest = total // (part + 1) + 1
    for ratio in (*preferred, *([total // part] if total % part == 0 else []), lowest):
        if total // ratio == part:
            return ratio
    raise ValueError(f"no whole ratio of {total} channels gives {part}")


def _ratio(total: int, part: int) -> float:
    """An r with int(total * r) == part."""
    ratio = part / total
    return ratio if int(total * ratio) == part else math.nextafter(ratio, math.inf)


def load_checkpoint(path: str | os.PathLike[str], *, conv_scale: float | None = None) -> HAT:
    """Build the HAT that a checkpoint file holds.

    Args:
        path: as for :func:`read_state_dict`.
        conv_scale: as for :func:`config_from_state_dict`.

    Returns:
        It, in float32 on the CPU, in eval mode, its parameters without gradients.

    Raises:
        CheckpointError: the file cannot be read, is not the checkpoint of a HAT, lacks
            tensors or has others, or has tensors of the wrong shape.
    """
    return build_hat(path, read_state_dict(path), conv_scale=conv_scale)


def build_hat(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    *,
    conv_scale: float | None = None,
) -> HAT:
    """Build the HAT that a state dict holds.

    Args:
        path: where it was read, for messages.
        state_dict: from :func:`read_state_dict`.
        conv_scale: as for :func:`config_from_state_dict`.

    Returns:
        As :func:`load_checkpoint`.

    Raises:
        CheckpointError: it is not that of a HAT, lacks tensors or has others, or has
            tensors of the wrong shape or kind.
    """
    try:
        _check_floats(state_dict)
        config = config_from_state_dict(state_dict, conv_scale=conv_scale)
        # Sizes that a file claims cost nothing until they are known to be its own.
        with torch.device("meta"):
            expected = HAT(config).state_dict()
        _check_fit(state_dict, expected)
        model = HAT(config)
        _check_indexes(state_dict, model)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.load_state_dict(state_dict, strict=True)
    return model.eval().requires_grad_(False)


def _check_floats(state_dict: Mapping[str, Tensor]) -> None:
    for key, value in state_dict.items():
        if key not in INDEXES and value.dtype in WHOLE:
            name = str(value.dtype).removeprefix("torch.")
            raise CheckpointError(f"{key} is {name}, not floating point; give unquantised weights")


def _check_fit(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing = [key for key in expected if key not in state_dict]
    unexpected = [key for key in state_dict if key not in expected]
    wrong = [
        f"{key} is {list(state_dict[key].shape)} instead of {list(expected[key].shape)}"
        for key in expected
        if key in state_dict and state_dict[key].shape != expected[key].shape
    ]
    faults = [
        f"{len(found)} {kind} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for kind, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of the wrong shape", wrong),
        )
        if found
    ]
    if faults:
        raise CheckpointError(
            f"the tensors do not fit a HAT: {'; '.join(faults)}; "
            "give a whole checkpoint of the published HAT"
        )


def _check_indexes(state_dict: Mapping[str, Tensor], model: HAT) -> None:
    """The index tables follow from the window; another one would be another network."""
    for name in INDEXES:
        ours = getattr(model, name)
        rows = int(ours.max()) - int(ours.min()) + 1
        if not torch.equal(state_dict[name] % rows, ours % rows):
            raise CheckpointError(f"{name} is not the published table; the file is damaged")
