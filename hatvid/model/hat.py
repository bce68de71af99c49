"""HAT, the Hybrid Attention Transformer (arXiv 2205.04437), for images.

The network as published: :class:`HATConfig` is what it is made of, :class:`HAT` runs
it, and :meth:`HAT.prepare` works out beforehand all that depends only on the size of
the input. Parameter names are the published ones, so a state dict goes both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from hatvid.model.attention import (
    BiasedAttention,
    WindowTables,
    overlap_position_index,
    relative_position_index,
)
from hatvid.model.blocks import RHAG, ResiConnection, to_map, to_tokens

__all__ = [
    "HAT",
    "HATConfig",
]

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean colour of DIV2K, subtracted from RGB input as published."""


@dataclass(frozen=True, kw_only=True)
class HATConfig:
    """What a HAT is made of. The defaults are those of the published HAT, x4.

    Raises:
        ValueError: a value makes no network.
    """

    embed_dim: int = 180
    """Channels of the feature map between the first and the last convolution."""

    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    """Number of HABs in each RHAG."""

    num_heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    """Attention heads in each RHAG; each divides ``embed_dim``."""

    window_size: int = 16
    """M: pixels along a side of an attention window."""

    overlap_ratio: float = 0.5
    """OCAB's keys come from windows of M + int(M * overlap_ratio) pixels."""

    compress_ratio: int = 3
    """CAB's convolutions work on embed_dim // compress_ratio channels."""

    squeeze_factor: int = 30
    """CAB's channel attention works on embed_dim // squeeze_factor channels."""

    conv_scale: float = 0.01
    """Weight of the CAB beside the window attention."""

    mlp_ratio: float = 2.0
    """Width of the MLPs as a multiple of ``embed_dim``."""

    qkv_bias: bool = True
    """Whether the projections to queries, keys and values have a bias."""

    qk_scale: float | None = None
    """Factor of q k^T; None takes head_dim ** -0.5."""

    patch_norm: bool = True
    """Whether a LayerNorm stands before the first RHAG."""

    num_in_ch: int = 3
    """Channels of input and output."""

    num_feat: int = 64
    """Channels of the reconstruction after the last RHAG."""

    upscale: int = 4
    """Output pixels an input pixel along each axis: a power of two, or 3."""

    img_range: float = 1.0
    """The network works on (x - mean) * img_range."""

    resi_connection: ResiConnection = "1conv"
    """What closes an RHAG and the body: a 3x3 convolution, or ``identity``."""

    cab: bool = True
    """Whether a CAB stands beside each window attention; False for the paper's ablation."""

    ocab: bool = True
    """Whether an OCAB ends each RHAG; likewise."""

    def __post_init__(self) -> None:
        # Lists come from JSON and callers' habit; a frozen value must be hashable.
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "num_heads", tuple(self.num_heads))
        for name in ("embed_dim", "compress_ratio", "squeeze_factor", "num_in_ch", "num_feat"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths is {self.depths}; each must be at least 1")
        if len(self.num_heads) != len(self.depths):
            raise ValueError(f"num_heads {self.num_heads} does not pair with depths {self.depths}")
        if any(heads < 1 or self.embed_dim % heads for heads in self.num_heads):
            raise ValueError(f"embed_dim {self.embed_dim} is not divisible by {self.num_heads}")
        if self.window_size < 2:
            raise ValueError(f"window_size is {self.window_size}; it must be at least 2")
        if self.overlap_ratio < 0 or int(self.window_size * self.overlap_ratio) % 2:
            raise ValueError(
                f"overlap_ratio {self.overlap_ratio} does not add an even number of pixels "
                f"to a window of {self.window_size}"
            )
        for name in ("compress_ratio", "squeeze_factor"):
            if self.cab and getattr(self, name) > self.embed_dim:
                raise ValueError(f"{name} {getattr(self, name)} leaves no channel")
        if int(self.embed_dim * self.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; the MLP needs a channel")
        if self.upscale != 3 and (self.upscale < 1 or self.upscale & (self.upscale - 1)):
            raise ValueError(f"upscale is {self.upscale}; it must be a power of two, or 3")
        if not self.img_range > 0:
            raise ValueError(f"img_range is {self.img_range}; it must be more than 0")
        if self.resi_connection not in ("1conv", "identity"):
            raise ValueError(f"resi_connection {self.resi_connection!r} is not known")

    @property
    def overlap_size(self) -> int:
        """Mo: pixels along a side of OCAB's windows of keys."""
        return self.window_size + int(self.window_size * self.overlap_ratio)

    @classmethod
    def hat_s(cls, upscale: int = 4) -> Self:
        """HAT-S of the paper: 9.6 million parameters at x4."""
        return cls(embed_dim=144, compress_ratio=24, squeeze_factor=24, upscale=upscale)

    @classmethod
    def hat(cls, upscale: int = 4) -> Self:
        """HAT of the paper: 20.8 million parameters at x4."""
        return cls(upscale=upscale)

    @classmethod
    def hat_l(cls, upscale: int = 4) -> Self:
        """HAT-L of the paper: 40.8 million parameters at x4."""
        return cls(depths=(6,) * 12, num_heads=(6,) * 12, upscale=upscale)

    @classmethod
    def hat_nano(cls, upscale: int = 4) -> Self:
        """This project's own small network: 0.49 million parameters at x4."""
        return cls(
            embed_dim=48,
            depths=(4, 4),
            num_heads=(3, 3),
            squeeze_factor=12,
            num_feat=32,
            upscale=upscale,
        )


class PatchEmbed(nn.Module):
    """Feature map to tokens; a patch is one pixel.

    Args:
        dim: C.
        norm: whether a LayerNorm follows.
    """

    def __init__(self, dim: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H*W, C)."""
        x = to_tokens(x)
        return x if self.norm is None else self.norm(x)


class Upsample(nn.Sequential):
    """Convolutions and pixel shuffles: (N, F, H, W) -> (N, F, sH, sW)."""

    def __init__(self, scale: int, num_feat: int) -> None:
        stages = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        layers: list[nn.Module] = []
        for stage in stages:
            layers += [nn.Conv2d(num_feat, stage**2 * num_feat, 3, padding=1)]
            layers += [nn.PixelShuffle(stage)]
        super().__init__(*layers)


def reflection_index(size: int, padded: int) -> Tensor:
    """Which pixel of an axis stands at each place of the padded axis.

    Reflection without repeating the edge, as ``F.pad(..., mode="reflect")``, going
    back and forth as often as needed; an axis of one pixel repeats it.

    Returns:
        (padded,) int32 in [0, size).
    """
    period = max(2 * (size - 1), 1)
    place = torch.arange(padded, dtype=torch.int32) % period
    return torch.minimum(place, period - place) if size > 1 else place


class HAT(nn.Module):
    """Hybrid Attention Transformer.

    An input of any size is padded right and bottom by reflection to a multiple of the
    window, as published, and the output is cropped.

    All that depends on the input's size lives in non-persistent buffers, built by
    :meth:`prepare`. ``forward`` prepares by itself when the size changes. When it need
    not, it has no branch on data, no copy between devices and no factory function, so
    it can be traced, exported or captured: prepare first, in eval mode, on the
    final device.

    Outside training the relative position biases are gathered once and kept. Loading a
    state dict and changing between train and eval drop them; after changing a bias
    table in any other way, call :meth:`drop_tables`.

    Args:
        config: what it is made of. Weights are initialised as published.

    Attributes:
        config: as given.
    """

    mean: Tensor
    relative_position_index_SA: Tensor  # noqa: N815 (the published names)
    relative_position_index_OCA: Tensor  # noqa: N815
    pad_rows: Tensor | None
    pad_columns: Tensor | None

    def __init__(self, config: HATConfig) -> None:
        super().__init__()
        self.config = config
        dim, window, overlap = config.embed_dim, config.window_size, config.overlap_size
        self.register_buffer("relative_position_index_SA", relative_position_index(window))
        self.register_buffer("relative_position_index_OCA", overlap_position_index(window, overlap))
        mean = torch.tensor(RGB_MEAN) if config.num_in_ch == 3 else torch.zeros(1)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)

        # shallow feature extraction
        self.conv_first = nn.Conv2d(config.num_in_ch, dim, 3, padding=1)

        # deep feature extraction
        self.patch_embed = PatchEmbed(dim, config.patch_norm)
        self.layers = nn.ModuleList(
            RHAG(
                dim,
                depth,
                heads,
                window,
                overlap,
                config.compress_ratio,
                config.squeeze_factor,
                config.conv_scale,
                config.mlp_ratio,
                config.qkv_bias,
                config.qk_scale,
                config.resi_connection,
                config.cab,
                config.ocab,
            )
            for depth, heads in zip(config.depths, config.num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body: nn.Module = (
            nn.Conv2d(dim, dim, 3, padding=1)
            if config.resi_connection == "1conv"
            else nn.Identity()
        )

        # reconstruction
        self.conv_before_upsample = nn.Sequential(
            nn.Conv2d(dim, config.num_feat, 3, padding=1), nn.LeakyReLU()
        )
        self.upsample: nn.Module = Upsample(config.upscale, config.num_feat)
        self.conv_last: nn.Module = nn.Conv2d(config.num_feat, config.num_in_ch, 3, padding=1)

        self.apply(self._initialise)
        self.register_buffer("pad_rows", None, persistent=False)
        self.register_buffer("pad_columns", None, persistent=False)
        self.tables: WindowTables | None = None
        self._prepared: tuple[int, int] | None = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # Called for a HAT that is loaded as part of another module, too.
        self.drop_tables()
        super()._load_from_state_dict(*args, **kwargs)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # Published as a truncated normal, but cut at 100 standard deviations.
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def scale(self) -> int:
        """Output pixels an input pixel, along each axis."""
        return self.config.upscale

    @property
    def prepared(self) -> tuple[int, int] | None:
        """Height and width of the input that ``forward`` is ready for, if any."""
        return self._prepared

    def prepare(self, height: int, width: int) -> Self:
        """Build the buffers for inputs of one size, on the device of the parameters.

        Args:
            height: of the input, before padding, at least 1.
            width: of the input, before padding, at least 1.

        Returns:
            self.

        Raises:
            ValueError: height or width is less than 1.
        """
        if height < 1 or width < 1:
            raise ValueError(f"an input of {height}x{width} has no pixels")
        window = self.config.window_size
        tall, wide = -(-height // window) * window, -(-width // window) * window
        self.drop_tables()
        # Tables made in inference mode could never be part of a gradient's graph.
        with torch.inference_mode(False), torch.no_grad(), self.mean.device:
            if tall > height:
                self.pad_rows = reflection_index(height, tall)
            if wide > width:
                self.pad_columns = reflection_index(width, wide)
            self.tables = WindowTables(
                tall,
                wide,
                window,
                self.config.overlap_size,
                self.relative_position_index_SA,
                self.relative_position_index_OCA,
            ).to(self.mean.dtype)
            for module in self.modules():
                if isinstance(module, BiasedAttention):
                    module.prepare(self.tables)
        self._prepared = (height, width)
        return self

    def drop_tables(self) -> None:
        """Forget what :meth:`prepare` built; the next forward builds it again."""
        self.pad_rows = self.pad_columns = self.tables = self._prepared = None
        for module in self.modules():
            if isinstance(module, BiasedAttention):
                module.drop()

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; a change of mode drops the prepared tables."""
        if mode or self.training:
            self.drop_tables()
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale.

        Args:
            x: (N, 3, H, W) float in [0, 1], RGB.

        Returns:
            (N, 3, sH, sW) of the same dtype, not clamped: it may leave [0, 1].
        """
        # torch.jit.trace records shapes as tensors: looking at one would be a branch on data.
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not tracing and self._prepared != (x.shape[2], x.shape[3]):
            self.prepare(x.shape[2], x.shape[3])
        config, tables = self.config, self.tables
        if tables is None or self._prepared is None:
            raise RuntimeError("call prepare(height, width) before tracing")
        height, width = self._prepared
        x = (x - self.mean) * config.img_range
        if self.pad_rows is not None:
            x = x.index_select(2, self.pad_rows)
        if self.pad_columns is not None:
            x = x.index_select(3, self.pad_columns)

        shallow = self.conv_first(x)
        deep = self.patch_embed(shallow)
        for layer in self.layers:
            deep = layer(deep, tables)
        deep = to_map(self.norm(deep), tables)
        x = self.conv_after_body(deep) + shallow
        x = self.conv_last(self.upsample(self.conv_before_upsample(x)))

        x = x / config.img_range + self.mean
        return x[:, :, : height * config.upscale, : width * config.upscale]
