"""``hatvid export``: a network for other programs to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hatvid.cli.lines import one_line
from hatvid.cli.options import model_options
from hatvid.errors import OptionError

__all__ = ["export"]


@click.command(short_help="Write a network as ONNX, for vs-mlrt, onnxruntime, TensorRT.")
@click.option(
    "-o",
    "--onnx",
    "output",
    type=click.Path(path_type=Path),
    metavar="OUT.onnx",
    required=True,
    help="The file to write.",
)
@model_options
@click.option(
    "--scale",
    type=click.IntRange(2, 4),
    metavar="2|3|4",
    help="What the network must have.  [default: what the model has; 4 for auto]",
)
@click.option("--height", type=click.IntRange(1), metavar="H", help="Of the one input shape.")
@click.option("--width", type=click.IntRange(1), metavar="W", help="Of the one input shape.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Of the one input shape; vs-mlrt wants 1.",
)
@click.option("--dynamic", is_flag=True, help="Any height, width and batch; HATs only.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16: rescaled so that it stays in range; input and output are fp32.",
)
@click.option(
    "--opset",
    type=click.IntRange(18, 22),
    default=18,
    show_default=True,
    metavar="N",
    help="Version of ONNX's operators, 18 to 22.",
)
@click.option("--no-check", is_flag=True, help="Leave out the run in onnxruntime.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
def export(**given: Any) -> None:
    """Write a network as an ONNX file, for one input shape (--height and --width) or for
    any (--dynamic).

    Weights, position biases and masks are in the file. Before it gets its name it is run
    in onnxruntime, if that is installed, and compared with PyTorch.
    """
    height, width = given["height"], given["width"]
    if given["dynamic"] and (height, width, given["batch"]) != (None, None, 1):
        raise OptionError("--dynamic takes any shape; leave --height, --width and --batch out")
    if not given["dynamic"] and None in (height, width):
        raise OptionError("give --height and --width, or --dynamic for any size")
    from hatvid.model.zoo import resolve_model

    resolve_model(given["model"], given["scale"])  # a wrong name is answered before torch
    from hatvid.jobs.export import export_onnx

    done = export_onnx(
        given["output"],
        model=given["model"],
        scale=given["scale"],
        height=height,
        width=width,
        batch=given["batch"],
        opset=given["opset"],
        precision=given["precision"],
        check=not given["no_check"],
        overwrite=given["overwrite"],
    )
    shape = "any size" if given["dynamic"] else f"{given['batch']}x3x{height}x{width}"
    click.echo(
        f"{one_line(str(given['output']))}: {done.name}, x{done.scale}, {shape}, "
        f"{given['precision']}, {done.size / 1e6:.1f} MB"
    )
    if done.error is not None:
        click.echo(f"largest error in onnxruntime: {done.error:.1e} of the output's deviation")
    elif given["no_check"]:
        click.echo("not run: --no-check")
    else:
        click.echo('not run: onnxruntime is not installed (pip install "hatvid[onnx]")')
