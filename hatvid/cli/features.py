"""``hatvid features``: what a network holds between its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hatvid.cli.lines import one_line
from hatvid.cli.options import model_options
from hatvid.cli.writing import check_target
from hatvid.errors import OptionError
from hatvid.jobs.partial import store
from hatvid.options import EngineOptions

__all__ = ["features"]


@click.command(short_help="Draw a network's intermediate feature maps.")
@click.argument("image", type=click.Path(path_type=Path))
@model_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FIGURE.png",
    help="Default: NAME_features.png beside the picture.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help="In place of the groups of the body and the convolutions around it, as in "
    "layers.0.residual_group.blocks.1; may be repeated.",
)
@click.option(
    "--window",
    type=click.IntRange(min=2),
    metavar="N",
    help="Side of the windows whose borders are looked for; default: the network's own.",
)
@click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:N."
)
@click.option("--overwrite", is_flag=True, help="Replace a figure that exists.")
def features(**given: Any) -> None:
    """Draw the mean over the channels of what each layer gives for IMAGE.

    Printed for each, where the network has windows: how much more neighbouring pixels
    differ across the borders of windows than elsewhere. Where that is well above 1, windows
    can be seen as blocks.
    """
    image: Path = given["image"]
    target: Path = given["output"] or image.with_name(f"{image.stem}_features.png")
    check_target(target, (".png",), overwrite=given["overwrite"], inputs=[image])
    engine = EngineOptions(engine="eager", device=given["device"])
    from hatvid.model.zoo import resolve_model

    resolve_model(given["model"])  # a wrong name is answered before torch is loaded
    from hatvid.engine import resolve_engine
    from hatvid.model.zoo import load_model
    from hatvid.research.features import feature_maps, window_of
    from hatvid.research.figures import feature_figure
    from hatvid.research.sheet import png_of
    from hatvid.video.stills import read_picture

    device = resolve_engine(engine).device
    picture = read_picture(image).rgb[None].to(device)
    network = load_model(given["model"]).to(device)
    maps = feature_maps(network, picture, given["layers"])
    if not maps:
        raise OptionError("no layer of this network gives a map; name one with --layer")
    window = given["window"] or window_of(network)
    store(target, png_of(feature_figure(maps, window)), overwrite=given["overwrite"])
    click.echo(one_line(f"{target}: {len(maps)} map{'s' * (len(maps) != 1)}"))
    wide = max(len(one.layer) for one in maps)
    for one in maps:
        channels, height, width = one.values.shape
        step = "" if window is None else f"  x{one.step(window):.2f} at windows"
        click.echo(one_line(f"{one.layer:{wide}}  {width}x{height}, {channels} channels{step}"))
