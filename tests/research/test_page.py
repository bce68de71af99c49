"""The page of a comparison, opened in a browser."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hatvid.research.compare import Comparison, Measured
from hatvid.research.page import page
from hatvid.research.plots import plot

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def flat(color: tuple[int, int, int], height: int, width: int) -> torch.Tensor:
    return (torch.tensor(color) / 255).view(1, 3, 1, 1).expand(1, 3, height, width)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A is red, B is green in frame 2 and blue in frame 7, and larger."""
    numbers = [30.0 + n for n in range(9)]
    one = Measured(label="B", psnr=numbers, ssim=[0.9] * 9, vmaf=numbers, flicker=[0.1] * 9)
    found = Comparison(
        files={"A": Path("a.mkv"), "B": Path('</script><b onload="x">.mkv')},
        sizes={"A": (40, 30), "B": (80, 60)},
        width=40,
        height=30,
        measured=(one,),
        reference="A",
        seconds=tuple(n / 25 for n in range(9)),
        notes=("B is <reduced>",),
    )
    pictures = {
        "A": dict.fromkeys((2, 7), flat(RED, 30, 40)),
        "B": {2: flat(GREEN, 60, 80), 7: flat(BLUE, 60, 80)},
    }
    svg = plot(found, kind="svg", marked=[2, 7])
    assert svg == plot(found, kind="svg", marked=[2, 7]), "the same numbers, the same file"
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_bytes(page(found, pictures, [7, 2], svg=svg, chosen="The worst."))
    return path


@pytest.fixture(scope="module")
def opened(written: Path, chromium: str) -> Callable[..., str]:
    """``opened(fragment, *options)``: what the browser prints; a complaint of its is a failure."""

    def run(fragment: str, *options: str) -> str:
        done = subprocess.run(
            [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--enable-logging=stderr", "--virtual-time-budget=2000", *options),
                *(f"--user-data-dir={written.parent / 'profile'}", written.as_uri() + fragment),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    return run


def test_it_shows_what_its_address_says(opened: Callable[..., str]) -> None:
    first = opened("", "--dump-dom")
    assert '<body data-frame="7">' in first
    assert "--at: 50%" in first
    other = opened("#frame=2&at=25&left=B&right=A", "--dump-dom")
    assert '<body data-frame="2">' in other
    assert "--at: 25%" in other
    assert 'alt="B, frame 2"' in other
    assert re.search(r'data-number="2" aria-pressed="true"', other)
    assert "B: PSNR (dB) 32, SSIM 0.9, VMAF 32, flicker 0.1" in other
    wrong = opened("#frame=99&at=400&left=Z", "--dump-dom")
    assert '<body data-frame="7">' in wrong
    assert "--at: 50%" in wrong


def test_the_slider_parts_the_pictures(opened: Callable[..., str], tmp_path: Path) -> None:
    """Of what is painted: A left of the line, B right of it, in the parts asked for."""
    for frame, at, right in ((7, 25, BLUE), (2, 75, GREEN)):
        shot = tmp_path / f"{frame}.png"
        opened(f"#frame={frame}&at={at}", f"--screenshot={shot}", "--window-size=800,2600")
        pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
        mine = np.abs(pixels - RED).max(2) < 12
        other = np.abs(pixels - right).max(2) < 12
        row = int(np.argmax((mine | other).sum(1)))
        left, beyond = np.flatnonzero(mine[row]), np.flatnonzero(other[row])
        assert left.max() < beyond.min()
        assert len(left) / (len(left) + len(beyond)) == pytest.approx(at / 100, abs=0.02)


def test_it_needs_nothing_else(written: Path) -> None:
    text = written.read_text("utf-8")
    assert "</script><b" not in text
    assert "B is &lt;reduced&gt;." in text
    assert "default-src 'none'" in text
    fetched: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names = {"src", "href", "xlink:href", "srcset", "data", "action"}
            fetched.extend(f"{tag} {v}" for k, v in attrs if k in names and v)

    Links().feed(text)
    assert [link for link in fetched if not link.split()[1].startswith(("#", "data:"))] == []
