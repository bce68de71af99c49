"""The blocks of HAT (arXiv 2205.04437, section 3.2): CAB, HAB, OCAB, RHAG.

Each is an ``nn.Module`` with the published parameter names. Tokens are (N, H*W, C);
:class:`~hatvid.model.attention.WindowTables` carries H and W. A block used alone
needs no more than that::

    tables = WindowTables(64, 48)
    block = HAB(dim=48, num_heads=3, shift_size=8)
    y = block(x, tables)                    # (N, 64*48, 48) -> the same
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hatvid.model.attention import OverlapAttention, WindowAttention, WindowTables

__all__ = [
    "CAB",
    "ChannelAttention",
    "HAB",
    "HABGroup",
    "Mlp",
    "OCAB",
    "RHAG",
    "to_map",
    "to_tokens",
]

ResiConnection = Literal["1conv", "identity"]


def to_map(x: Tensor, tables: WindowTables) -> Tensor:
    """(N, H*W, C) -> (N, C, H, W), a view: in memory it is channels-last."""
    grid: Tensor = x.view(x.shape[0], tables.height, tables.width, -1)
    return grid.permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H*W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class ChannelAttention(nn.Module):
    """Scale each channel by a gate computed from its mean over the whole map (RCAN).

    Args:
        dim: C.
        squeeze_factor: the gate's hidden layer has C // squeeze_factor channels.
    """

    def __init__(self, dim: int, squeeze_factor: int = 30) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(dim, dim // squeeze_factor, 1),
            nn.ReLU(),
            nn.Conv2d(dim // squeeze_factor, dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        gate: Tensor = self.attention(x)
        return x * gate


class CAB(nn.Module):
    """Channel attention block (section 3.2.2, figure 2).

    Args:
        dim: C.
        compress_ratio: the first convolution leaves C // compress_ratio channels.
        squeeze_factor: of :class:`ChannelAttention`.
    """

    def __init__(self, dim: int, compress_ratio: int = 3, squeeze_factor: int = 30) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(dim, dim // compress_ratio, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(dim // compress_ratio, dim, 3, padding=1),
            ChannelAttention(dim, squeeze_factor),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        out: Tensor = self.cab(x)
        return out


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, on each token alone.

    Args:
        dim: C.
        hidden: width between the two layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class HAB(nn.Module):
    """Hybrid attention block (section 3.2.2): window attention and CAB side by side.

    ::

        y = LN(x);  x = x + (S)W-MSA(y) + conv_scale * CAB(y);  x = x + MLP(LN(x))

    Args:
        dim: C, channels of a token.
        num_heads: divides ``dim``.
        window_size: M.
        shift_size: 0 for W-MSA, M // 2 for SW-MSA.
        compress_ratio: of the CAB.
        squeeze_factor: of the CAB.
        conv_scale: weight of the CAB beside the attention (alpha in the paper).
        mlp_ratio: the MLP is int(C * mlp_ratio) wide.
        qkv_bias: of the attention.
        qk_scale: of the attention.
        cab: whether there is a CAB.

    Attributes:
        drop_path: chance that, in training, a branch is left out for a picture (stochastic
            depth; the CAB's is not); those that stay count so much the more.
    """

    conv_block: CAB | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 16,
        shift_size: int = 0,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        cab: bool = True,
    ) -> None:
        super().__init__()
        self.conv_scale = conv_scale
        self.drop_path = 0.0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size, shift_size, qkv_bias, qk_scale)
        self.conv_block = CAB(dim, compress_ratio, squeeze_factor) if cab else None
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        y = self.norm1(x)
        if self.conv_block is None:
            x = x + self._thinned(self.attn(y, tables))
        else:
            local = to_tokens(self.conv_block(to_map(y, tables)))
            x = x + self._thinned(self.attn(y, tables)) + local * self.conv_scale
        out: Tensor = x + self._thinned(self.mlp(self.norm2(x)))
        return out

    def _thinned(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        kept = 1 - self.drop_path
        drawn = torch.rand(len(branch), 1, 1, dtype=branch.dtype, device=branch.device)
        thinned: Tensor = branch / kept * (kept + drawn).floor()
        return thinned


class OCAB(OverlapAttention):
    """Overlapping cross-attention block (section 3.2.3).

    ::

        x = x + proj(OCA(LN(x)));  x = x + MLP(LN(x))

    Args:
        dim: C, channels of a token.
        num_heads: divides ``dim``.
        window_size: M, side of a window of queries.
        overlap_size: Mo, side of a window of keys; the paper's (1 + overlap_ratio) M.
        mlp_ratio: the MLP is int(C * mlp_ratio) wide.
        qkv_bias: of the attention.
        qk_scale: of the attention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 16,
        overlap_size: int = 24,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__(dim, num_heads, window_size, overlap_size, qkv_bias, qk_scale)
        self.norm1 = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        x = x + self.proj(self.cross_attention(self.norm1(x), tables))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class HABGroup(nn.Module):
    """The blocks of one RHAG: ``depth`` x HAB, the odd ones shifted, then one OCAB.

    Args:
        depth: number of HABs.
        overlap_size: of the OCAB.
        ocab: whether there is an OCAB.
        others: as in :class:`HAB`.
    """

    overlap_attn: OCAB | None

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        window_size: int = 16,
        overlap_size: int = 24,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        cab: bool = True,
        ocab: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            HAB(
                dim,
                num_heads,
                window_size,
                window_size // 2 if i % 2 else 0,
                compress_ratio,
                squeeze_factor,
                conv_scale,
                mlp_ratio,
                qkv_bias,
                qk_scale,
                cab,
            )
            for i in range(depth)
        )
        self.overlap_attn = (
            OCAB(dim, num_heads, window_size, overlap_size, mlp_ratio, qkv_bias, qk_scale)
            if ocab
            else None
        )

    def forward(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        for block in self.blocks:
            x = block(x, tables)
        return x if self.overlap_attn is None else self.overlap_attn(x, tables)


class RHAG(nn.Module):
    """Residual hybrid attention group (section 3.2.1): HABs, OCAB, 3x3 convolution.

    Args:
        resi_connection: ``1conv`` (published), or ``identity`` for no convolution.
        others: as in :class:`HABGroup`.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        window_size: int = 16,
        overlap_size: int = 24,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        resi_connection: ResiConnection = "1conv",
        cab: bool = True,
        ocab: bool = True,
    ) -> None:
        super().__init__()
        self.residual_group = HABGroup(
            dim,
            depth,
            num_heads,
            window_size,
            overlap_size,
            compress_ratio,
            squeeze_factor,
            conv_scale,
            mlp_ratio,
            qkv_bias,
            qk_scale,
            cab,
            ocab,
        )
        self.conv: nn.Module = (
            nn.Conv2d(dim, dim, 3, padding=1) if resi_connection == "1conv" else nn.Identity()
        )

    def forward(self, x: Tensor, tables: WindowTables) -> Tensor:
        """(N, H*W, C) -> (N, H*W, C)."""
        deep = self.conv(to_map(self.residual_group(x, tables), tables))
        return to_tokens(deep) + x
