"""The forms of one network that engines are given: rewritten, and whole in chunks.

A HAT always runs with its tail collapsed, which is the same function in a tenth of the
tail's arithmetic. For fp16 in PyTorch it is rescaled, and for bf16 its stream is left in
fp32; for whole frames it is run in chunks of windows; for a GPU its channels are
padded, and its attention may be fused; for a CPU's compiler its projections are separate.
"""

from __future__ import annotations

import torch
from torch import nn

from hatvid.model.attention_form import with_attention
from hatvid.model.calibration import calibration_picture
from hatvid.model.hat import HAT
from hatvid.model.padded import pad_channels
from hatvid.model.passes.channels_last import channels_last_weights
from hatvid.model.precision import RescalePlan, lower_precision, plan_rescale
from hatvid.model.tail import collapse_tail
from hatvid.model.whole import Pieces, WholeFrame
from hatvid.options import WINDOW

__all__ = ["Forms"]

LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Forms:
    """Made when they are first asked for, then kept; they share parameters.

    Args:
        module: a HAT, or any other network, which has one form only. It is not changed.

    Attributes:
        pieces: by height and width of the input, how frames are cut that are run in chunks;
            what is not there is cut as for a CPU.
    """

    pieces: dict[tuple[int, int], Pieces]

    def __init__(self, module: nn.Module) -> None:
        self.published = module
        """As it was given: what every other form must be equal to."""
        self._hat = collapse_tail(module) if isinstance(module, HAT) else None
        self._module = module if self._hat is None else self._hat
        self._made: dict[tuple[str, bool], HAT] = {}
        self._plan: RescalePlan | None = None
        self.pieces = {}

    @property
    def grid(self) -> int:
        """What the height and width of an input must be multiples of."""
        if self._hat is not None:
            return self._hat.config.window_size
        return getattr(self._module, "grid", WINDOW)

    @property
    def rewritable(self) -> bool:
        """Whether there are other forms than ``form()``."""
        return self._hat is not None

    @property
    def config(self) -> object:
        """What the network is made of; its class for one that has one form only."""
        return type(self._module) if self._hat is None else self._hat.config

    def form(
        self,
        precision: str = "fp32",
        *,
        chunked: bool = False,
        padded: bool = False,
        fused: bool = False,
        channels_last: bool = False,
        compiler: bool = False,
    ) -> nn.Module:
        """The network as PyTorch is to run it, or a compiler to read it.

        Args:
            precision: what PyTorch computes in; compilers choose themselves.
            chunked: in chunks of windows.
            padded: with channels as a GPU's kernels like them.
            fused: with attention that reads its windows where they lie.
            channels_last: with weights of convolutions as a GPU's convolutions read them.
            compiler: as a compiler for CPUs likes it; in fp32, not in chunks.
        """
        if self._hat is None:
            return channels_last_weights(self._module) if channels_last else self._module
        network = self._in(precision, padded)
        if fused:
            network = with_attention(network, "triton")
        if compiler:
            network = with_attention(network, "split_qkv")
        if channels_last:
            network = channels_last_weights(network)
        return WholeFrame(network, pieces=self.pieces) if chunked else network

    def published_in_chunks(self) -> nn.Module:
        """:attr:`published`, a HAT, in less memory."""
        assert isinstance(self.published, HAT)
        return WholeFrame(self.published)

    def _in(self, precision: str, padded: bool) -> HAT:
        assert self._hat is not None
        if precision == "fp32" and not padded:
            return self._hat
        key = precision, padded
        if key not in self._made:
            network = pad_channels(self._hat) if padded else self._hat
            if precision != "fp32":
                network = lower_precision(network, LOW[precision], self._rescale_plan(self._hat))
            self._made[key] = network
        return self._made[key]

    def _rescale_plan(self, network: HAT) -> RescalePlan:
        if self._plan is None:
            # By a fixed picture: what is computed must not hang on the first frame.
            self._plan = plan_rescale(network, calibration_picture())
        return self._plan
