"""What frames take in memory is what is said of it, and in chunks it is little."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import hatvid.jobs.enlarge
from hatvid.engine import TileSpec
from hatvid.engine.memory import _LiveBytes, count_prepared, count_run
from hatvid.frame_memory import (
    COLOR_MAPS,
    PLANE_BYTES,
    RGB_BYTES,
    WAITING,
    network_bytes,
    pieces_by_size,
    recorded_frame_bytes,
    tile_bytes,
)
from hatvid.model.attention_form import with_attention
from hatvid.model.hat import HAT, HATConfig
from hatvid.model.padded import pad_channels
from hatvid.model.precision import lower_precision, plan_rescale
from hatvid.model.shallow import shallow
from hatvid.model.tail import collapse_tail
from hatvid.model.whole import CHUNK, STRIP, Pieces, WholeFrame
from hatvid.tiling import Canvas, TilePlan
from hatvid.video.color import ColorTags, assumed, rgb_to_planes
from hatvid.video.convert import PlaneLayout

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


def spec_of(height: int, width: int, batch: int = 1) -> TileSpec:
    return TileSpec(batch=batch, height=height, width=width, scale=4)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_counted_on_a_part_is_what_the_whole_takes(form: HAT, size: str) -> None:
    """Of the network's blocks a few, and of the pieces of the map."""
    height, width, settings = SIZES[size]
    spec = spec_of(height, width, settings.get("batch", 1))
    pieces = {name: value for name, value in settings.items() if name != "batch"}
    whole = WholeFrame(form, **pieces)
    counted = count_run(whole, spec)
    said = network_bytes(whole, spec, on_gpu=False)
    assert said == pytest.approx(counted.prepared + counted.maps, rel=0.06)


@pytest.mark.parametrize("attention", ["sdpa", "triton"])
def test_a_deep_network_takes_no_more_for_maps(attention: str) -> None:
    config = HATConfig(embed_dim=24, depths=(3, 2), num_heads=(2, 2), squeeze_factor=4)
    model = with_attention(pad_channels(HAT(config).eval()), attention)
    spec = spec_of(160, 192)
    for network in (model, WholeFrame(model, chunk=30, strip=40)):
        counted = count_run(network, spec, on_gpu=True)
        weights = sum(p.nbytes for p in network.parameters())
        said = network_bytes(network, spec, on_gpu=True)
        assert said == pytest.approx(counted.prepared + counted.maps + weights, rel=0.03)
    assert len(list(shallow(model).modules())) < len(list(model.modules()))
    assert count_prepared(model, spec) > count_prepared(shallow(model), spec)


def test_attention_is_counted_as_one_kernel_where_a_gpu_has_one() -> None:
    """Heads of 12 in fp32: of 16 bytes' multiples; of 10: not."""
    spec = spec_of(64, 64)
    scores = 16 * 2 * 256 * 576 * 4  # OCAB's, of two heads

    def maps(dim: int) -> int:
        config = HATConfig(embed_dim=dim, depths=(1,), num_heads=(2,), squeeze_factor=4, num_feat=4)
        return count_run(HAT(config).eval(), spec, on_gpu=True).maps

    assert maps(24) < scores < maps(20)


def test_blocks_of_the_allocator_are_counted_on_a_gpu() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[:, :1]] * 2, 1)

    spec = TileSpec(batch=1, height=10, width=13, scale=1)
    large = TileSpec(batch=1, height=600, width=1000, scale=1)
    assert count_run(Net(), spec).maps == (3 + 2) * 130 * 4
    assert count_run(Net(), spec, on_gpu=True).maps == 2048 + 1536
    assert count_run(Net(), large).maps == (3 + 2) * 600_000 * 4
    assert count_run(Net(), large, on_gpu=True).maps == (4 + 3) * 2**21


def test_a_tile_of_any_size() -> None:
    config = HATConfig(embed_dim=24, depths=(2,), num_heads=(2,), squeeze_factor=4)
    model = HAT(config).eval()
    fixed, each = tile_bytes(model, 4, on_gpu=True)
    for height, width in ((64, 256), (320, 256)):
        needed = network_bytes(model, spec_of(height, width), on_gpu=True)
        assert fixed + each * height * width == pytest.approx(needed, rel=0.15)


def test_a_frame_is_cut_into_halves_until_it_is_cut_as_for_a_cpu() -> None:
    cuts = list(pieces_by_size(spec_of(720, 1280), 16))
    assert cuts[:2] == [Pieces(1800, 360), Pieces(900, 180)]
    assert cuts[-1] == Pieces(CHUNK, STRIP)
    assert list(pieces_by_size(spec_of(16, 64), 16)) == []


def test_three_maps_and_little_more() -> None:
    """A 1080p frame of the published HAT, in 4.5 GB of maps."""
    config = HATConfig(depths=(2,), num_heads=(6,))
    whole = WholeFrame(collapse_tail(HAT(config).eval()))
    three = 3 * 1088 * 1920 * 180 * 4
    assert three < network_bytes(whole, spec_of(1080, 1920), on_gpu=False) < 1.15 * three


LAYOUTS = [
    PlaneLayout(
        pix_fmt="yuv420p", family="yuv", depth=8, log2_chroma_w=1, log2_chroma_h=1,
        plane_order=(0, 1, 2),
    ),
    PlaneLayout(pix_fmt="yuv444p16", family="yuv", depth=16, plane_order=(0, 1, 2)),
    PlaneLayout(pix_fmt="gbrp16", family="rgb", depth=16, plane_order=(2, 0, 1)),
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.pix_fmt)
def test_what_stands_around_the_network_is_enough(layout: PlaneLayout) -> None:
    """RGB maps where a frame is put together and becomes planes, and a slot's planes."""
    height, width, scale = 96, 160, 4
    plan = TilePlan.make(height, width, tile=0, overlap=0)
    tags = assumed(ColorTags(matrix=0 if layout.family == "rgb" else 1), layout, height, width)
    live = _LiveBytes()
    larger = torch.empty(1, 3, height * scale, width * scale)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), live:
        canvas = Canvas(plan, 1, scale=scale)
        canvas.extend(larger)
        planes = rgb_to_planes(canvas.frames, layout, tags)
    pixels = larger.numel() // 3
    assert live.peak <= COLOR_MAPS * pixels * RGB_BYTES
    assert sum(plane.nbytes for plane in planes) <= PLANE_BYTES * pixels
    assert recorded_frame_bytes(1, 1, 2) - recorded_frame_bytes(1, 1, 1) > 0
    assert hatvid.jobs.enlarge.WRITE_BEHIND + 1 == WAITING


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
    said = network_bytes(WholeFrame(HAT(config).eval()), spec_of(320, 320), on_gpu=False)
    assert 0 < whole < plain / 4
    assert whole < said
