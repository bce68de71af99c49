"""``hatvid evaluate``: the tables of the papers."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from hatvid.cli.lines import one_line
from hatvid.cli.options import NumberOrAuto
from hatvid.cli.writing import check_target
from hatvid.errors import OptionError
from hatvid.jobs.partial import store
from hatvid.options import EngineName, EngineOptions, Precision, TileOptions

if TYPE_CHECKING:
    from hatvid.research.evaluate import Evaluation
    from hatvid.upscaler import Upscaler

__all__ = ["evaluate"]


@click.command(short_help="Measure networks over a set of pictures, as the papers do.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|PATH",
    help="A known name, or a checkpoint; may be repeated. Default: the embedded one of that "
    "scale, where there is one.",
)
@click.option(
    "--scale",
    type=click.IntRange(2, 4),
    default=4,
    show_default=True,
    metavar="2|3|4",
    help="Of the set and of the models.",
)
@click.option(
    "--engine",
    type=click.Choice(get_args(EngineName)),
    default="eager",
    show_default=True,
    help="What runs the networks.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp32",
    show_default=True,
    help="What they compute in.",
)
@click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:N."
)
@click.option(
    "--tile",
    type=NumberOrAuto(),
    default=0,
    show_default=True,
    help="Side of a tile in input pixels; 0: whole pictures, as the papers have it.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, each picture in it.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV, a line for each picture.")
@click.option(
    "--crops",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw a detail of the first eight pictures by each row.",
)
@click.option("--overwrite", is_flag=True, help="Replace a sheet of crops that exists.")
def evaluate(**given: Any) -> None:
    """Mean PSNR and SSIM of nearest, bicubic, Lanczos and each model over the pictures of DIR.

    DIR holds large pictures, from which the small ones are made as MATLAB makes them; or
    both, as the sets are published: HR/ and LR_bicubic/X4/, or image_SRF_4/. Measured is
    Y of BT.601, of 8-bit pictures, without a border as wide as the scale.
    """
    if given["as_json"] and given["as_csv"]:
        raise OptionError("--json and --csv exclude each other; leave one out")
    scale = given["scale"]
    if given["crops"] is not None:
        inputs = _pictures(given["folder"], scale)
        check_target(given["crops"], (".png",), overwrite=given["overwrite"], inputs=inputs)
    engine = EngineOptions(
        engine=given["engine"], precision=given["precision"], device=given["device"]
    )
    TileOptions(tile=given["tile"])  # says what is wrong with it
    from hatvid.model.catalog import EMBEDDED
    from hatvid.model.zoo import resolve_model

    models = given["models"] or [model.name for model in EMBEDDED if model.scale == scale]
    for model in models:
        resolve_model(model, scale)  # a wrong name is answered before torch is loaded
    from hatvid.research.evaluate import evaluate as measure
    from hatvid.research.pairs import find_pairs
    from hatvid.upscaler import Upscaler

    def make(model: str) -> Upscaler:
        return Upscaler.from_checkpoint(
            model,
            scale=scale,
            engine=engine.engine,
            precision=engine.precision,
            device=engine.device,
            tile=given["tile"],
        )

    pairs = find_pairs(given["folder"], scale)
    count = len(pairs) * (3 + len(models))
    with click.progressbar(length=count, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        found = measure(
            pairs,
            scale,
            models,
            make,
            crops=given["crops"] is not None,
            advanced=bar.update,
        )
    if given["crops"] is not None:
        from hatvid.research.sheet import png_of

        assert found.crops is not None
        store(given["crops"], png_of(found.crops), overwrite=given["overwrite"])
    if given["as_json"]:
        click.echo(json.dumps(found.as_dict()))
    elif given["as_csv"]:
        from hatvid.research.evaluate import csv_lines

        csv.writer(sys.stdout, lineterminator="\n").writerows(csv_lines(found))
    else:
        _print_table(given["folder"], found)


def _pictures(folder: Path, scale: int) -> Iterator[Path]:
    """The files of a set, looked for when the first is asked for: that loads torch, and a
    sheet whose name is free needs none.
    """
    from hatvid.research.pairs import find_pairs

    for pair in find_pairs(folder, scale):
        yield from (path for path in (pair.large, pair.small) if path is not None)


def _print_table(folder: Path, found: Evaluation) -> None:
    count = len(found.names)
    small = "reduced by MATLAB's bicubic" if found.made else "small ones as given"
    click.echo(one_line(f"{folder}: {count} picture{'s' * (count != 1)}, x{found.scale}, {small}"))
    wide = max(len(row.name) for row in found.rows)
    click.echo(f"{'':{wide}}  {'PSNR':>7}  {'SSIM':>6}")
    for row in found.rows:
        click.echo(one_line(f"{row.name:{wide}}  {row.psnr:7.3f}  {row.ssim:6.4f}"))
