"""Measures of videos over their frames, drawn by matplotlib (an extra)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import numpy as np

from hatvid.errors import OptionError
from hatvid.research.compare import MEASURES, Comparison, Measure

__all__ = ["check_matplotlib", "plot"]

_TITLES: dict[Measure, str] = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "vmaf": "VMAF",
    "flicker": "flicker (steps of 8 bits)",
}
COLORS = {"A": "#d95f02", "B": "#1b6ca8"}


def check_matplotlib() -> None:
    """Refuse, before any work, what cannot be drawn.

    Raises:
        OptionError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise OptionError(
            "plots are drawn by matplotlib, which is not installed: "
            "pip install 'hatvid[research]', or leave --output and --plot out"
        )


def plot(
    found: Comparison,
    *,
    kind: Literal["svg", "png"],
    marked: Sequence[int] = (),
) -> bytes:
    """Draw each measure over the frames, a panel each.

    Args:
        found: what was measured.
        kind: of file.
        marked: frames with a line through all panels.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [name for name in MEASURES if any(one.of(name) for one in found.measured)]
    figure = Figure(figsize=(10, 1.7 * len(shown) + 0.6), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
    for panel, name in zip(panels, shown, strict=True):
        for one in found.measured:
            # A PSNR where nothing differs has no place on the axis: a gap.
            values = np.asarray(one.of(name), dtype=np.float64)
            values[~np.isfinite(values)] = np.nan
            label = f"{one.label} against {found.reference}"
            point = "." if len(values) < 60 else None
            panel.plot(values, label=label, color=COLORS[one.label], linewidth=1.2, marker=point)
        for number in marked:
            panel.axvline(number, color="0.6", linewidth=0.8, linestyle=":")
        panel.set_ylabel(_TITLES[name], fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=8, loc="best")
    panels[-1].set_xlabel("frame", fontsize=8)
    file = io.BytesIO()
    # The same numbers give the same file.
    with mpl.rc_context({"svg.hashsalt": "hatvid"}):
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(file, format=kind, dpi=110, metadata=metadata)
    return file.getvalue()
