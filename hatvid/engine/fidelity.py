"""Is a faster precision near enough to fp32?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hatvid.engine.base import TileSpec

__all__ = ["Fidelity", "MIN_SNR", "compare", "probe"]

MIN_SNR = 40.0
"""dB. At 40 dB the difference is a hundredth of the picture's own variation; an
8-bit rounding of a picture of ordinary contrast is at about 49 dB."""

MAX_ERROR = 4 / 255
"""Four steps of an 8-bit channel: a guard against outliers, which the SNR of a
whole picture does not see. The largest of millions of samples sways from picture to
picture, so the SNR is what decides where nothing is wrong."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How near an output is to that of the reference."""

    snr: float
    """Signal-to-noise ratio in dB: 10 log10(var(reference) / mean squared difference)."""

    max_error: float
    """Largest difference of a sample; samples lie in about [0, 1]."""

    @property
    def sufficient(self) -> bool:
        return self.snr >= MIN_SNR and self.max_error < MAX_ERROR


def compare(reference: Tensor, other: Tensor) -> Fidelity:
    """Compare an output with the reference's, both of one shape.

    A non-finite sample makes the fidelity as low as it can be.
    """
    difference = other.double() - reference.double()
    if not bool(difference.isfinite().all()):
        return Fidelity(snr=-math.inf, max_error=math.inf)
    noise = float(difference.square().mean())
    signal = float(reference.double().var(correction=0))
    if noise == 0:
        return Fidelity(snr=math.inf, max_error=0.0)
    snr = 10 * math.log10(signal / noise) if signal > 0 else -math.inf
    return Fidelity(snr=snr, max_error=float(difference.abs().max()))


def probe(spec: TileSpec) -> Tensor:
    """Tiles to time and to try engines with: waves of many lengths, edges, noise.

    The same for the same spec, on every machine; values in [0, 1].
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(0, 1, spec.height)[:, None]
    columns = torch.linspace(0, 1, spec.width)[None, :]
    waves = torch.zeros(spec.batch, spec.channels, spec.height, spec.width)
    for period in (2.5, 5.0, 11.0, 23.0, 64.0):
        shape = (2, spec.batch, spec.channels, 1, 1)
        turn, phase = 2 * math.pi * torch.rand(shape, generator=generator)
        along = rows * spec.height * turn.sin() + columns * spec.width * turn.cos()
        waves += (2 * math.pi * along / period + phase).sin() / 12
    edges = 0.2 * ((rows + columns) % 0.5 < 0.25)
    noise = 0.03 * torch.randn(waves.shape, generator=generator)
    return (0.4 + waves + edges + noise).clamp(0, 1).to(spec.device, spec.dtype)
