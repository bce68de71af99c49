"""What each kind of operator takes of one run of OpenVINO's engine, by its own clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch

from hatvid.bench.machine import default_threads
from hatvid.bench.material import network
from hatvid.engine import TileSpec
from hatvid.engine.openvino import OpenVINOEngine, Operator
from hatvid.model.forms import Forms
from hatvid.model.hat import HAT

__all__ = ["Kind", "OperatorTimes", "kind_of", "operator_times"]

_KINDS = {
    "Convolution": "convolutions",
    "FullyConnected": "matrix products",
    "MatMul": "matrix products",
    "MVN": "LayerNorm",
    "Gather": "gathers into windows and back",
    "Transpose": "transposes and other layouts",
    "Reorder": "transposes and other layouts",
    "Subgraph": "sums, products and activations, fused",
    "Eltwise": "sums, products and activations, fused",
}
_ATTENTION, _REST = "attention: both products, bias and softmax, fused", "the rest"
_FUSED_ATTENTION = ("Subgraph", "ScaledDotProductAttention", "MHA")


def kind_of(operator: Operator) -> str:
    """What an operator does, by OpenVINO's type of it and the module that it comes from."""
    if operator.type in _FUSED_ATTENTION and "attn/" in operator.name:
        return _ATTENTION
    return _KINDS.get(operator.type, _REST)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Operators of one kind."""

    name: str
    count: int
    """That took any time; those that only name memory do not."""

    seconds: float
    """Of one run, the median over the runs."""


@dataclass(frozen=True, kw_only=True)
class OperatorTimes:
    """Of one network and size."""

    model: str
    width: int
    height: int
    precision: str
    threads: int
    runs: int
    kinds: tuple[Kind, ...]
    """The longest first."""

    @property
    def seconds(self) -> float:
        """Of all."""
        return sum(kind.seconds for kind in self.kinds)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return vars(self) | {"kinds": [vars(kind) for kind in self.kinds]}


def operator_times(
    model: str,
    width: int,
    height: int,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    scale: int | None = None,
    threads: int | None = None,
    runs: int = 7,
) -> OperatorTimes:
    """Run a network as OpenVINO's engine has it, with its clocks on.

    Args:
        model: as for a race.
        width: of the tile.
        height: of the tile.
        precision: what the engine computes in.
        scale: of a network without a checkpoint.
        threads: of the CPU; None is as many as the engine takes.
        runs: that are counted, after one that is not.

    Raises:
        OptionError: there is no such network.
        EngineError: OpenVINO cannot run it, or not in that precision here.
    """
    found = network(model, scale)
    net = HAT(found.config).eval()
    net.load_state_dict(found.published.state_dict(), strict=True)
    threads = threads or default_threads()
    spec = TileSpec(
        batch=1,
        height=height,
        width=width,
        scale=found.config.upscale,
        device=torch.device("cpu"),
    )
    engine = OpenVINOEngine(
        Forms(net).form("fp32", compiler=True),
        spec,
        precision=precision,
        fingerprint="",
        cache_dir=None,
        threads=threads,
        clocked=True,
    )
    try:
        tiles = torch.rand(spec.input_shape, generator=torch.Generator().manual_seed(0))
        engine.run(tiles)
        found_runs = []
        for _ in range(runs):
            engine.run(tiles)
            found_runs.append(engine.operators())
    finally:
        engine.close()
    return OperatorTimes(
        model=found.name,
        width=width,
        height=height,
        precision=precision,
        threads=threads,
        runs=runs,
        kinds=_summed(found_runs),
    )


def _summed(runs: Iterable[Iterable[Operator]]) -> tuple[Kind, ...]:
    seconds: dict[str, list[float]] = defaultdict(list)
    counts: dict[str, int] = {}
    for run in runs:
        sums: dict[str, float] = defaultdict(float)
        numbers: dict[str, int] = defaultdict(int)
        for operator in run:
            if operator.seconds > 0:
                sums[kind_of(operator)] += operator.seconds
                numbers[kind_of(operator)] += 1
        for name, total in sums.items():
            seconds[name].append(total)
            counts[name] = max(counts.get(name, 0), numbers[name])
    kinds = [
        Kind(name=name, count=counts[name], seconds=median(times))
        for name, times in seconds.items()
    ]
    return tuple(sorted(kinds, key=lambda kind: -kind.seconds))
