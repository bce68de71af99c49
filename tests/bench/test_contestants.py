"""Who takes part, and what all are given."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hatvid.bench.contestants import CONTESTANTS, REFERENCE, chosen, tile_shape
from hatvid.bench.machine import allowed_cpus, default_threads, machine_facts, pinned_cpus
from hatvid.bench.material import Network, moving_frames, published_flops, redraw
from hatvid.bench.material import network as named
from hatvid.bench.networks import published
from hatvid.bench.runner import Frames, Task
from hatvid.engine.settings import cpu_threads
from hatvid.errors import OptionError
from hatvid.model.hat import HAT, HATConfig


def names(*wanted: str, clip: bool = False, quick: bool = False) -> set[str]:
    return {one.name for one in chosen(CONTESTANTS, wanted, clip=clip, quick=quick)}


ALWAYS = {REFERENCE, "matrix product fp32", "matrix product bf16"}


def test_all_that_the_race_is_about_take_part() -> None:
    everybody = names()
    assert everybody >= ALWAYS | {"published compiled", "onnxruntime", "vs-mlrt", "hatvid auto"}
    assert not [name for name in everybody if "tile" in name or "halves" in name]
    assert everybody - names(quick=True) == {"published compiled"}
    assert len({one.name for one in CONTESTANTS}) == len(CONTESTANTS)


def test_rivals_have_tiles_in_clips() -> None:
    tiles = {"vs-mlrt tile 64+8", "vs-mlrt tile 128+16", "vs-mlrt halves+16", "vs-mlrt halves+32"}
    assert tiles | {"vs-mlrt"} <= names(clip=True)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"fp16": True, "streams": 2}, (180, 320)),
        ({"tile": 64, "overlap": 8}, (64, 64)),
        # Two with no pixel computed for nothing: 176 + 176 - 2 * 16 = 320.
        ({"halves": 1, "overlap": 16}, (180, 176)),
        ({"halves": 1, "overlap": 32}, (180, 192)),
        ({"halves": 1, "overlap": 8}, (180, 176)),
    ],
)
def test_shapes_of_tiles(settings: dict[str, int], shape: tuple[int, int]) -> None:
    assert tile_shape(settings, 180, 320) == shape


def test_chosen_by_parts_of_names() -> None:
    assert names("OpenVINO") == ALWAYS | {"hatvid openvino fp32", "hatvid openvino bf16"}
    assert "published compiled" in names("compiled", quick=True)
    with pytest.raises(OptionError, match=r"no contestant is called 'zebra'; there are .*vs-mlrt"):
        names("hatvid", "zebra")


@pytest.mark.parametrize("build", sorted({one.build for one in CONTESTANTS}))
def test_what_builds_them_is_there(build: str) -> None:
    module, _, function = build.partition(":")
    name = module.rpartition(".")[2]
    if name.startswith("vs_"):
        # Importing it is that process's business; but the function must be in it.
        path = Path(str(import_module("hatvid.bench").__file__)).with_name(f"{name}.py")
        assert f"def {function}(" in path.read_text(encoding="utf-8")
    else:
        assert callable(getattr(import_module(module), function))


def test_a_task_travels_as_json(given: Task) -> None:
    import json

    assert Task.from_dict(json.loads(json.dumps(given.as_dict()))) == given


def test_weights_are_those_of_the_published_network(
    given: Task, network: Network, small: HATConfig
) -> None:
    ours = HAT(HATConfig(**given.network)).eval()
    ours.load_state_dict(load_file(given.weights), strict=True)
    picture = torch.from_numpy(np.load(given.frames))
    with torch.no_grad():
        wanted = network.published(picture)
        assert (ours(picture) - wanted).abs().max() < 1e-4
    assert 0.05 < float(wanted.std()) < 0.8


def test_every_part_of_a_redrawn_network_is_seen(small: HATConfig) -> None:
    # A CAB that weighs something, with a channel attention of which not all is below zero.
    visible = replace(small, conv_scale=0.5, squeeze_factor=1)
    theirs = published(visible)
    redraw(theirs, visible)
    picture = moving_frames(1, 32, 32)
    with torch.no_grad(), cpu_threads(1):  # for such small maps more only wait for each other
        before = theirs(picture)
        for name, value in theirs.named_parameters():
            kept = value.clone()
            value.zero_()
            change = float((theirs(picture) - before).abs().max())
            assert change > 1e-4 or name == "conv_last.bias", name  # which is zero
            value.copy_(kept)


def test_no_frame_is_met_twice(given: Task) -> None:
    frames = Frames.of(given)
    shown = [frames.base[:1], frames.base[1:], *(frame.copy() for frame in frames.take(9))]
    for number, one in enumerate(shown):
        for other in shown[:number]:
            assert (one != other).all() or np.abs(one - other).mean() > 1e-3
    assert np.array_equal(frames.number(1), frames.base[1:])
    assert np.abs(shown[-1] - shown[1]).max() < 1e-4 or len(frames.base) > 1


def test_flops_are_the_published_ones_without_padding(network: Network, small: HATConfig) -> None:
    whole = published_flops(network.published, small, 32, 32)
    assert published_flops(network.published, small, 24, 28) == pytest.approx(
        whole * 24 * 28 / 32**2
    )
    # Two for each multiply-add of one 3x3 convolution alone are less than all.
    assert whole > 2 * 9 * 3 * small.embed_dim * 32**2


@pytest.mark.long
def test_hat_s_costs_what_the_paper_says() -> None:
    # 54.9 G multiply-adds with LayerNorms and pooling, which are not counted here.
    config = HATConfig.hat_s()
    assert published_flops(published(config), config, 64, 64) == pytest.approx(2 * 54.6e9, rel=0.01)


def test_a_checkpoint_races_with_its_weights() -> None:
    found = named("hat-nano-x4")
    assert found.trained
    with pytest.raises(OptionError, match="upscales by 4"):
        named("hat-nano-x4", 2)
    fresh = named("hat-nano", 2)
    assert not fresh.trained
    assert fresh.config == replace(found.config, upscale=2)


def test_the_machine() -> None:
    facts = machine_facts(1)
    assert facts["cpu"]
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0] or facts["versions"]
    assert 1 <= default_threads() <= len(allowed_cpus())
    cpus = pinned_cpus(1)
    assert cpus is None or len(cpus) == 1
