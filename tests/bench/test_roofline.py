"""The roofline of operators that one can work out in the head."""

from __future__ import annotations

import pytest
import torch

from hatvid.bench.costs import Operator
from hatvid.bench.roofline import GPU, GPUS, roofline

TOY = GPU(name="toy", tensor=100.0, fp32=10.0, bandwidth=5.0)


def operator(**given: int | torch.dtype) -> Operator:
    return Operator(**{"name": "x", "dtype": torch.float16, **given})  # type: ignore[arg-type]


def test_a_pure_product_takes_its_flops_at_the_peak_of_its_precision() -> None:
    assert roofline([operator(flops=200)], TOY) == 2.0
    assert roofline([operator(flops=200, dtype=torch.bfloat16)], TOY) == 2.0
    assert roofline([operator(flops=200, dtype=torch.float32)], TOY) == 20.0


def test_what_only_moves_takes_its_bytes_both_ways() -> None:
    assert roofline([operator(read=10, written=15, elements=10**9)], TOY) == 5.0


def test_the_longer_of_the_two_counts_for_each_operator_by_itself() -> None:
    bound_by_flops, bound_by_bytes = operator(flops=300, read=5), operator(flops=100, read=10)
    assert roofline([bound_by_flops], TOY) == 3.0
    assert roofline([bound_by_bytes], TOY) == 2.0
    assert roofline([bound_by_flops, bound_by_bytes], TOY) == 5.0  # not max(4, 3)


def test_launches_are_no_part_of_it() -> None:
    assert roofline([operator(launches=1000)], TOY) == 0.0


@pytest.mark.parametrize(
    ("name", "cores", "clock", "tensor", "bus", "rate"),
    [
        # SMs, boost clock, dense fp16 multiply-adds a clock and SM with sums in fp32, bus
        # width in bits, bits a second and pin.
        ("H100 SXM", 132, 1.83e9, 2048, 5120, 5.23e9),
        ("RTX 4090", 128, 2.52e9, 256, 384, 21e9),
        ("RTX 3060", 28, 1.777e9, 256, 192, 15e9),
    ],
)
def test_figures_follow_from_units_and_clocks(
    name: str, cores: int, clock: float, tensor: int, bus: int, rate: float
) -> None:
    (gpu,) = [gpu for gpu in GPUS if gpu.name == name]
    assert gpu.tensor == pytest.approx(2 * cores * tensor * clock, rel=0.01)
    assert gpu.bandwidth == pytest.approx(bus / 8 * rate, rel=0.01)
    # fp32: 128 multiply-adds a clock and SM; the H100's is quoted at 1.98 GHz.
    assert gpu.fp32 == pytest.approx(2 * cores * 128 * clock, rel=0.09)
