"""The examples of docs/blocks.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "blocks.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("number", range(4))
def test_example(number: int) -> None:
    torch.manual_seed(number)
    code = compile(EXAMPLES[number], f"{PAGE.name} {number}", "exec")
    exec(code, {"__name__": "example"})


def test_every_exported_block_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in ("CAB", "HAB", "OCAB", "RHAG", "WindowTables"):
        assert f"`{name}" in text
