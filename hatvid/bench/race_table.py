"""A race as a table, on a terminal or in Markdown, and as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatvid.bench.contestants import REFERENCE
from hatvid.bench.race_result import Entry, RaceResult

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["chart", "heading", "machine_lines", "notes", "table"]

SHOWN_RIVALS = (REFERENCE, "published compiled", "onnxruntime", "vs-mlrt")
"""Ratios to these have columns; those to others stand in the JSON."""

COLORS = {"ours": "tab:blue", "rival": "tab:gray"}


def heading(result: RaceResult) -> str:
    """What a race was about, in a line."""
    what = result.clip or f"{result.width}x{result.height}"
    weights = "" if result.trained else ", random weights"
    return (
        f"{result.model} x{result.scale}, {what}, {result.flops / 1e9:,.1f} GFLOP a frame{weights}"
    )


def table(result: RaceResult, *, markdown: bool = False) -> Table:
    """The lines of a race."""
    from rich import box
    from rich.table import Table

    rivals = [
        name
        for name in SHOWN_RIVALS
        if any(entry.name == name and entry.status == "ran" for entry in result.entries)
    ]
    made = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    for name in ("contestant", "computes in"):
        made.add_column(name, no_wrap=True)
    columns = ["ms a frame", "quartiles", "frames/s", "GFLOP/s", "of ceiling", "SNR dB", "MB"]
    for name in [*columns, "s to start", *(f"x {rival}" for rival in rivals)]:
        made.add_column(name, justify="right", no_wrap=True)
    for entry in result.entries:
        made.add_row(*_cells(entry, rivals))
    return made


def notes(result: RaceResult) -> list[str]:
    """What the table has no room for, a line each: settings, and who did not run and why."""
    lines = []
    for entry in result.entries:
        if entry.reason is not None:
            lines.append(f"{entry.name}: {entry.status}: {entry.reason}")
            continue
        if entry.settings:
            lines.append(f"{entry.name}: {_settings(entry.settings)}{_tried(entry)}")
    return lines


def machine_lines(machine: Mapping[str, Any], *, rounds: int, stopped: bool) -> list[str]:
    """The machine and the conditions, in a few lines."""
    versions = [f"{name} {value}" for name, value in machine["versions"].items() if value]
    pinned = "pinned" if machine["pinned_to"] is not None else "not pinned: no such call here"
    idle = "stopped" if stopped else "not stopped, as this system has no SIGSTOP: pools may spin"
    flags = " ".join(machine["flags"]) or "no flags known"
    bf16 = "bf16 in hardware" if machine["native_bf16"] else "no bf16 in hardware"
    return [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB; "
        f"{flags}; {bf16}; {machine['system']}, Python {machine['python']}",
        ", ".join(versions),
        f"{machine['threads']} threads each, {pinned}; {rounds} rounds; idle contestants {idle}",
    ]


def chart(results: Sequence[RaceResult], file: Path) -> None:
    """Draw GFLOP/s by contestant, a panel for each race, as PNG.

    Bars are medians, their whiskers quartiles, dashed and dotted lines the ceilings.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = [[e for e in result.entries if e.status == "ran"] for result in results]
    rows = [max(len(shown), 1) for shown in bars]
    figure = Figure(figsize=(9, sum(0.32 * count + 1.1 for count in rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(results), 1, squeeze=False, height_ratios=rows)[:, 0]
    for panel, result, shown in zip(panels, results, bars, strict=True):
        runners = [entry for entry in shown if entry.side != "ceiling"]
        speeds = [_speeds(entry) for entry in runners]
        panel.barh(
            [entry.name for entry in runners],
            [median for _, median, _ in speeds],
            xerr=[
                [median - low for low, median, _ in speeds],
                [high - median for _, median, high in speeds],
            ],
            color=[COLORS[entry.side] for entry in runners],
        )
        ceilings = [entry for entry in shown if entry.side == "ceiling"]
        for entry, style in zip(ceilings, cycle(("--", ":")), strict=False):
            if entry.flops_per_second is not None:
                panel.axvline(
                    entry.flops_per_second / 1e9, linestyle=style, color="black", label=entry.name
                )
        panel.invert_yaxis()
        panel.set_title(heading(result), fontsize=10)
        panel.set_xlabel("GFLOP/s of the published network")
        if ceilings:
            # Beside the bars: within, it would cover the lines that it explains.
            panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.savefig(file, format="png", dpi=120)


def _speeds(entry: Entry) -> tuple[float, float, float]:
    """GFLOP/s: a quarter of the rounds below, median, a quarter above."""
    assert entry.spread is not None
    assert entry.flops_per_second is not None
    work = entry.flops_per_second * entry.spread.median / 1e9
    return work / entry.spread.upper, work / entry.spread.median, work / entry.spread.lower


def _cells(entry: Entry, rivals: Sequence[str]) -> list[str]:
    if entry.spread is None or entry.flops_per_second is None:
        return [entry.name, entry.status]
    spread = entry.spread
    return [
        entry.name,
        entry.precision or "",
        _digits(spread.median * 1e3),
        f"{_digits(spread.lower * 1e3)}-{_digits(spread.upper * 1e3)}",
        _digits(entry.fps),
        _digits(entry.flops_per_second / 1e9),
        "" if entry.share is None else f"{entry.share:.0%}",
        "exact" if entry.exact else "" if entry.snr is None else f"{entry.snr:.1f}",
        _digits(entry.memory / 1e6 if entry.memory else None),
        _digits(entry.start_seconds),
        *(f"{entry.ratios[name]:.2f}" if name in entry.ratios else "" for name in rivals),
    ]


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _tried(entry: Entry) -> str:
    if not entry.tried:
        return ""
    found = [
        f"{_settings(one['settings'])}: "
        + (f"{one['seconds'] * 1e3:.4g} ms" if "seconds" in one else one["reason"])
        for one in entry.tried
    ]
    return f" (the fastest of {'; '.join(found)})"


def _digits(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return ""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
