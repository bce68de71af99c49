"""``hatvid compare``: two videos beside each other, in numbers and on a page."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hatvid.cli.lines import one_line
from hatvid.cli.writing import check_target
from hatvid.errors import OptionError
from hatvid.jobs.partial import store

if TYPE_CHECKING:
    from hatvid.research.compare import Comparison, Measure

__all__ = ["compare"]


@click.command(short_help="Measure two videos frame by frame, and show the worst frames.")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="R",
    help="A video that both should look like; without it B is held against A.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PAGE.html",
    help="Write one page: numbers, plot, and the worst frames under a slider.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png|FILE.svg",
    help="Write the plot as a file of its own.",
)
@click.option(
    "--worst",
    type=click.IntRange(1, 50),
    default=5,
    show_default=True,
    metavar="N",
    help="Frames of B on the page.",
)
@click.option(
    "--worst-by",
    type=click.Choice(["psnr", "ssim", "vmaf", "flicker"]),
    default="psnr",
    show_default=True,
    help="What makes a frame bad.",
)
@click.option("--no-vmaf", is_flag=True, help="Leave VMAF out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, each frame in it.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV, a line for each frame.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def compare(**given: Any) -> None:
    """Measure PSNR, SSIM, VMAF and flicker of B against A, or of both against R.

    Frames are paired in their order. Videos of other sizes are brought to that of R,
    without R the larger one to that of the smaller (bicubic, antialiased): an
    enlargement is held against its source. Measured is luma. Flicker is what changes from
    frame to frame and does not in the reference, in steps of 8 bits.
    """
    if given["as_json"] and given["as_csv"]:
        raise OptionError("--json and --csv exclude each other; leave one out")
    if given["no_vmaf"] and given["worst_by"] == "vmaf":
        raise OptionError("--worst-by vmaf needs VMAF; leave --no-vmaf out")
    overwrite = given["overwrite"]
    inputs = [path for path in (given["a"], given["b"], given["reference"]) if path is not None]
    for target, suffixes in (
        (given["output"], (".html", ".htm")),
        (given["plot"], (".png", ".svg")),
    ):
        if target is not None:
            check_target(target, suffixes, overwrite=overwrite, inputs=inputs)
    from hatvid.research.compare import compare_videos, worst_frames
    from hatvid.research.plots import check_matplotlib, plot

    if given["output"] is not None or given["plot"] is not None:
        check_matplotlib()
    with click.progressbar(
        length=_length(given["a"]), file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        found = compare_videos(
            given["a"],
            given["b"],
            given["reference"],
            vmaf=not given["no_vmaf"],
            advanced=bar.update,
        )
    bad = found.measured[-1]
    by: Measure = given["worst_by"] if bad.of(given["worst_by"]) else "psnr"
    worst = worst_frames(bad, by, given["worst"])
    if given["plot"] is not None:
        kind: Literal["svg", "png"] = "svg" if given["plot"].suffix.lower() == ".svg" else "png"
        store(given["plot"], plot(found, kind=kind, marked=worst), overwrite=overwrite)
    if given["output"] is not None:
        from hatvid.research.page import page
        from hatvid.research.videos import Video

        pictures = {label: Video(path).pictures(worst) for label, path in found.files.items()}
        made = page(
            found,
            pictures,
            worst,
            svg=plot(found, kind="svg", marked=worst),
            chosen=f"Those of B with the worst {by}, not all out of one place.",
        )
        store(given["output"], made, overwrite=overwrite)
    if given["as_json"]:
        click.echo(json.dumps(found.as_dict() | {"worst": worst}))
    elif given["as_csv"]:
        csv.writer(sys.stdout, lineterminator="\n").writerows(found.csv_lines())
    else:
        _print(found, worst, by)


def _length(path: Path) -> int:
    """About how many frames there are, for the progress bar."""
    if not sys.stderr.isatty():
        return 0
    from hatvid.video.samples import Samples

    return Samples(path).frames or 0


def _print(found: Comparison, worst: list[int], by: str) -> None:
    for label, path in found.files.items():
        width, height = found.sizes[label]
        click.echo(one_line(f"{label}  {path}  {width}x{height}"))
    for note in found.notes:
        click.echo(one_line(note))
    click.echo(f"{len(found.seconds)} frames, measured at {found.width}x{found.height}")
    for one in found.measured:
        numbers = one.summary()
        words = [
            "PSNR " + (f"{numbers['psnr']:.3f} dB" if math.isfinite(numbers["psnr"]) else "equal"),
            f"SSIM {numbers['ssim']:.4f}",
        ]
        if "vmaf" in numbers:
            words.append(f"VMAF {numbers['vmaf']:.2f}")
        words.append(f"flicker {numbers['flicker']:.3f}")
        click.echo(f"{one.label} against {found.reference}: {', '.join(words)}")
    click.echo(f"worst frames of {found.measured[-1].label} by {by}: {', '.join(map(str, worst))}")
