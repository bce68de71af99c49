"""What the command answers without loading a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import hatvid as package
from hatvid.cli.main import cli

# Runs the command and then says, on the last line of standard error, what was imported.
WATCHED = """
import json, sys
from hatvid.cli.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = ["torch", "av", "numpy", "openvino", "vapoursynth", "rich"]
    print(json.dumps([name for name in heavy if name in sys.modules]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "Make a video 2, 3 or 4 times larger."),
        (["-h"], 0, "Make a video 2, 3 or 4 times larger."),
        (["upscale", "--help"], 0, "Usage: hatvid upscale [OPTIONS] INPUT"),
        (["--version"], 0, f"hatvid, version {package.__version__}\n"),
        (["upscale", "/gone.mp4"], 1, "no such file"),
        (["upscale", __file__, "-o", "out.mp4", "--tile", "17"], 2, "tile is 17"),
        (["upscale", __file__, "-o", "out.mp4", "--model", "zebra"], 2, "no model is called"),
        (["upscale", __file__, "-o", "out.xyz"], 2, "not written by hatvid"),
    ],
)
def test_nothing_heavy_is_imported(
    hatvid_program: Callable[..., Any], arguments: list[str], code: int, says: str
) -> None:
    outcome = hatvid_program(*arguments, code=WATCHED)
    *said, imported = outcome.err.splitlines()
    assert outcome.code == code
    assert says in outcome.out + "\n".join(said)
    assert json.loads(imported) == []


def test_as_a_module(hatvid_program: Callable[..., Any]) -> None:
    outcome = hatvid_program("--version")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"hatvid, version {package.__version__}\n"


def test_help_names_every_option_with_a_word_about_it() -> None:
    for command in cli.commands.values():
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or getattr(parameter, "help", "")
