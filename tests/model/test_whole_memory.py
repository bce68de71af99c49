"""What a whole frame takes is what is said of it, and little."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hatvid.engine.memory import _LiveBytes
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.precision import lower_precision, plan_rescale
from hatvid.model.tail import collapse_tail
from hatvid.model.whole import WholeFrame
from hatvid.model.whole_memory import live_bytes

NETWORKS = {
    "hat": HATConfig(depths=(2,), num_heads=(6,)),
    "hat-s x2": HATConfig(
        embed_dim=144,
        depths=(2,),
        num_heads=(6,),
        compress_ratio=24,
        squeeze_factor=24,
        upscale=2,
    ),
    "wide tail": HATConfig(embed_dim=24, depths=(1,), num_heads=(2,), squeeze_factor=4),
}

SIZES = {
    "maps": (320, 400, {}),
    "chunk": (64, 320, {"chunk": 256}),
    "strips": (70, 640, {"chunk": 16}),
    "batch": (50, 200, {"batch": 3, "chunk": 24, "strip": 16}),
}

FORMS = [
    ("hat", "fp32"),
    ("hat", "fp16"),
    ("hat", "bf16"),
    ("hat-s x2", "fp16, stream in fp32"),
    ("wide tail", "fp32"),
    ("wide tail", "collapsed"),
]


def formed(name: str, kind: str) -> HAT:
    network = HAT(NETWORKS[name]).eval().requires_grad_(False)
    if kind == "fp32":
        return network
    collapsed = collapse_tail(network)
    if kind == "collapsed":
        return collapsed
    plan = plan_rescale(collapsed, torch.rand(1, 3, 16, 16))
    plan = replace(plan, residual_fp32=kind != "fp16")
    return lower_precision(collapsed, torch.bfloat16 if kind == "bf16" else torch.float16, plan)


@pytest.fixture(scope="module", params=FORMS, ids=", ".join)
def form(request: pytest.FixtureRequest) -> HAT:
    return formed(*request.param)


@pytest.mark.parametrize("size", SIZES)
def test_counted_and_said(form: HAT, size: str) -> None:
    height, width, settings = SIZES[size]
    batch = settings.get("batch", 1)
    sizes = {name: value for name, value in settings.items() if name != "batch"}
    whole = WholeFrame(form, **sizes)
    live = _LiveBytes()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), live:
        whole.prepare(height, width)(torch.empty(batch, 3, height, width))
    said = live_bytes(form, height, width, **settings)
    assert said == pytest.approx(live.peak, rel=0.15)


def test_three_maps_and_little_more() -> None:
    """A 1080p frame of the published HAT, in 4.5 GB of maps."""
    model = collapse_tail(HAT(HATConfig.hat()).eval())
    three = 3 * 1088 * 1920 * 180 * 4
    assert three < live_bytes(model, 1080, 1920) < 1.15 * three


RESIDENT = """
import re, sys, torch
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.whole import WholeFrame
torch.set_num_threads(1)
config = HATConfig(embed_dim=24, depths=(2,), num_heads=(2,), squeeze_factor=4, num_feat=16)
model = HAT(config).eval()
if sys.argv[1] == "whole":
    model = WholeFrame(model)
with torch.inference_mode():
    model(torch.rand(1, 3, 64, 64))
    # Not ru_maxrss, which knows the peak of the process that this one was forked from.
    peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
    before = peak()
    model(torch.rand(1, 3, 320, 320))
    print((peak() - before) * 1024)
"""


def resident(form: str) -> int:
    """Bytes by which a process grows at most with a frame of 320x320."""
    # glibc gives back what is freed only above a size that it changes as it likes.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}
    command = [sys.executable, "-c", RESIDENT, form]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_stays_small() -> None:
    plain, whole = resident("plain"), resident("whole")
    config = HATConfig(embed_dim=24, depths=(2,), num_heads=(2,), squeeze_factor=4, num_feat=16)
    said = live_bytes(HAT(config).eval(), 320, 320)
    assert 0 < whole < plain / 4
    assert whole < said
