"""``hatvid preview``: a sheet, and an estimate that says how it came about."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hatvid.cli.preview import preview
from hatvid.errors import OutputExistsError, UnknownModelError


@pytest.fixture
def run(cheap: list[str]) -> Callable[..., Result]:
    def invoke(*arguments: str | Path) -> Result:
        given = [*cheap, *(str(argument) for argument in arguments)]
        return CliRunner().invoke(preview, given, standalone_mode=False)

    return invoke


def test_it_draws_and_estimates(run: Callable[..., Result], clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "sheet.png"
    done = run(clip, "-o", target, "--at", "1f", "--at", "0.2")
    assert done.exception is None, done.output
    with Image.open(target) as image:
        assert image.size == (320 + 2 * 64 + 48, 2 * (28 + 48 + 12))
    drawn, speed, estimate = done.output.splitlines()
    assert "2 frames by tiny-x2" in drawn
    assert re.fullmatch(r"[\d.e-]+ s a frame on cpu \(eager fp32\)", speed)
    assert re.fullmatch(
        r"about .* for the whole video, an estimate: 6 frames x [\d.e-]+ s", estimate
    )
    again = run(clip, "-o", target)
    assert isinstance(again.exception, OutputExistsError)


def test_wrong_usage_is_told_apart(run: Callable[..., Result], clip: Path) -> None:
    for arguments in ((clip, "--frames", "0"), (clip, "--at", "noon"), (clip, "--scale", "5")):
        done = run(*arguments)
        assert isinstance(done.exception, click.UsageError), done.output
    done = run(clip, "--model", "no-such")
    assert isinstance(done.exception, UnknownModelError)
    assert sorted(path.name for path in clip.parent.iterdir()) == ["clip.mp4"]
