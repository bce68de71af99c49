"""What each kind of operator takes, by OpenVINO's clocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hatvid.bench.operators import kind_of, operator_times
from hatvid.engine.openvino import Operator, native_bf16


def test_kinds() -> None:
    def kind(type_: str, name: str) -> str:
        return kind_of(Operator(type=type_, name=name, seconds=1))

    blocks = "__module.layers.0.residual_group.blocks.1"
    assert kind("Subgraph", f"{blocks}.attn/aten::transpose/Transpose").startswith("attention")
    assert kind("Subgraph", f"{blocks}/aten::add/Add").startswith("sums")
    assert kind("FullyConnected", f"{blocks}.attn/aten::linear/MatMul") == "matrix products"
    assert kind("Pad", blocks) == "the rest"


def test_all_of_a_run_is_told(checkpoints: dict[int, Path]) -> None:
    times = operator_times(str(checkpoints[2]), 48, 32, threads=1, runs=2)
    kinds = {kind.name: kind for kind in times.kinds}
    assert {"matrix products", "convolutions", "LayerNorm"} <= set(kinds)
    attention = next(kind for name, kind in kinds.items() if name.startswith("attention"))
    assert attention.count >= 2, "a block's and the overlapping one"
    assert all(kind.seconds > 0 for kind in times.kinds)
    assert list(times.kinds) == sorted(times.kinds, key=lambda kind: -kind.seconds)
    assert times.seconds == pytest.approx(sum(kind.seconds for kind in times.kinds))


def test_the_command(checkpoints: dict[int, Path], hatvid: Callable[..., Any]) -> None:
    asked = ("bench", "--operators", "--model", checkpoints[2], "--size", "48x32")
    done = hatvid(*asked, "--markdown", "--rounds", "1", "--threads", "1")
    assert (done.code, done.err) == (0, "")
    told, *table = done.out.splitlines()
    assert "48x32, OpenVINO fp32, 1 threads" in told
    shares = [int(line.split("|")[4].strip("% ")) for line in table if "%" in line]
    assert 97 <= sum(shares) <= 103
    found = json.loads(hatvid(*asked, "--json", "-").out)
    assert {kind["name"] for kind in found["kinds"]} >= {"matrix products", "convolutions"}
    assert found["precision"] == "fp32"
    if native_bf16():
        done = hatvid(*asked, "--precision", "bf16", "--rounds", "1")
        assert (done.code, done.err) == (0, "")
        assert "OpenVINO bf16" in done.out
    refused = hatvid(*asked, "--precision", "fp16")
    assert (refused.code, refused.out) == (2, "")
    assert "engine openvino does not compute in fp16; choose bf16 or fp32" in refused.err
    refused = hatvid(*asked, "--size", "64x64")
    assert refused.code == 2
    assert "one model and one size" in refused.err
