"""A GPU that is asked for and cannot be had: one line, and nothing of PyTorch's beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpus import TOO_OLD, Machine


@pytest.mark.parametrize(
    ("given", "device", "code", "says"),
    [
        (lambda machine: machine.without(RuntimeError(TOO_OLD)), "cuda", 1, "update the driver"),
        (lambda machine: machine.having((6, 1)), "cuda", 1, "compute capability 6.1"),
        (lambda machine: machine.having((9, 0)), "cuda:3", 2, "the last one is cuda:0"),
    ],
    ids=["driver", "GPU", "number"],
)
def test_one_line_that_says_what_to_do(
    refused: Callable[..., Any],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: Callable[[Machine], None],
    device: str,
    code: int,
    says: str,
) -> None:
    given(Machine(monkeypatch))
    refused(clip, "-o", tmp_path / "out.mkv", "--device", device, code=code, says=says)
