"""Options of commands that may take results of tiles that were computed before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import click

from hatvid.cli.options import together
from hatvid.options import ReuseMode, ReuseOptions

__all__ = ["given_reuse", "reuse_options"]

reuse_options = together(
    click.option(
        "--reuse",
        type=click.Choice(get_args(ReuseMode)),
        default="auto",
        show_default=True,
        help="Whether a tile or frame of the same bytes takes the result of the one before; "
        "auto: where the engine gives the same bits for it, on a GPU whole frames only; on: tiles "
        "on a GPU as well, which travel to main memory to be looked up.",
    ),
    click.option(
        "--reuse-memory",
        type=int,
        metavar="MIB",
        help="For what is kept.  [default: 16 frames, up to 1024 or 2 frames; at most an eighth of "
        "what is free]",
    ),
)


def given_reuse(given: Mapping[str, Any]) -> ReuseOptions:
    """What :data:`reuse_options` collected."""
    return ReuseOptions(
        mode=given["reuse"],
        memory=given["reuse_memory"],
    )
