"""``hatvid lam``: which pixels a network uses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hatvid.cli.lines import one_line
from hatvid.cli.writing import check_target
from hatvid.errors import OptionError
from hatvid.jobs.partial import store
from hatvid.options import DEFAULT_MODEL, EngineOptions

__all__ = ["lam"]


def _place(text: str) -> tuple[int, int]:
    x, comma, y = text.partition(",")
    try:
        if comma:
            return int(x), int(y)
    except ValueError:
        pass
    raise OptionError(f"at is {text!r}; give a pixel of the picture as X,Y, as in 40,32")


@click.command(short_help="Show which pixels networks use for a part of a picture.")
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--at",
    required=True,
    metavar="X,Y",
    help="The pixel of IMAGE, from 0, around which the output is explained.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=(DEFAULT_MODEL,),
    show_default=True,
    metavar="NAME|PATH",
    help="A known name, or a checkpoint; may be repeated: a row of the figure each.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FIGURE.png",
    help="Default: NAME_lam.png beside the picture.",
)
@click.option(
    "--window",
    type=click.IntRange(2, 256),
    default=16,
    show_default=True,
    metavar="N",
    help="Output pixels along a side of what is explained.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    metavar="N",
    help="Of the path from the blurred picture to the sharp one.",
)
@click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:N."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON array, an object for each model.")
@click.option("--overwrite", is_flag=True, help="Replace a figure that exists.")
def lam(**given: Any) -> None:
    """Draw local attribution maps (arXiv 2011.11036) and print each diffusion index.

    IMAGE is what a network is given. The redder a pixel, the more it contributes to the
    edges in the marked window. The diffusion index (DI) is the higher, the more pixels
    take part.
    """
    image: Path = given["image"]
    x, y = _place(given["at"])
    target: Path = given["output"] or image.with_name(f"{image.stem}_lam.png")
    check_target(target, (".png",), overwrite=given["overwrite"], inputs=[image])
    engine = EngineOptions(engine="eager", device=given["device"])
    from hatvid.model.zoo import resolve_model

    names = [resolve_model(model).name for model in given["models"]]  # before torch is loaded
    from hatvid.engine import resolve_engine
    from hatvid.model.zoo import load_model
    from hatvid.research.figures import lam_figure
    from hatvid.research.lam import attribute, window_at
    from hatvid.research.sheet import png_of
    from hatvid.video.stills import read_picture

    device = resolve_engine(engine).device
    picture = read_picture(image).rgb[None].to(device)
    height, width = picture.shape[2:]
    steps, found = given["steps"], []
    count = steps * len(names)
    with click.progressbar(length=count, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for name, model in zip(names, given["models"], strict=True):
            network = load_model(model).to(device)
            try:
                window = window_at(x, y, network.scale, height, width, given["window"])
            except ValueError as error:
                raise OptionError(f"{image}: {error}; choose another --at or --window") from error
            lam = attribute(network, picture, window, steps=steps, advanced=bar.update)
            found.append((name, network.scale, lam))
    store(target, png_of(lam_figure(picture, found, steps=steps)), overwrite=given["overwrite"])
    if given["as_json"]:
        click.echo(
            json.dumps(
                [
                    {
                        "name": name,
                        "scale": scale,
                        "window": lam.window,
                        "diffusion_index": lam.diffusion_index,
                        "objective": lam.objective,
                        "blurred_objective": lam.blurred,
                        "attributed": float(lam.signed.double().sum()),
                    }
                    for name, scale, lam in found
                ]
            )
        )
        return
    click.echo(one_line(f"{target}: around {x},{y} of {width}x{height} pixels"))
    for name, _, lam in found:
        click.echo(one_line(f"{name}: DI {lam.diffusion_index:.2f}"))
