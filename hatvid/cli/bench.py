"""``hatvid bench``: how fast the network runs, and what it costs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from hatvid.cli.bench_json import write_figures
from hatvid.cli.bench_operators import operators_option, run_operators
from hatvid.cli.bench_pipeline import pipeline_option, run_pipeline
from hatvid.cli.bench_race import SYNTHETIC, run_races, separated
from hatvid.errors import OptionError

if TYPE_CHECKING:
    from hatvid.bench.traffic import Traffic

__all__ = ["bench"]

_OTHERS = ("traffic", "kernels", "pipeline", "operators")
"""What may be done in place of a race."""

SMALLEST, LARGEST = 16, 16_384
"""Pixels along a side."""


class Size(click.ParamType[tuple[int, int]]):
    """Width and height as in 1280x720."""

    name = "WxH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", str(value))
        if found is None:
            self.fail(f"{value!r} is no size; write it as 1280x720", param, ctx)
        width, height = int(found[1]), int(found[2])
        if not SMALLEST <= min(width, height) <= max(width, height) <= LARGEST:
            self.fail(f"{value!r} has a side outside {SMALLEST} to {LARGEST}", param, ctx)
        return width, height


@click.command(short_help="Race hatvid against other ways to run HAT; or count what a frame costs.")
@click.option("--race", is_flag=True, help="Measure; what is done without the four below.")
@click.option("--traffic", is_flag=True, help="FLOPs, bytes and kernel launches of a frame.")
@click.option("--kernels", is_flag=True, help="Registers and memory of hatvid's own GPU kernels.")
@pipeline_option
@operators_option
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="hat-s, hat, hat-l, hat-nano (of which only the shape counts, or weights are drawn at "
    "random), or a checkpoint. To race several, repeat it.  [default: hat-nano-x4; of --traffic "
    "hat]",
)
@click.option(
    "--size",
    "sizes",
    type=Size(),
    multiple=True,
    metavar="WxH",
    help="Of the frame, or of a tile, before it is upscaled. To race several, repeat it.  "
    "[default: 64x64; of --traffic 1280x720]",
)
@click.option("--scale", type=click.IntRange(1, 8), help="Of a network without a checkpoint.")
@click.option(
    "--clip",
    is_flag=False,
    flag_value=SYNTHETIC,
    metavar="[FILE]",
    help="Race with frames of a video, rivals in tiles too; without FILE, of a made-up one of "
    "320x180.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 64),
    default=6,
    show_default=True,
    metavar="N",
    help="Of the clip: how many, spread over it.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME,...",
    help="Race these alone, by parts of their names; the published network and the matrix "
    "products always take part.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Turns of each contestant.  [default: 7; 3 with --quick]",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="Of each contestant.  [default: one a core]",
)
@click.option(
    "--quick",
    is_flag=True,
    help="A race of a minute or two: without torch.compile, rivals' settings not tried.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="What is computed in. Of --traffic fp32 or fp16 [default: fp16]; of --operators fp32 or "
    "bf16 [default: fp32]; of --pipeline [default: as a job].",
)
@click.option("--markdown", is_flag=True, help="The table in Markdown.")
@click.option(
    "--json",
    "json_file",
    type=click.File("w", encoding="utf-8", lazy=True),
    metavar="FILE",
    help="Write the figures as one JSON object, too; - is standard output, without a table.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw a race as a chart (PNG).",
)
@click.pass_context
def bench(context: click.Context, /, **given: Any) -> None:
    """Race hatvid's engines against other ways to run HAT on this CPU.

    Each contestant has a process of its own, the same CPUs and as many threads, and is
    stopped while others take their turns: the published network in PyTorch, the same under
    torch.compile, onnxruntime, vs-mlrt's OpenVINO plugin, and what the CPU reaches in products
    of matrices. Needs hatvid[bench]. Without any option this is a quick race of hat-nano.

    With --traffic nothing is measured: the published network and each of hatvid's forms of it
    run once on tensors without memory, and what their operators would do on an NVIDIA GPU
    is added up; the times are the least that three GPUs could take by their datasheets. With
    --kernels hatvid's own kernels are compiled for three GPUs, none of which needs to be here.

    With --pipeline a whole job is measured: with a network that returns at once, by turns with
    the same job as it is, of hat-nano-x4 or another checkpoint (--model). So it shows what
    decoding, colours, tiles, encoding and Python take. With --operators OpenVINO's engine runs
    with its clocks on, and each kind of operator is told.

    How all of that is measured and counted stands in docs/performance.md.
    """
    models = separated(given["models"])
    others = any(given[name] not in (False, None) for name in _OTHERS)
    precision = given["precision"]
    if given["operators"] and precision == "fp16":
        raise OptionError("engine openvino does not compute in fp16; choose bf16 or fp32")
    if given["traffic"]:
        if precision == "bf16":
            raise OptionError("--traffic counts fp32 or fp16; choose one of them")
        if len(models) > 1 or len(given["sizes"]) > 1:
            raise OptionError("--traffic counts one model and one size; leave out the others")
        _traffic(
            model=models[0] if models else "hat",
            size=given["sizes"][0] if given["sizes"] else (1280, 720),
            precision=precision or "fp16",
            **{name: given[name] for name in ("scale", "markdown", "json_file")},
        )
    if given["kernels"]:
        from hatvid.bench.kernels import compiled_kernels, kernel_table

        click.echo(kernel_table(compiled_kernels()))
    if given["pipeline"] is not None:
        if len(models) > 1:
            raise OptionError("--pipeline runs one model; leave out the others")
        if given["race"]:  # threads wait as an encoder's job has it, and so would rivals'
            raise OptionError("--pipeline is measured by itself; leave out --race")
        run_pipeline(
            given["pipeline"],
            model=models[0] if models else None,
            precision=precision or "auto",
            **{name: given[name] for name in ("rounds", "threads", "markdown", "json_file")},
        )
    if given["operators"]:
        if len(models) > 1 or len(given["sizes"]) > 1:
            raise OptionError("--operators runs one model and one size; leave out the others")
        run_operators(
            models[0] if models else "hat-nano-x4",
            given["sizes"][0] if given["sizes"] else (64, 64),
            precision=precision or "fp32",
            runs=given["rounds"],
            **{name: given[name] for name in ("scale", "threads", "markdown", "json_file")},
        )
    if given["race"] or not others:
        _race(context, models, given)


def _race(context: click.Context, models: list[str], given: dict[str, Any]) -> None:
    alone = not any(map(_was_given(context), given))
    sizes = given["sizes"]
    if not sizes and given["clip"] is None:
        sizes = ((64, 64),)
    file = given["json_file"]
    shown = file is not None and file.name == "-"
    run_races(
        models=models or ["hat-nano-x4"],
        sizes=sizes,
        quick=given["quick"] or alone,
        json_path=None if file is None or shown else Path(file.name),
        json_shown=shown,
        **{
            name: given[name]
            for name in ("scale", "clip", "frames", "only", "rounds", "threads", "markdown", "plot")
        },
    )
    if alone:
        click.echo(
            "quick: a few rounds, no torch.compile, vs-mlrt as it is set up; for all of it "
            "hatvid bench --race, and --model, --size, --clip: see hatvid bench --help"
        )


def _was_given(context: click.Context) -> Callable[[str], bool]:
    default = click.core.ParameterSource.DEFAULT
    return lambda name: context.get_parameter_source(name) != default


def _traffic(
    *,
    model: str,
    size: tuple[int, int],
    scale: int | None,
    precision: str,
    markdown: bool,
    json_file: IO[str] | None,
) -> None:
    from hatvid.bench.networks import network_config
    from hatvid.bench.traffic import frame_traffic

    config = network_config(model, scale)
    width, height = size
    rows = frame_traffic(config, width, height, precision)
    figures = {
        "model": model,
        "width": width,
        "height": height,
        "scale": config.upscale,
        "precision": precision,
        "measured": False,
        "forms": [row.as_dict() for row in rows],
    }
    if write_figures(json_file, figures):
        click.echo(f"{model} x{config.upscale}, {width}x{height}, {precision}")
        _print(rows, markdown)


def _print(rows: list[Traffic], markdown: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    for name in ("form", "attention"):
        table.add_column(name, no_wrap=True)
    names = [
        "GFLOP",
        "G elements",
        "GB read",
        "GB written",
        "MB from CPU",
        "launches",
        "ms to launch",
    ]
    for name in [*names, *(f"ms {gpu}" for gpu in rows[0].roofline_seconds)]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.form,
            row.attention,
            _digits(row.flops / 1e9),
            _digits(row.elements / 1e9),
            _digits(row.read / 1e9),
            _digits(row.written / 1e9),
            _digits(row.uploaded / 1e6),
            f"{row.launches:,}",
            _digits(row.launch_seconds * 1e3),
            *(_digits(seconds * 1e3) for seconds in row.roofline_seconds.values()),
        )
    Console(width=200, highlight=False).print(table)
    click.echo("arithmetic, nothing measured: the least time of each GPU by its datasheet;")
    click.echo("launches at 4 us each, by assumption; one launch with a CUDA graph")


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
