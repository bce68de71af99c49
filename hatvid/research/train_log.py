"""What a training wrote down: rows for spreadsheets, and curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hatvid.errors import OutputError
from hatvid.research.atomic import write_whole

__all__ = ["Measured", "Rows", "Trained", "draw_curves", "hours"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Some iterations, in one row."""

    iteration: int
    """Of the whole run, from 1: the last one that the row covers."""

    stage: int
    loss: float
    """Mean over the iterations since the row before."""

    rate: float
    gradient: float
    """Norm in the last iteration, before clipping."""

    seconds: float
    """A step, on average."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One validation, in one row."""

    iteration: int
    stage: int
    psnr: float
    """dB on Y, mean over the pictures, of the averaged weights."""

    ssim: float
    bicubic: float
    """dB of MATLAB's bicubic enlargement, for comparison."""


class Rows[Row: Trained | Measured]:
    """A CSV file of rows of one kind, each on the disk as soon as it is added.

    Args:
        path: of the file.
        kind: of its rows.
        upto: rows of later iterations are removed: they will come again.

    Raises:
        OutputError: the disk refuses.
    """

    def __init__(self, path: Path, kind: type[Row], upto: int) -> None:
        self._path = path
        self._names = [field.name for field in fields(kind)]
        kept = [row for row in read_rows(path) if int(row["iteration"]) <= upto]
        write_whole(path, self._text([self._names, *([r[n] for n in self._names] for r in kept)]))

    def add(self, row: Row) -> None:
        """Append a row."""
        values = [f"{v:.6g}" if isinstance(v, float) else v for v in asdict(row).values()]
        try:
            with self._path.open("ab") as file:
                file.write(self._text([values]))
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written ({error.strerror}); free some space and run the "
                "same command again"
            ) from error

    def _text(self, rows: Sequence[Sequence[Any]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file, [] if there is none; a last one that is cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            row
            for row in csv.DictReader(file)
            if all(row.values()) and None not in row and row["iteration"].isdigit()
        ]


def draw_curves(folder: Path) -> None:
    """Draw loss, rate and PSNR over the iterations into ``curves.png``.

    Raises:
        OutputError: the disk refuses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trained, measured = read_rows(folder / "log.csv"), read_rows(folder / "validation.csv")
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates, quality = figure.subplots(3, sharex=True)
    at = [int(row["iteration"]) for row in trained]
    losses.plot(at, [float(row["loss"]) for row in trained])
    losses.set(ylabel="L1 loss", yscale="log" if trained else "linear")
    rates.plot(at, [float(row["rate"]) for row in trained])
    rates.set_ylabel("learning rate")
    at = [int(row["iteration"]) for row in measured]
    quality.plot(at, [float(row["psnr"]) for row in measured], marker=".", label="network")
    quality.plot(at, [float(row["bicubic"]) for row in measured], "--", label="bicubic")
    quality.set(xlabel="iteration", ylabel="PSNR-Y, dB")
    if measured:
        quality.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    write_whole(folder / "curves.png", file.getvalue())


def hours(seconds: float) -> str:
    """As a person reads it: ``1 h 05 min``."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
