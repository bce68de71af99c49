"""What a network holds between its layers, drawn as pictures.

The HAT paper shows such maps of SwinIR (figure 4): the borders of its windows stand out as
a grid, which is what overlapping cross-attention is against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hatvid.errors import OptionError

__all__ = ["FeatureMap", "default_layers", "feature_maps", "grid_step", "window_of"]

_CUT = 0.01
"""Of the values at each end that are drawn black or white alike."""


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """What one layer gave.

    Args:
        layer: its name in the network.
        values: (C, H, W), of the padded input where the network pads.
        scale: of its values an input pixel, along each axis.
    """

    layer: str
    values: Tensor
    scale: int = 1

    def step(self, window: int) -> float:
        """:func:`grid_step` for windows of so many input pixels a side."""
        return grid_step(self.values, window * self.scale)

    def image(self) -> Image.Image:
        """The mean over the channels, dark to light, the farthest 1 % of values cut."""
        mean = self.values.mean(0).double()
        low, high = torch.quantile(
            mean.flatten(), torch.tensor([_CUT, 1 - _CUT], dtype=mean.dtype)
        ).tolist()
        gray = ((mean - low) / (high - low or 1.0)).clamp(0, 1) * 255
        codes: NDArray[np.uint8] = gray.round().to(torch.uint8).numpy()
        return Image.fromarray(codes).convert("RGB")


def default_layers(network: nn.Module) -> list[str]:
    """The layers worth looking at: the members of the largest list of blocks, and the
    convolutions before and behind it, in the order of the network.
    """
    inner = _inner(network)
    lists = [
        (name, module)
        for name, module in inner.named_children()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module)
    ]
    body = max(lists, key=lambda item: (_of_blocks(item[1]), _parameters(item[1])), default=None)
    names = []
    for name, module in inner.named_children():
        if body is not None and name == body[0]:
            names += [f"{name}.{number}" for number in range(len(body[1]))]
        elif name.startswith("conv") and next(module.parameters(), None) is not None:
            names.append(name)
    return names


def feature_maps(
    network: nn.Module, picture: Tensor, layers: Sequence[str] = ()
) -> list[FeatureMap]:
    """Run a network once and keep what some layers give.

    Args:
        network: (1, 3, H, W) -> (1, 3, sH, sW); HAT, or any other.
        picture: (1, 3, H, W) in [0, 1], where the network is.
        layers: names of modules; none takes :func:`default_layers`.

    Returns:
        Those that gave a map, in the order of running. Tokens, (1, H*W, C), are laid out as the
        last map before them was.

    Raises:
        OptionError: there is no layer of that name, or it gives no map.
    """
    modules = dict(_inner(network).named_modules())
    wanted = list(layers) or default_layers(network)
    for name in wanted:
        if not name or name not in modules:
            inside = ", ".join(default_layers(network)[:8])
            raise OptionError(f"the network has no layer {name!r}; name one such as {inside}")
    found: dict[str, FeatureMap] = {}
    names = {modules[name]: name for name in wanted}
    shape: list[tuple[int, int]] = []

    def seen(module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor) or len(output) != 1:
            return
        if output.dim() == 4 and min(output.shape[2:]) > 1:  # a gate's pooled means are no map
            shape[:] = [(output.shape[2], output.shape[3])]
            values = output[0]
        elif output.dim() == 3 and shape and output.shape[1] == shape[0][0] * shape[0][1]:
            values = output[0].T.reshape(-1, *shape[0])
        else:
            return
        if module in names:
            found[names[module]] = FeatureMap(
                layer=names[module],
                values=values.float().cpu().clone(),
                scale=max(1, values.shape[2] // picture.shape[3]),
            )

    with _watched(modules.values(), seen), torch.no_grad():
        network(picture)
    lacking = [name for name in wanted if name not in found]
    if layers and lacking:
        raise OptionError(
            f"layer {lacking[0]} gives no map of the picture; name one such as "
            f"{', '.join(default_layers(network)[:8])}"
        )
    return list(found.values())


def window_of(network: nn.Module) -> int | None:
    """Pixels along a side of the network's attention windows; None without any."""
    inner = _inner(network)
    size = getattr(getattr(inner, "config", inner), "window_size", None)
    if isinstance(size, Sequence):
        size = size[0] if size and len(set(size)) == 1 else None
    return size if isinstance(size, int) and size > 1 else None


def grid_step(values: Tensor, window: int) -> float:
    """How much more neighbouring pixels differ across the borders of windows than elsewhere.

    Args:
        values: (C, H, W), windows beginning at its corner.
        window: pixels along a side.

    Returns:
        Mean absolute step across the borders over that across all other lines; 1 where
        nothing tells them apart, also where there is no border, or nothing changes.
    """
    across: list[Tensor] = []
    within: list[Tensor] = []
    for dim in (1, 2):
        steps = values.double().diff(dim=dim).abs()
        places = torch.arange(1, values.shape[dim])
        border = places % window == 0
        across.append(steps.index_select(dim, (places[border] - 1)).flatten())
        within.append(steps.index_select(dim, (places[~border] - 1)).flatten())
    at, off = torch.cat(across), torch.cat(within)
    if not at.numel() or not off.numel() or not float(off.mean()):
        return 1.0
    return float(at.mean() / off.mean())


def _inner(network: nn.Module) -> nn.Module:
    """What a wrapper holds: another maker's network has its own names."""
    inner = getattr(network, "network", network)
    return inner if isinstance(inner, nn.Module) else network


def _of_blocks(members: nn.ModuleList | nn.Sequential) -> bool:
    """Whether some are more than a bare layer."""
    return any(next(member.children(), None) is not None for member in members)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _watched(modules: Any, seen: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen(module, output))
        for module in modules
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
