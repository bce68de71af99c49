"""Options for inputs that are VapourSynth scripts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hatvid.cli.options import KeyValue, together
from hatvid.options import ScriptOptions

__all__ = ["given_script", "script_options"]

script_options = together(
    click.option(
        "--arg",
        "script_args",
        type=KeyValue(),
        multiple=True,
        help="A name that a VapourSynth script finds, and its text; may be repeated.",
    ),
    click.option(
        "--output-index",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="Which output of a script.",
    ),
    click.option(
        "--streams-from",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Sound, subtitles, chapters and tags for a script's frames.",
    ),
)


def given_script(given: Mapping[str, Any]) -> ScriptOptions:
    """What :func:`script_options` collected."""
    return ScriptOptions(
        args=dict(given["script_args"]),
        output_index=given["output_index"],
        streams_from=given["streams_from"],
    )
