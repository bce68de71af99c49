"""Options of jobs in segments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from hatvid.cli.options import together
from hatvid.errors import OptionError
from hatvid.segment_options import SegmentOptions

__all__ = ["given_segments", "segment_options", "sharing_options"]

segment_options = together(
    click.option(
        "--segment",
        type=float,
        metavar="SECONDS",
        help="Length of the parts that are kept once done; 0: none.  [default: 10]",
    ),
    click.option("--restart", is_flag=True, help="Throw away what an earlier run kept."),
    click.option(
        "--per-segment",
        is_flag=True,
        help="Accept a bit rate or buffer of the encoder for each segment by itself.",
    ),
)

sharing_options = together(
    click.option(
        "--workers",
        metavar="N|auto|cuda:0,...",
        help="Processes that share the segments, each with an engine; auto: one a GPU.",
    ),
    click.option(
        "--cluster",
        metavar="ADDRESS|auto|local",
        help="Share the segments among the machines of a Ray cluster; --workers limits how many.",
    ),
    click.option(
        "--mixed", is_flag=True, help="Let devices of several kinds take part; their bits differ."
    ),
    click.option(
        "--shard",
        metavar="K/N",
        help="Compute the K-th of N parts; hatvid join puts them together.",
    ),
)


def given_segments(given: Mapping[str, Any], *, join: bool = False) -> SegmentOptions:
    """What :data:`segment_options` and :data:`sharing_options` collected."""
    return SegmentOptions(
        length=given["segment"],
        restart=given["restart"],
        per_segment=given["per_segment"],
        workers=_workers(given.get("workers")),
        cluster=given.get("cluster"),
        mixed=given.get("mixed", False),
        shard=_shard(given.get("shard")),
        join_only=join,
    )


def _workers(text: str | None) -> int | tuple[str, ...] | None:
    if text is None:
        return None
    if text == "auto":
        return 0
    if not re.fullmatch(r"\d+", text, re.ASCII):
        return tuple(text.split(","))
    if int(text) == 0:
        raise OptionError("--workers is 0; it must be at least 1, or auto")
    return int(text)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if match is None:
        raise OptionError(f"--shard {text!r} is no part; write 2/5 for the second of five")
    return int(match[1]), int(match[2])
